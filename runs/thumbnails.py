"""What the plain base makes of small JPEG files: points of reference for rows of as many bytes.

    python runs/thumbnails.py        # 200 scenes, four sizes: seven minutes on one core

Each size is a side in pixels: the picture is made so small, kept as a JPEG file, opened again and given to the base of
a model with all of its visual tokens, which answers; for retrieval it is asked for one word.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fwd2bot.data.world import Scene, captions, make_scene
from fwd2bot.errors import Fwd2BotError
from fwd2bot.evaluation.embedders import Embedder, as_embedder
from fwd2bot.evaluation.world import answer_scores, gallery, pictures, retrieval_scores, write_result
from fwd2bot.model import Fwd2Bot, find_model, load
from fwd2bot.provenance import provenance

RESULT = Path("results/thumbnails.json")
SIDES = (192, 96, 64, 32)
"""The first is the size that the world's pictures have: the JPEG itself."""
QUALITY = 85


def jpeg(picture: Image.Image, side: int) -> bytes:
    """A picture of so many pixels a side as a file."""
    buffer = io.BytesIO()
    small = picture if picture.width == side else picture.resize((side, side), Image.Resampling.LANCZOS)
    small.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def thumbnails(scenes: Sequence[Scene], side: int) -> list[Image.Image]:
    """What those files show."""
    return [Image.open(io.BytesIO(jpeg(picture, side))).convert("RGB") for picture in pictures(scenes)]


def measure(model: Fwd2Bot, count: int, sides: Sequence[int]) -> list[dict[str, Any]]:
    """By side: bytes of a file, and the figures of answers and of retrieval."""
    test, searched, embedder = [make_scene("test", index) for index in range(count)], gallery(count), as_embedder(model)
    size = embedder.batch_size
    texts = [text for scene in searched for text in captions(scene)]
    wanted = np.concatenate([embedder.embed_texts(texts[at : at + size]) for at in range(0, len(texts), size)])
    points = []
    for side in sides:
        files = [len(jpeg(picture, side)) for picture in pictures(test)]
        found = {
            "test": answer_scores(model, test, show=partial(thumbnails, side=side)),
            "retrieval": retrieval_scores(_vectors(embedder, searched, side), wanted),
        }
        points.append({"side": side, "bytes": round(sum(files) / len(files)), "figures": found})
    return points


def _vectors(embedder: Embedder, scenes: Sequence[Scene], side: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(N, D) of the scenes' small pictures."""
    size = embedder.batch_size
    parts = [scenes[at : at + size] for at in range(0, len(scenes), size)]
    return np.concatenate([embedder.embed_images(thumbnails(part, side)) for part in parts])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="a plain LLaVA; default: the bundled model's base")
    parser.add_argument("--scenes", type=int, default=200, help="an even number; default: 200")
    parser.add_argument("--side", type=int, action="append", help=f"pixels; default: {SIDES}")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    if options.scenes < 2 or options.scenes % 2:
        parser.error(f"--scenes is {options.scenes}; it must be even, and at least 2")
    try:
        model = load(options.base or find_model("emoji-world") / "base")
        told = {"model": model.name, "fingerprint": model.fingerprint, "quality": QUALITY}
        points = measure(model, options.scenes, options.side or SIDES)
    except Fwd2BotError as error:
        print(f"fwd2bot: {error}", file=sys.stderr)
        return error.exit_code
    write_result(
        {**told, "images": options.scenes, "gallery": options.scenes, **provenance(), "points": points}, options.out
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
