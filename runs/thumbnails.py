"""What the plain base makes of small JPEG files: points of reference for rows of as many bytes.

    python runs/thumbnails.py        # 200 scenes, four sizes: seven minutes on one core; resumable

Each size is a side in pixels: the picture is made so small, kept as a JPEG file, opened again and given to the base of
a model with all of its visual tokens, which answers; for retrieval it is asked for one word.
"""

import argparse
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fwd2bot.data.world import Scene, captions, make_scene
from fwd2bot.errors import Fwd2BotError
from fwd2bot.evaluation.attended import plain_llava
from fwd2bot.evaluation.embedders import Embedder, as_embedder, distinct
from fwd2bot.evaluation.files import write_json
from fwd2bot.evaluation.world import answer_scores, gallery, pictures, retrieval_scores
from fwd2bot.model import Fwd2Bot, load
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


def measure(plain: Fwd2Bot, count: int, sides: Sequence[int]) -> Iterator[dict[str, Any]]:
    """By side: bytes of a file, and the figures of answers and of retrieval."""
    test, searched, embedder = [make_scene("test", index) for index in range(count)], gallery(count), as_embedder(plain)
    size = embedder.batch_size
    texts, places = distinct([text for scene in searched for text in captions(scene)])  # equal ones are embedded once
    once = [embedder.embed_texts(texts[at : at + size]) for at in range(0, len(texts), size)]
    wanted = np.concatenate(once)[places]
    for side in sides:
        files = [len(jpeg(picture, side)) for picture in pictures(test)]
        found = {
            "test": answer_scores(plain, test, show=partial(thumbnails, side=side)),
            "retrieval": retrieval_scores(_vectors(embedder, searched, side), wanted),
        }
        yield {"side": side, "bytes": round(sum(files) / len(files)), "figures": found}


def _vectors(embedder: Embedder, scenes: Sequence[Scene], side: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(N, D) of the scenes' small pictures."""
    size = embedder.batch_size
    parts = [scenes[at : at + size] for at in range(0, len(scenes), size)]
    return np.concatenate([embedder.embed_images(thumbnails(part, side)) for part in parts])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-world", help="its base is measured; default: emoji-world")
    parser.add_argument("--scenes", type=int, default=200, help="an even number; default: 200")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    if options.scenes < 2 or options.scenes % 2:
        parser.error(f"--scenes is {options.scenes}; it must be even, and at least 2")
    try:
        model = load(options.model)
        made = {"base_of": model.name, "fingerprint": model.fingerprint, "quality": QUALITY}
        made |= {"images": options.scenes, "gallery": options.scenes}
        points = there(options.out, made)
        for point in measure(plain_llava(model), options.scenes, [side for side in SIDES if side not in points]):
            points[point["side"]] = point
            write_json(options.out, {**made, **provenance(), "points": list(points.values())})
            print(f"{point['side']} pixels: {point['bytes']} bytes, {point['figures']['test']['mean']:.1f} %")
    except Fwd2BotError as error:
        print(f"fwd2bot: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def there(path: Path, made: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """What was measured before with the same, by side."""
    told = json.loads(path.read_text("utf-8")) if path.exists() else {}
    same = all(told.get(name) == value for name, value in made.items())
    return {point["side"]: point for point in told["points"]} if same else {}


if __name__ == "__main__":
    sys.exit(main())
