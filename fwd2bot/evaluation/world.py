"""The generated world as a benchmark: questions by exact match, and retrieval by COCO's protocol.

    python -m fwd2bot.evaluation.world --model emoji-world --tokens 16 --out results/world/fwd2bot-16.json

One JSON a run: every figure with the commit, the command and the machine that gave it.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fwd2bot.data.world import captions, make_scene, questions, render
from fwd2bot.data.world.scene import Scene, near_duplicate
from fwd2bot.data.world.writers import PICTURE
from fwd2bot.errors import Fwd2BotError, InputError
from fwd2bot.evaluation.metrics import exact_match, recall_at
from fwd2bot.model import Fwd2Bot, load
from fwd2bot.provenance import provenance

BLANK = Image.new("RGB", (PICTURE, PICTURE), (127, 127, 127))


def pictures(scenes: Sequence[Scene]) -> list[Image.Image]:
    """The scenes as files on a disk would show them."""
    return [Image.fromarray(render(scene, size=PICTURE)) for scene in scenes]


def answer_scores(
    model: Fwd2Bot,
    scenes: Sequence[Scene],
    num_tokens: int | None = None,
    *,
    blank: bool = False,
    keep: Sequence[bool] | None = None,
) -> dict[str, float]:
    """Exact match by kind of question, in per cent, one question at a time, and the mean over kinds.

    `blank` shows a grey picture instead: what can be guessed. `keep` (K) hides the other tokens.
    """
    hits: dict[str, list[bool]] = {}
    for first in range(0, len(scenes), 100):
        part = scenes[first : first + 100]
        shown = [BLANK] * len(part) if blank else pictures(part)
        tokens = model.compress(shown, num_tokens=num_tokens)
        asked = [(row, question) for row, scene in enumerate(part) for question in questions(scene)]
        rows = tokens[torch.tensor([row for row, _ in asked])]
        answers = model.answer(rows, [question.text for _, question in asked], keep=keep)
        for (_, question), answer in zip(asked, answers, strict=True):
            hits.setdefault(question.kind, []).append(exact_match(answer, question.answer))
    scores = {kind: 100.0 * sum(found) / len(found) for kind, found in sorted(hits.items())}
    return {**scores, "mean": sum(scores.values()) / len(scores)}


def gallery(images: int, split: str = "test") -> list[Scene]:
    """Scenes for retrieval: every second one is a near duplicate of the one before it."""
    scenes: list[Scene] = []
    for index in range(images // 2):
        scene = make_scene(split, 100_000 + index)
        scenes += [scene, near_duplicate(scene)]
    return scenes


def retrieval_scores(
    images: NDArray[np.float32], texts: NDArray[np.float32], texts_an_image: int = 5
) -> dict[str, float]:
    """Recalls from unit vectors: images (N, D), texts (N * texts_an_image, D) in the images' order."""
    owners = [number // texts_an_image for number in range(len(texts))]
    return recall_at(images @ texts.T, owners)


def model_vectors(
    model: Fwd2Bot, scenes: Sequence[Scene], num_tokens: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors of the scenes' pictures and of their five captions each."""
    images, texts = [], []
    for first in range(0, len(scenes), 100):
        part = scenes[first : first + 100]
        images.append(model.embed(model.compress(pictures(part), num_tokens=num_tokens)))
        texts.append(model.embed([text for scene in part for text in captions(scene)], num_tokens=num_tokens))
    return torch.cat(images).float().numpy(), torch.cat(texts).float().numpy()


def evaluate(model: Fwd2Bot, num_tokens: int | None, images: int, gallery_size: int) -> dict[str, Any]:
    """All figures of a model at one number of tokens."""
    test = [make_scene("test", index) for index in range(images)]
    unseen = [make_scene("composition", index) for index in range(images)]
    figures: dict[str, Any] = {
        "test": answer_scores(model, test, num_tokens),
        "composition": answer_scores(model, unseen, num_tokens),
        "blank": answer_scores(model, test, num_tokens, blank=True),
    }
    if model.embeds_text:
        figures["retrieval"] = retrieval_scores(*model_vectors(model, gallery(gallery_size), num_tokens))
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one JSON a run."""
    parser = argparse.ArgumentParser(prog="python -m fwd2bot.evaluation.world", description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--gallery", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        _check(options.images, options.gallery)
        model = load(options.model)
        figures = evaluate(model, options.tokens, options.images, options.gallery)
        fingerprint = model.fingerprint
    except Fwd2BotError as error:
        print(f"fwd2bot: {error}", file=sys.stderr)
        return error.exit_code
    result = {
        "model": model.name,
        "fingerprint": fingerprint,
        "num_tokens": options.tokens or model.num_tokens,
        "images": options.images,
        "gallery": options.gallery,
        "seconds": round(time.monotonic() - started),
        **provenance(),
        "figures": figures,
    }
    write_result(result, options.out)
    return 0


def write_result(result: Mapping[str, Any], out: Path | None) -> None:
    """A run's JSON to stdout, and to the file `out` where there is one."""
    text = json.dumps(result, indent=1)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
    print(text)


def _check(images: int, gallery_size: int) -> None:
    if images < 1:
        raise InputError(f"--images is {images}; it must be at least 1.")
    if gallery_size < 2 or gallery_size % 2:
        raise InputError(f"--gallery is {gallery_size}; it must be even: each scene has its near duplicate beside it.")


if __name__ == "__main__":
    sys.exit(main())
