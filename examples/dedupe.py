"""Pictures that show the same: pairs of rows whose vectors are nearly alike, whatever the files are.

To the sample album three copies are added that no comparison of files would find: smaller, blurred, and as a JPEG of
poor quality. Cosines of all pairs of rows are one product.
"""

from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageFilter

import fwd2bot
from fwd2bot.engine import compress_images

ALBUM = Path(fwd2bot.__file__).parent / "bundled/album"
ALIKE = 0.95  # of the cosine

with TemporaryDirectory() as folder:
    photos = copytree(ALBUM, Path(folder, "photos"))
    Image.open(photos / "crown.png").resize((72, 72)).save(photos / "crown-small.png")
    Image.open(photos / "camera.png").filter(ImageFilter.GaussianBlur(0.7)).save(photos / "camera-blurred.png")
    Image.open(photos / "pizza.png").convert("RGB").save(photos / "pizza-poor.jpg", quality=40)
    model = fwd2bot.load("emoji-world")
    compress_images(model, [photos], Path(folder, "album.store"))
    store = fwd2bot.Store.open(Path(folder, "album.store"))
    names = store.names()
    vectors = np.stack([row.vector for row in store.get(names)])  # (rows, D), unit norm
    cosines = np.triu(vectors @ vectors.T, k=1)
    pairs = np.argwhere(cosines >= ALIKE)
    print(f"{len(names)} pictures, {len(pairs)} pairs alike")
    for one, other in pairs:
        print(f"{cosines[one, other]:.2f}  {names[one]}  {names[other]}")
    apart = cosines[cosines < ALIKE].max()
    print(f"the nearest of the others: {apart:.2f}")
