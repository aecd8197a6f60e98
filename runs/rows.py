"""Bytes a row against answers and retrieval: every quantiser on the same tokens, of the bundled model's test scenes.

    python runs/rows.py        # a quarter of an hour on two cores; writes results/rows.json

Expected: int2 tokens answer as well as float32, binary ones some points worse. Tokens and vectors are computed once,
then each quantiser encodes and decodes them as a store does; questions are answered from what comes back. Retrieval is
text to image and back among scenes of which half are near duplicates of the other half. `tools/store_tables.py` makes
the table of docs/store.md from it.
"""

import argparse
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fwd2bot.data.world import Scene, make_scene, questions
from fwd2bot.evaluation.embedders import as_embedder
from fwd2bot.evaluation.world import gallery, kind_scores, pictures, retrieval_scores, scene_vectors, write_result
from fwd2bot.model import Fwd2Bot, load
from fwd2bot.provenance import provenance
from fwd2bot.store.quantise import QUANTISERS

ALLOWED = 0.5
"""Points that the default may lose, of answers, and of retrieval either way."""
SHAPES = {"bundled": (16, 256), "7B": (16, 4096)}
"""Tokens of a row, and numbers of a token."""
THUMBNAIL = 96
"""Pixels of its side, half of the picture's."""
Floats = NDArray[np.float32]


def compressed(model: Fwd2Bot, scenes: Sequence[Scene], at_once: int = 50) -> Floats:
    """(N, K, D) tokens of the scenes' pictures."""
    parts = (scenes[first : first + at_once] for first in range(0, len(scenes), at_once))
    return np.concatenate([model.compress(pictures(part)).float().cpu().numpy() for part in parts])


def answer_score(model: Fwd2Bot, scenes: Sequence[Scene], tokens: Floats) -> float:
    """Exact match in per cent, the mean over kinds of questions."""
    asked = [(row, question) for row, scene in enumerate(scenes) for question in questions(scene)]
    answers = model.answer(tokens[[row for row, _ in asked]], [question.text for _, question in asked])
    return kind_scores(zip((question for _, question in asked), answers, strict=True))["mean"]


def recalls(images: Floats, texts: Floats) -> dict[str, float]:
    scores = retrieval_scores(images, texts)
    return {name: scores[f"{name}_R@1"] for name in ("text_to_image", "image_to_text")}


def figures(model: Fwd2Bot, scenes: Sequence[Scene], tokens: Floats, images: Floats, texts: Floats) -> dict[str, Any]:
    """By quantiser, and of what none has touched: answers, retrieval, bytes.

    tokens (N, K, D) of the scenes; images (I, D) and texts (5 I, D): unit vectors to search with.
    """
    found: dict[str, Any] = {"float32": {"answers": answer_score(model, scenes, tokens), **recalls(images, texts)}}
    for name, codec in QUANTISERS.items():
        found[name] = {"answers": answer_score(model, scenes, codec.decode(codec.encode(tokens)))}
        vectors = codec.decode(codec.encode(images))
        found[name] |= recalls(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), texts)
        for shape, (count, width) in SHAPES.items():
            found[name][f"token_bytes_{shape}"] = count * codec.token_bytes(width)
            found[name][f"vector_bytes_{shape}"] = codec.token_bytes(width)
    return found


def defaults(found: dict[str, Any]) -> dict[str, str]:
    """The smallest quantiser of tokens, and of vectors, that loses at most `ALLOWED` of what leans on it."""
    whole = found["float32"]
    leaning = {"token": ("answers",), "vector": ("text_to_image", "image_to_text")}
    return {
        part: min(
            (name for name in QUANTISERS if all(found[name][score] >= whole[score] - ALLOWED for score in scores)),
            key=lambda name: found[name][f"{part}_bytes_bundled"],
        )
        for part, scores in leaning.items()
    }


def file_bytes(images: Sequence[Image.Image]) -> dict[str, float]:
    """Bytes of the pictures as files, on average."""
    small = [image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS) for image in images]
    return {
        "PNG": float(np.mean([_encoded(image, "PNG", optimize=True) for image in images])),
        "JPEG": float(np.mean([_encoded(image, "JPEG", quality=85) for image in images])),
        "thumbnail": float(np.mean([_encoded(image, "JPEG", quality=75) for image in small])),
    }


def _encoded(image: Image.Image, kind: str, **options: Any) -> int:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.tell()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-world", help="bundled name or folder (default: emoji-world)")
    parser.add_argument("--scenes", type=int, default=500, help="that are asked about (default: 500)")
    parser.add_argument("--gallery", type=int, default=1000, help="that are searched, an even number (default: 1000)")
    parser.add_argument("--out", type=Path, default=Path("results/rows.json"))
    options = parser.parse_args(arguments)
    began = time.monotonic()
    model = load(options.model)
    scenes, searched = [make_scene("test", index) for index in range(options.scenes)], gallery(options.gallery)
    found = figures(model, scenes, compressed(model, scenes), *scene_vectors(as_embedder(model), searched))
    result = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "scenes": options.scenes,
        "gallery": options.gallery,
        "seconds": round(time.monotonic() - began),
        **provenance(),
        "files": file_bytes(pictures(scenes[:100])),
        "defaults": defaults(found),
        "figures": found,
    }
    write_result(result, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
