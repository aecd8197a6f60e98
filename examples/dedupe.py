"""Pictures that show the same, whatever their files are: groups of rows whose vectors are nearly alike.

To the sample album three copies are added that no comparison of files would find: smaller, blurred, and as a JPEG of
poor quality. It is what `fwd2bot duplicates` prints.
"""

from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory

from PIL import Image, ImageFilter

import fwd2bot
from fwd2bot.engine import compress_images
from fwd2bot.store.duplicates import duplicates

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
    groups = duplicates(store, above=ALIKE)
    print(f"{len(store)} pictures, {len(groups)} groups alike")
    for group in groups:
        print(f"{group.score:.3f}", *group.images, sep="  ")
