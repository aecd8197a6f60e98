"""How many tokens an image: right answers and bytes of a row, for one model cut short and for one trained for four.

emoji-world offers 16 tokens, or the first 4 of them from the same row; emoji-world-4 was trained for 4 alone. All are
put the questions of the sample album.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import fwd2bot
from fwd2bot.engine import ask, compress_images

ALBUM = Path(fwd2bot.__file__).parent / "bundled/album"
lines = [json.loads(line) for line in (ALBUM / "questions.jsonl").read_text("utf-8").splitlines()]
questions = [(line["image"], line["question"]) for line in lines]

print("model", "tokens", "bytes of tokens", "right", sep="\t")
with TemporaryDirectory() as folder:
    for name in ("emoji-world", "emoji-world-4"):
        model = fwd2bot.load(name)
        compress_images(model, [ALBUM], Path(folder, name))
        store = fwd2bot.Store.open(Path(folder, name))
        for count in sorted(model.token_counts, reverse=True):
            replies = ask(model, store, questions, num_tokens=count)
            right = [reply.text == line["answer"] for reply, line in zip(replies, lines, strict=True)]
            size = count * store.header.quantiser.token_bytes(model.width)
            print(name, count, size, f"{sum(right)} of {len(right)}", sep="\t")
