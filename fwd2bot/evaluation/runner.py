"""A model on a benchmark: compress every picture once, answer or embed, score.

Below the folder of a run, a benchmark has these files, named by it and its split:

    pope-test.run.json      what the rest was made with; another model, number of tokens, dtype, prompt, or other
                            questions, texts or pictures are refused
    pope-test.jsonl         the answers, line by line as they come (of vectors: .images.npy and .texts.npy, row by row)
    pope-test.json          the figures, with the commit, the command and the machine

and what the benchmark's server wants, where there is one.

A run that is stopped goes on from the answers that are there.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fwd2bot.errors import ImageError, InputError, no_numbers
from fwd2bot.evaluation.base import Benchmark, Sample, VectorBenchmark, read_predictions
from fwd2bot.evaluation.catalogue import folder_name, open_benchmark
from fwd2bot.evaluation.embedders import Embedder, as_embedder, distinct
from fwd2bot.evaluation.files import read_json, write_json
from fwd2bot.images import decode, read_image
from fwd2bot.model import Fwd2Bot
from fwd2bot.provenance import provenance

Progress = Callable[[str, str], Callable[[int, int], None]]
"""What is done and to what, "answered", "questions" -> what is told how many are done, of how many."""
Item = TypeVar("Item")
_SHARE = 4
"""An answer has at most this part of the context: of LLaVA-1.5's 4,096 that is the most that a benchmark asks for."""


def open_benchmarks(names: str, data: Path | str, prompt: str | None = None) -> list[Benchmark | VectorBenchmark]:
    """The benchmarks of "pope,vqav2:val", each on its folder below `data`; `prompt`: another for those that have one.

    Raises InputError for an unknown name or split, files that are not what they should be, or a prompt that is empty or
    for none.
    """
    if prompt is not None and not prompt.strip():
        raise InputError("--prompt is empty: write what asks for a caption, or leave it out.")
    opened = []
    for one in names.split(","):
        name, _, split = one.strip().partition(":")
        opened.append(open_benchmark(name, Path(data) / folder_name(name), split or None))
    if prompt is not None:
        captioning = [one for one in opened if isinstance(one, Benchmark) and one.prompt is not None]
        if not captioning:
            raise InputError("--prompt is for captions: the questions of the other benchmarks are their own.")
        for benchmark in captioning:
            benchmark.prompt = prompt
    return opened


def run_benchmarks(
    model: Fwd2Bot | Embedder,
    benchmarks: Sequence[Benchmark | VectorBenchmark],
    out: Path,
    *,
    num_tokens: int | None = None,
    progress: Progress,
) -> Iterator[dict[str, Any]]:
    """The result of each, as it is written below `out`: figures, what could not be read, and what made them.

    Raises InputError where the model cannot do one of them, before any is begun, and where `out` has answers that were
    made with something else.
    """
    embedder = as_embedder(model, num_tokens)
    answering = model if isinstance(model, Fwd2Bot) and model.answers else None
    for benchmark in benchmarks:
        if isinstance(benchmark, Benchmark) and answering is None:
            raise InputError(f"{model.name} only embeds, and {benchmark.name} asks questions; take a fwd2bot model.")
    for benchmark in benchmarks:
        started = time.monotonic()
        run = _Run(embedder, benchmark, out, progress)
        if isinstance(model, Fwd2Bot):
            run.made_with["dtype"] = str(model.compressor.llava.dtype).removeprefix("torch.")
        if isinstance(benchmark, VectorBenchmark):
            figures: dict[str, float] | None = run.vectors(benchmark)
        else:
            assert answering is not None
            figures = run.texts(benchmark, answering)
        result = {
            **run.made_with,
            **benchmark.settings(),
            **run.told,
            "failed": [{"error": reason, "samples": count} for reason, count in run.failed.items()],
            "seconds": round(time.monotonic() - started),
            **provenance(),
            "metric": benchmark.metric,
            "figures": figures,
        }
        write_json(run.file("json"), result)
        yield result


