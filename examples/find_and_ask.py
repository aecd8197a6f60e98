"""Answers from an album without naming an image: search finds the images, and each of them is asked.

What retrieval-augmented generation does with passages, with rows: a search by text gives the nearest images, those
below a cut-off are dropped, and the question goes to what is left. Nothing opens an image.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import fwd2bot
from fwd2bot.engine import ask, compress_images, search

ALBUM = Path(fwd2bot.__file__).parent / "bundled/album"
CUT_OFF = 0.35  # of the cosine
WANTED = {
    "a picture of four lions": "what is at the top left?",
    "a burger and a large star": "where is the burger?",
    "two cars on orange": "what is at the top right?",
}

with TemporaryDirectory() as folder:
    model = fwd2bot.load("emoji-world")
    compress_images(model, [ALBUM], Path(folder, "album.store"))
    store = fwd2bot.Store.open(Path(folder, "album.store"))
    for found, question in zip(search(model, store, WANTED, top=2), WANTED.values(), strict=True):
        print(f"{found.query}: {question}")
        near = [(image, score) for image, score in found.results if score >= CUT_OFF]
        replies = ask(model, store, [(image, question) for image, _ in near])
        for (image, score), reply in zip(near, replies, strict=True):
            print(f"  {score:.2f}  {image:15} {reply.text}")
