"""What a benchmark is: official files in, official metric out.

A benchmark reads the folder that a user downloaded, says what is to be asked or embedded, and scores what comes back.
It knows no model; `runner.py` puts both together, `fwd2bot score` takes predictions from anywhere.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fwd2bot.errors import InputError


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

    def prediction_key(self, row: Mapping[str, Any]) -> str:
        """The key of a line of a file of predictions. Raises KeyError where the line lacks a field."""
        return str(row["question_id"])


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

        A row of NaN is a picture that could not be read: it is near nothing, and finds nothing.
        """


def read_predictions(benchmark: Benchmark, path: Path) -> dict[str, str]:
    """Texts by key from lines of JSON: `text`, and `key` (as we write them) or what `prediction_key` wants.

    Raises InputError with the number of the line that cannot be read, asks for what is no sample, or comes twice.
    """
    known = {sample.key for sample in benchmark.samples()}
    found: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key, text = str(row["key"]) if "key" in row else benchmark.prediction_key(row), row["text"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            missing = f"has no {error}" if isinstance(error, KeyError) else "is no JSON object"
            raise InputError(f"Line {number} of {path} {missing}.") from error
        if not isinstance(text, str):
            raise InputError(f"Line {number} of {path}: text is {text!r}; it must be a text.")
        if key not in known:
            raise InputError(f"Line {number} of {path} is about {key}, which is no sample of {benchmark.name}.")
        if key in found:
            raise InputError(f"Line {number} of {path} is about {key}, which came before.")
        found[key] = text
    return found