@dataclass
class _Run:
    """One benchmark on its way; `failed` has why pictures or questions got no answer, and how many samples that is."""

    embedder: Embedder
    benchmark: Benchmark | VectorBenchmark
    out: Path
    progress: Progress
    told: dict[str, Any] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.made_with: dict[str, Any] = {
            "benchmark": self.benchmark.name,
            "split": self.benchmark.split,
            "model": self.embedder.name,
            "fingerprint": self.embedder.fingerprint,
            "num_tokens": self.embedder.num_tokens,
        }

    def file(self, extension: str) -> Path:
        return self.out / f"{self.benchmark.name}-{self.benchmark.split}.{extension}"

    def texts(self, benchmark: Benchmark, model: Fwd2Bot) -> dict[str, float] | None:
        """The figures of answers; None where only a server can give them."""
        limit = min(benchmark.max_new_tokens, model.compressor.llava.context // _SHARE)
        samples = benchmark.samples()
        of = _identities(sample.image for sample in samples)
        data = _digest([(sample.key, sample.text, of[sample.image]) for sample in samples])
        self.made_with |= {"prompt": benchmark.prompt, "max_new_tokens": limit, "data": data}
        self._claim()
        predictions = _kept_predictions(benchmark, self.file("jsonl"))
        waiting = [sample for sample in samples if sample.key not in predictions]
        self.told |= {"samples": len(samples), "answered_before": len(predictions)}
        tell = self.progress("answered", "questions")
        with _writing(self.file("jsonl")), self.file("jsonl").open("a", encoding="utf-8") as lines:
            for count, (sample, text) in enumerate(self._answers(model, waiting, limit), 1):
                if isinstance(text, str):
                    predictions[sample.key] = text
                    lines.write(json.dumps(benchmark.prediction_row(sample, text)) + "\n")
                    lines.flush()
                else:
                    self.failed[str(text)] += 1
                tell(count, len(waiting))
        predictions |= {sample.key: "" for sample in samples if sample.key not in predictions}
        submission = benchmark.submission(predictions)
        if submission is not None:
            with _writing(self.out / submission[0]):
                (self.out / submission[0]).write_bytes(submission[1])
            self.told["submission"] = submission[0]
        return None if benchmark.split in benchmark.served else benchmark.score(predictions)

    def vectors(self, benchmark: VectorBenchmark) -> dict[str, float]:
        """The figures of vectors."""
        images, texts = benchmark.images(), benchmark.texts()
        of = _identities(images)
        data = _digest([[of[image] for image in images], list(texts)])
        self.made_with |= {"vectors": self.embedder.vectors, "data": data}
        self._claim()
        self.told |= {"images": len(images), "texts": len(texts)}
        once, places = distinct(texts)

        def embed_images(part: Sequence[int]) -> NDArray[np.float32]:
            opened = _read_all([(images[number], f"image {number}") for number in part])
            vectors = np.full((len(part), *self._shape("images")), np.nan, dtype=np.float32)
            good = [at for at, one in enumerate(opened) if not isinstance(one, ImageError)]
            if good:
                found = self.embedder.embed_images([one for one in opened if not isinstance(one, ImageError)])
                vectors[good] = _finite(found, [f"image {part[at]}" for at in good])
            self.failed.update(str(one) for one in opened if isinstance(one, ImageError))
            return vectors

        def embed_texts(part: Sequence[int]) -> NDArray[np.float32]:
            wanted = [once[number] for number in part]
            return _finite(self.embedder.embed_texts(wanted), [repr(text) for text in wanted])

        of_images = self._embedded("images", len(images), embed_images)
        of_texts = self._embedded("texts", len(once), embed_texts)
        return benchmark.score(of_images, of_texts[places])

    def _shape(self, unit: str) -> tuple[int, ...]:
        """Of the vectors of one image, or one text."""
        several, width = self.embedder.vectors_an_image, self.embedder.width
        return (several, width) if unit == "images" and several > 1 else (width,)

    def _embedded(
        self, unit: str, count: int, embed: Callable[[Sequence[int]], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Vectors (count, ..., D) by their numbers, those that are not on the disk yet from `embed`."""
        rows = self._kept_rows(f"{unit}.npy", (count, *self._shape(unit)))
        waiting = np.flatnonzero(np.isnan(rows).reshape(count, -1).any(axis=1)).tolist()
        tell = self.progress("embedded", unit)
        done = 0
        for part in _parts(waiting, self.embedder.batch_size):
            rows[part] = embed(part)
            rows.flush()
            done += len(part)
            tell(done, len(waiting))
        return rows

    def _answers(
        self, model: Fwd2Bot, samples: Sequence[Sample], limit: int
    ) -> Iterator[tuple[Sample, str | Exception]]:
        """Every sample with its answer, or the reason why there is none; those of one batch of pictures together."""
        by_image: dict[Path | bytes, list[Sample]] = {}
        for sample in samples:
            by_image.setdefault(sample.image, []).append(sample)
        for part in _parts(list(by_image), model.batch_size):
            opened = _read_all([(image, f"the picture of {by_image[image][0].key!r}") for image in part])
            good = [image for image in opened if not isinstance(image, ImageError)]
            rows_for = model.compress_for_questions(good, self.embedder.num_tokens)
            asked: list[tuple[int, Sample]] = []
            row = 0
            for name, image in zip(part, opened, strict=True):
                if isinstance(image, ImageError):
                    yield from ((sample, image) for sample in by_image[name])
                else:
                    asked += [(row, sample) for sample in by_image[name]]
                    row += 1
            asked.sort(key=lambda pair: len(pair[1].text))
            for batch in _parts(asked, model.batch_size):
                texts = [sample.text for _, sample in batch]
                rows = rows_for([row for row, _ in batch], texts)
                answers = _answer(model, rows, [sample for _, sample in batch], limit)
                yield from zip([sample for _, sample in batch], answers, strict=True)

    def _claim(self) -> None:
        """Writes down what this run is made with. Raises InputError where another was begun here."""
        path = self.file("run.json")
        if path.exists():
            there = read_json(path).value
            for name, value in self.made_with.items():
                if name not in there or there[name] != value:
                    had = f"with {name} {there[name]!r}" if name in there else f"from before {name} was written down"
                    raise InputError(
                        f"{self.out} has {self.benchmark.name} {had}, and this run has {value!r}: "
                        "name another folder with --out."
                    )
            return
        for answers in (self.file("jsonl"), self.file("images.npy")):
            if answers.exists():
                raise InputError(
                    f"{answers} is there, and {path.name}, which says whose it is, is not: name another --out."
                )
        write_json(path, self.made_with)

    def _kept_rows(self, name: str, shape: tuple[int, ...]) -> "np.memmap[Any, np.dtype[np.float32]]":
        """Vectors (count, ..., D) on the disk, NaN where one is not there yet."""
        path = self.file(name)
        if not path.exists():
            new = path.with_suffix(".new")
            rows = np.lib.format.open_memmap(new, mode="w+", dtype=np.float32, shape=shape)
            rows[:] = np.nan
            rows.flush()
            new.rename(path)
        try:
            np.load(path, mmap_mode="r")  # a file to be written to would be lengthened, with zeros for vectors
        except (ValueError, EOFError) as error:
            raise InputError(f"{path} is damaged: delete it, or name another --out.") from error
        rows = np.lib.format.open_memmap(path, mode="r+")
        if rows.shape != shape:
            raise InputError(f"{path} has {len(rows)} vectors, and there are {shape[0]} now: name another --out.")
        return rows


def _identities(images: Iterable[Path | bytes]) -> dict[Path | bytes, str]:
    """What a picture is known by: a file by its name and size, wherever its folder is; content by its hash."""

    def identity(image: Path | bytes) -> str:
        if isinstance(image, bytes):
            return hashlib.sha256(image).hexdigest()
        try:
            return f"{image.name} {image.stat().st_size}"
        except (OSError, ValueError):  # ValueError: a null byte in the path
            return f"{image.name}, which is not there"

    return {image: identity(image) for image in dict.fromkeys(images)}


def _digest(content: Any) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"


def _kept_predictions(benchmark: Benchmark, path: Path) -> dict[str, str]:
    """What was answered before; a last line that a kill cut short is taken out of the file."""
    if not path.exists():
        return {}
    with _writing(path):
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            path.write_bytes(whole)
    return read_predictions(benchmark, path) if whole else {}


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raises InputError where the system refuses a file of ours."""
    try:
        yield
    except PermissionError as error:
        raise InputError(f"{path} cannot be written or read: {error.strerror}; name another --out.") from error


def _answer(model: Fwd2Bot, rows: Tensor, samples: Sequence[Sample], limit: int) -> list[str | Exception]:
    """An answer each; where one cannot be asked, the reason, and the others all the same."""
    try:
        return [*model.answer(rows, [sample.text for sample in samples], max_new_tokens=limit)]
    except InputError as error:
        if len(samples) == 1:
            return [InputError(f"{samples[0].key}: {error}")]
        alone = (_answer(model, row[None], [sample], limit) for row, sample in zip(rows, samples, strict=True))
        return [answer for answers in alone for answer in answers]


def _read_all(images: Sequence[tuple[Path | bytes, str]]) -> list[Image.Image | ImageError]:
    """Pictures, each a file or its content and what the content is called."""

    def read(one: tuple[Path | bytes, str]) -> Image.Image | ImageError:
        image, name = one
        try:
            return read_image(image) if isinstance(image, Path) else decode(image, name).image
        except ImageError as error:
            return error

    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(read, images))


def _finite(vectors: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float32]:
    """The vectors. Raises InputError where one is of no finite numbers, which stands for one that is not there yet."""
    hurt = np.flatnonzero(~np.isfinite(vectors).reshape(len(vectors), -1).all(axis=1))
    if len(hurt):
        raise InputError(no_numbers(names[hurt[0]]))
    return vectors


def _parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
