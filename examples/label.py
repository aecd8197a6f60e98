"""Labels of images from zero-shot questions: no training, no labelled data, and each image is looked at once.

Every question is put to every row; a picture's labels are the answers. Prints a table that a spreadsheet reads.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import fwd2bot
from fwd2bot.engine import ask, compress_images

ALBUM = Path(fwd2bot.__file__).parent / "bundled/album"
LABELS = {
    "background": "what colour is the background?",
    "objects": "how many objects are there?",
    "sign": "is there a sign?",
    "pattern": "what pattern is behind the objects?",
}

with TemporaryDirectory() as folder:
    model = fwd2bot.load("emoji-world")
    compress_images(model, [ALBUM], Path(folder, "album.store"))
    store = fwd2bot.Store.open(Path(folder, "album.store"))
    replies = ask(model, store, [(image, question) for image in store.names() for question in LABELS.values()])
    answers = {(reply.image, reply.question): reply.text for reply in replies}
    print("image", *LABELS, sep="\t")
    for image in store.names()[:8]:
        print(image, *(answers[image, question] for question in LABELS.values()), sep="\t")
