"""The generated world as a benchmark: questions by exact match, and retrieval by COCO's protocol.

    python -m fwd2bot.evaluation.world --model emoji-world --tokens 16 --out results/world/fwd2bot-16.json

One JSON a run: every figure with the commit, the command and the machine that gave it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fwd2bot.data.world import Question, captions, make_scene, questions, render
from fwd2bot.data.world.scene import Scene, near_duplicate
from fwd2bot.data.world.writers import PICTURE
from fwd2bot.errors import Fwd2BotError, InputError
from fwd2bot.evaluation.embedders import Embedder, as_embedder
from fwd2bot.evaluation.files import write_json
from fwd2bot.evaluation.metrics import exact_match, recall_at
from fwd2bot.evaluation.towers import load_any
from fwd2bot.model import Fwd2Bot
from fwd2bot.provenance import provenance

BLANK = Image.new("RGB", (PICTURE, PICTURE), (127, 127, 127))


def pictures(scenes: Sequence[Scene]) -> list[Image.Image]:
    """The scenes as files on a disk would show them."""
    return [Image.fromarray(render(scene, size=PICTURE)) for scene in scenes]


def blanks(scenes: Sequence[Scene]) -> list[Image.Image]:
    """A grey picture for each: what can be guessed."""
    return [BLANK] * len(scenes)


def answer_scores(
    model: Fwd2Bot,
    scenes: Sequence[Scene],
    num_tokens: int | None = None,
    *,
    show: Callable[[Sequence[Scene]], list[Image.Image]] = pictures,
    keep: Sequence[bool] | None = None,
) -> dict[str, float]:
    """Exact match by kind of question, in per cent, one question at a time, and the mean over kinds.

    `show` makes the pictures of the scenes. `keep` (K) hides the other tokens.
    """
    pairs: list[tuple[Question, str]] = []
    for first in range(0, len(scenes), 100):
        part = scenes[first : first + 100]
        asked = [(row, question) for row, scene in enumerate(part) for question in questions(scene)]
        texts = [question.text for _, question in asked]
        rows_for = model.compress_for_questions(show(part), num_tokens)
        answers = model.answer(rows_for([row for row, _ in asked], texts), texts, keep=keep)
        pairs += zip((question for _, question in asked), answers, strict=True)
    return kind_scores(pairs)


def kind_scores(pairs: Iterable[tuple[Question, str]]) -> dict[str, float]:
    """Exact match by kind of question, in per cent, and the mean over kinds."""
    hits: dict[str, list[bool]] = {}
    for question, answer in pairs:
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
    return recall_at(images, texts, owners)


def scene_vectors(embedder: Embedder, scenes: Sequence[Scene]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of the scenes' pictures and of their five captions each.

    A caption of several scenes is embedded once: in another batch it would come out a rounding apart, and chance would
    say whose it is.
    """
    texts = [text for scene in scenes for text in captions(scene)]
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    once, size = list(places), embedder.batch_size
    vectors = np.concatenate([embedder.embed_texts(once[at : at + size]) for at in range(0, len(once), size)])
    return (
        np.concatenate([embedder.embed_images(pictures(scenes[at : at + size])) for at in range(0, len(scenes), size)]),
        vectors[[places[text] for text in texts]],
    )


def evaluate(
    model: Fwd2Bot | Embedder, num_tokens: int | None, images: int, gallery_size: int
) -> dict[str, dict[str, float]]:
    """All figures of a model at one number of tokens: of answers where it answers, of retrieval where it embeds."""
    figures: dict[str, dict[str, float]] = {}
    if isinstance(model, Fwd2Bot) and model.answers:
        figures = _answer_figures(model, num_tokens, images)
    if isinstance(model, Embedder) or model.embeds_text:
        vectors = scene_vectors(as_embedder(model, num_tokens), gallery(gallery_size))
        figures["retrieval"] = retrieval_scores(*vectors)
    return figures


def _answer_figures(model: Fwd2Bot, num_tokens: int | None, images: int) -> dict[str, dict[str, float]]:
    test = [make_scene("test", index) for index in range(images)]
    unseen = [make_scene("composition", index) for index in range(images)]
    return {
        "test": answer_scores(model, test, num_tokens),
        "composition": answer_scores(model, unseen, num_tokens),
        "blank": answer_scores(model, test, num_tokens, show=blanks),
    }


def world_result(model: Fwd2Bot | Embedder, num_tokens: int | None, images: int, gallery_size: int) -> dict[str, Any]:
    """All figures with what made them. Raises InputError for numbers that cannot be."""
    if images < 1:
        raise InputError(f"--images is {images}; it must be at least 1.")
    if gallery_size < 2 or gallery_size % 2:
        raise InputError(f"--gallery is {gallery_size}; it must be even: each scene has its near duplicate beside it.")
    started = time.monotonic()
    figures = evaluate(model, num_tokens, images, gallery_size)
    return {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "num_tokens": num_tokens or model.num_tokens,
        "images": images,
        "gallery": gallery_size,
        "seconds": round(time.monotonic() - started),
        **provenance(),
        "figures": figures,
    }


def run_world(model: Fwd2Bot | Embedder, out: Path, *, num_tokens: int | None, images: int) -> Iterator[dict[str, Any]]:
    """The one result of this suite, in `out`/world.json; about as many images to search as are asked about."""
    result = world_result(model, num_tokens, images, images + images % 2)
    write_json(out / "world.json", result)
    yield result


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one JSON a run."""
    parser = argparse.ArgumentParser(prog="python -m fwd2bot.evaluation.world", description=__doc__)
    parser.add_argument("--model", required=True, help="a model, or a tower: its folder or name on the hub")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--gallery", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    try:
        result = world_result(load_any(options.model), options.tokens, options.images, options.gallery)
    except Fwd2BotError as error:
        print(f"fwd2bot: {error}", file=sys.stderr)
        return error.exit_code
    write_result(result, options.out)
    return 0


def write_result(result: Mapping[str, Any], out: Path | None) -> None:
    """A run's JSON to stdout, and to the file `out` where there is one."""
    if out is not None:
        write_json(out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    sys.exit(main())
