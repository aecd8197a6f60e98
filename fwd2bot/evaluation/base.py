"""What a benchmark is: official files in, official metric out.

A benchmark reads the folder that a user downloaded, says what is to be asked or embedded, and scores what comes back.
It knows no model; `runner.py` puts both together, `fwd2bot score` takes predictions from anywhere.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fwd2bot.errors import InputError

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
"""What LLaVA-1.5 puts behind a question that wants a word."""
LETTER_ANSWER = "\nAnswer with the option's letter from the given choices directly."
"""And behind one that wants a letter."""


@dataclass(frozen=True)
class Sample:
    """One thing asked about one picture.

    key: joins the sample with its prediction, unique in the benchmark. image: a file, or a file's content where the
    benchmark holds it itself. text: the whole user turn as LLaVA-1.5 asks it, without `<image>`.
    """

    key: str
    image: Path | bytes
    text: str


class Opened(ABC):
    """What both kinds of benchmark share.

    Opened on a folder and one of `splits` (None: the first); raises InputError that names the file, and the field,
    where the folder does not hold what it should.
    """

    name: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]
    metric: ClassVar[str]
    """Which figure of `score` papers quote."""

    def __init__(self, folder: Path, split: str | None = None) -> None:
        self.folder = folder
        self.split = split or self.splits[0]
        if self.split not in self.splits:
            raise InputError(f"{self.name} has no split {self.split!r}; its splits are {', '.join(self.splits)}.")

    def settings(self) -> dict[str, str]:
        """What the figures depend on besides files and model, for the result: which tokeniser cut the captions."""
        return {}


class Benchmark(Opened):
    """A benchmark of texts: each sample gets one, an answer or a caption."""

    served: ClassVar[tuple[str, ...]] = ()
    """The splits whose answers only a server has."""
    missing: ClassVar[str | None] = None
    """What the official scorer does with a sample without a prediction; None: it refuses the file."""
    max_new_tokens: ClassVar[int] = 128
    """As LLaVA-1.5 sets it for this benchmark."""
    prompt: str | None = None
    """The one text of all samples, where there is one; another may be set before `samples` is called."""

    @abstractmethod
    def samples(self) -> Sequence[Sample]:
        """What is asked, in the files' order."""

    @abstractmethod
    def score(self, predictions: Mapping[str, str]) -> dict[str, float]:
        """Figures by name, in per cent unless the benchmark's own scale is another. predictions: text by key.

        Raises InputError where the split is scored by a server, or a prediction that the metric needs is missing.
        """

    def submission(self, predictions: Mapping[str, str]) -> tuple[str, bytes] | None:
        """Name and content of the file that the benchmark's server wants; None: it is scored here alone."""
        return None

    def prediction_key(self, row: Mapping[str, Any], before: Collection[str] = ()) -> str:
        """The key of a line of a file of predictions, `before` being those of the lines before it.

        Raises KeyError where the line lacks a field.
        """
        return str(row["question_id"])

    def prediction_row(self, sample: Sample, text: str) -> dict[str, Any]:
        """The line of a file of predictions, as LLaVA-1.5 writes it; `prediction_key` gives the sample's key back."""
        return {"question_id": sample.key, "prompt": sample.text, "text": text}

    def keys(self) -> Collection[str]:
        """What predictions may be about."""
        return {sample.key for sample in self.samples()}

    def needed(self) -> Collection[str]:
        """What predictions must be about, to be complete."""
        return self.keys()

    def check_scored_here(self) -> None:
        """Raises InputError where the split has no answers to compare with."""
        if self.split in self.served:
            raise InputError(
                f"Only {self.name}'s server has the answers of {self.split}: write the file for it with --submission."
            )


class VectorBenchmark(Opened):
    """A benchmark of vectors: pictures and texts are embedded, each once, and compared."""

    @abstractmethod
    def images(self) -> Sequence[Path | bytes]:
        """What is embedded of the pictures, each once."""

    @abstractmethod
    def texts(self) -> Sequence[str]:
        """What is embedded of the texts."""

    @abstractmethod
    def score(self, images: NDArray[np.float32], texts: NDArray[np.float32]) -> dict[str, float]:
        """Figures by name, in per cent, from unit vectors (I, D) and (T, D) in the order of `images` and `texts`.

        A row of NaN is a picture
        that could not be read: it is near nothing, and finds nothing.
        """


def check_complete(needed: Iterable[str], predictions: Mapping[str, str]) -> None:
    """Raises InputError where one of the keys has no prediction."""
    lacking = [key for key in needed if key not in predictions]
    if lacking:
        raise InputError(
            f"{len(lacking):,} samples have no prediction (the first is {lacking[0]!r}): the official scorer wants all."
        )


def means(scores: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Means by name in per cent, names sorted; of (name, score from 0 to 1)."""
    found: dict[str, list[float]] = {}
    for name, score in scores:
        found.setdefault(name, []).append(score)
    return {name: 100.0 * sum(values) / len(values) for name, values in sorted(found.items())}


def read_predictions(benchmark: Benchmark, path: Path) -> dict[str, str]:
    """Texts by key from lines of JSON: what `prediction_key` wants, and `text`.

    Raises InputError with the number of the line that cannot be read, is about no sample, or comes twice; and where
    there is none.
    """
    known = benchmark.keys()
    found: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"Line {number} of {path} is no JSON ({error}): write one object a line.") from error
        try:
            key, text = benchmark.prediction_key(row, found), row["text"]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            wrong = f"has no {error}" if isinstance(error, KeyError) else "is no JSON object with texts"
            raise InputError(f"Line {number} of {path} {wrong}: docs/benchmarks.md says what a line holds.") from error
        if not isinstance(text, str):
            raise InputError(f"Line {number} of {path}: text is {text!r}; it must be a text.")
        if key not in known:
            raise InputError(f"Line {number} of {path} is about {key!r}, which is no sample of {benchmark.name}.")
        if key in found:
            raise InputError(f"Line {number} of {path} is about {key!r}, which came before.")
        found[key] = text
    if not found:
        raise InputError(f"{path} holds no prediction: write one JSON object a line.")
    return found
