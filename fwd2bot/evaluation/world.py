"""The generated world as a benchmark: questions by exact match, and retrieval by COCO's protocol.

    python -m fwd2bot.evaluation.world --model emoji-world --tokens 16 --out results/world/fwd2bot-16.json

One JSON a run: every figure with the commit, the command and the machine that gave it.
"""

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fwd2bot.data.world import Question, captions, make_scene, questions, render
from fwd2bot.data.world.scene import Scene, near_duplicate
from fwd2bot.data.world.writers import PICTURE
from fwd2bot.errors import Fwd2BotError, InputError
from fwd2bot.evaluation.base import Benchmark, Sample, VectorBenchmark, check_complete
from fwd2bot.evaluation.embedders import Embedder, distinct
from fwd2bot.evaluation.files import write_json
from fwd2bot.evaluation.metrics import exact_match, recall_at
from fwd2bot.evaluation.runner import Progress, run_benchmarks
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
    """Vectors of the scenes' pictures and of their five captions each."""
    once, places = distinct([text for scene in scenes for text in captions(scene)])
    size = embedder.batch_size
    vectors = np.concatenate([embedder.embed_texts(once[at : at + size]) for at in range(0, len(once), size)])
    return (
        np.concatenate([embedder.embed_images(pictures(scenes[at : at + size])) for at in range(0, len(scenes), size)]),
        vectors[places],
    )


class WorldQuestions(Benchmark):
    """Ten kinds of questions about scenes of a split; of `blank`, those of `test` about a grey picture."""

    name = "world"
    splits = ("test", "composition", "blank")
    metric = "mean"
    max_new_tokens = 64

    def __init__(self, split: str, images: int) -> None:
        super().__init__(Path(), split)
        self.images = images

    @cached_property
    def asked(self) -> list[tuple[str, Scene, Question]]:
        """With the key of the sample that answers each: about a grey picture the same question is asked once."""
        blank = self.split == "blank"
        scenes = (make_scene("test" if blank else self.split, index) for index in range(self.images))
        return [
            (question.text if blank else f"{scene.name} {question.kind}", scene, question)
            for scene in scenes
            for question in questions(scene)
        ]

    @cached_property
    def _samples(self) -> list[Sample]:
        shown = {} if self.split == "blank" else {scene.name: scene for _, scene, _ in self.asked}
        files = dict(zip(shown, map(_file, pictures([*shown.values()])), strict=True))
        grey = _file(BLANK)
        found = {key: Sample(key, files.get(scene.name, grey), question.text) for key, scene, question in self.asked}
        return [*found.values()]

    def samples(self) -> Sequence[Sample]:
        return self._samples

    def score(self, predictions: Mapping[str, str]) -> dict[str, float]:
        check_complete((key for key, _, _ in self.asked), predictions)
        return kind_scores((question, predictions[key]) for key, _, question in self.asked)


class WorldRetrieval(VectorBenchmark):
    """Scenes and their near duplicates, five captions each, both ways."""

    name = "world"
    splits = ("retrieval",)
    metric = "text_to_image_R@1"

    def __init__(self, images: int) -> None:
        super().__init__(Path())
        self.scenes = gallery(images)

    def images(self) -> Sequence[bytes]:
        return [_file(picture) for picture in pictures(self.scenes)]

    def texts(self) -> Sequence[str]:
        return [text for scene in self.scenes for text in captions(scene)]

    def score(self, images: NDArray[np.float32], texts: NDArray[np.float32]) -> dict[str, float]:
        return retrieval_scores(images, texts)


def _file(picture: Image.Image) -> bytes:
    """As PNG, which loses nothing."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def run_world(
    model: Fwd2Bot | Embedder,
    out: Path,
    *,
    num_tokens: int | None,
    images: int,
    gallery_size: int | None = None,
    progress: Progress,
) -> Iterator[dict[str, Any]]:
    """The one result of this suite: figures of answers where the model answers, of retrieval where it embeds.

    It is `out`/world.json; answers and vectors stand below `out`, in a folder for each number of images, and a run that
    is stopped goes on from them. About as many images are searched as are asked about, or `gallery_size`.
    Raises InputError for numbers that cannot be.
    """
    size = images + images % 2 if gallery_size is None else gallery_size
    if images < 1:
        raise InputError(f"--images is {images}; it must be at least 1.")
    if size < 2 or size % 2:
        raise InputError(f"--gallery is {size}; it must be even: each scene has its near duplicate beside it.")
    started = time.monotonic()
    parts: list[Benchmark | VectorBenchmark] = []
    if isinstance(model, Fwd2Bot) and model.answers:
        parts += [WorldQuestions(split, images) for split in WorldQuestions.splits]
    if isinstance(model, Embedder) or model.embeds_text:
        parts.append(WorldRetrieval(size))
    done = [*run_benchmarks(model, parts, out / f"world-{images}", num_tokens=num_tokens, progress=progress)]
    result = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "num_tokens": num_tokens or model.num_tokens,
        "images": images,
        "gallery": size,
        "failed": [failed for part in done for failed in part["failed"]],
        "seconds": round(time.monotonic() - started),
        **provenance(),
        "figures": {part["split"]: part["figures"] for part in done},
    }
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
    numbers = {"num_tokens": options.tokens, "images": options.images, "gallery_size": options.gallery}
    try:
        with TemporaryDirectory() as place:
            (result,) = run_world(load_any(options.model), Path(place), **numbers, progress=_silent)
    except Fwd2BotError as error:
        print(f"fwd2bot: {error}", file=sys.stderr)
        return error.exit_code
    write_result(result, options.out)
    return 0


def _silent(*_: str) -> Callable[[int, int], None]:
    """For a command whose output is its result alone."""
    return lambda *_: None


def write_result(result: Mapping[str, Any], out: Path | None) -> None:
    """A run's JSON to stdout, and to the file `out` where there is one."""
    if out is not None:
        write_json(out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    sys.exit(main())
