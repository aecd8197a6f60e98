"""What training reads from files of others: a record, the seam that sources of records share, and broken pictures.

A reader is one file and one `Source`; every record is asked for by its index, and no source keeps a place of its own,
so a run that is resumed, a worker process and a second epoch read the same.
"""

import json
import math
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fwd2bot.errors import ImageError, InputError


class Kind(IntFlag):
    """What a record has."""

    IMAGE = 1
    TURNS = 2
    CAPTION = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A conversation, a caption, or both, mostly about a picture.

    `key` is unique in its source and leads back to its file; `image` is how the source finds the picture (None: text
    alone); `turns` are (question, answer), without the picture's placeholder.
    """

    key: str
    image: str | None = None
    turns: tuple[tuple[str, str], ...] = ()
    caption: str | None = None

    @property
    def paired(self) -> bool:
        """L_disc can be taken on it."""
        return self.image is not None and self.caption is not None


class Source(ABC):
    """Records of one data set. Reading changes nothing in it, so threads and forked processes share one."""

    name: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Record:
        """Raises IndexError beyond the last record, InputError where the file is no longer what it was."""

    @abstractmethod
    def picture(self, record: Record) -> Image.Image:
        """The record's picture, as RGB. Raises ImageError where it cannot be read."""

    @abstractmethod
    def text_lengths(self) -> NDArray[np.int32]:
        """About the characters of each record's turns, or of its caption where it has none: to group near lengths."""

    @abstractmethod
    def kinds(self) -> NDArray[np.uint8]:
        """What each record has, as flags of `Kind`: to group those that the same losses are taken on."""

    def pictures(self) -> NDArray[np.uint64] | None:
        """A number for each record's picture, the same where it is the same, 0 where it has none; None: all differ."""
        return None

    def order(self, seed: int, epoch: int) -> NDArray[np.int64] | None:
        """The shuffled indices of an epoch, where the source is read faster in that order; None: any will do."""
        return None


class Subset(Source):
    """Some records of a source, in the order given: `Subset(source, of_kind(source, Kind.IMAGE | Kind.TURNS))`."""

    def __init__(self, source: Source, chosen: NDArray[np.int64], name: str | None = None) -> None:
        self.source, self.chosen = source, chosen
        self.name = source.name if name is None else name

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.chosen[index])]

    def picture(self, record: Record) -> Image.Image:
        return self.source.picture(record)

    def text_lengths(self) -> NDArray[np.int32]:
        return self.source.text_lengths()[self.chosen]

    def kinds(self) -> NDArray[np.uint8]:
        return self.source.kinds()[self.chosen]

    def pictures(self) -> NDArray[np.uint64] | None:
        numbers = self.source.pictures()
        return None if numbers is None else numbers[self.chosen]

    def order(self, seed: int, epoch: int) -> NDArray[np.int64] | None:
        whole = self.source.order(seed, epoch)
        if whole is None:
            return None
        place = np.full(len(self.source), -1)
        place[self.chosen] = np.arange(len(self.chosen))
        kept = place[whole]
        return kept[kept >= 0]


def of_kind(source: Source, kind: Kind) -> NDArray[np.int64]:
    """The indices of the records that have this, and nothing else of `Kind`."""
    return np.flatnonzero(source.kinds() == kind)


class Damage:
    """Counts pictures that are missing or broken, lists them, and tolerates a share of them.

    A training run over a million files goes on without some; without many it would be another run. Raises InputError
    as soon as, of `after` pictures at least, so many could not be read that more than `limit` of all must be broken:
    each process of a run counts what it happened to read itself, and chance is allowed for (four standard deviations).
    With a path, each that is not in that file is appended to it as {"source", "key", "reason"}; of processes that meet
    one at the same time each may append it.
    """

    NAMED = 3  # in the error

    def __init__(self, limit: float = 0.01, after: int = 1000, path: Path | str | None = None) -> None:
        if not 0 <= limit <= 1:
            raise InputError(f"The share of broken pictures is {limit}; it must be between 0 and 1.")
        self.limit, self.after = limit, after
        self.path = None if path is None else Path(path)
        self.total = 0
        self.failed = 0
        self._listed: dict[tuple[str, str], str] = {}
        self._written: set[tuple[str, str]] | None = None  # None: not looked for
        self._lock = threading.Lock()

    def picture(self, source: Source, record: Record) -> Image.Image | None:
        """The record's picture; None where it cannot be read, which is counted and listed."""
        self.seen()
        try:
            return source.picture(record)
        except ImageError as error:
            self.broken(source.name, record.key, str(error))
            return None

    def seen(self, count: int = 1) -> None:
        """So many more pictures were asked for, broken ones included. Raises InputError: too many were broken."""
        with self._lock:
            self.total += count
            self._check()

    def broken(self, source: str, key: str, reason: str) -> None:
        """One of those seen could not be read.

        Raises InputError where that makes too many, or where the list cannot be written.
        """
        with self._lock:
            self.failed += 1
            if (source, key) not in self._listed:
                self._listed[source, key] = reason
                self._write({"source": source, "key": key, "reason": reason})
            self._check()

    def listed(self) -> list[tuple[str, str, str]]:
        """(source, key, reason) of every picture that could not be read, in the order that they were met."""
        with self._lock:
            return [(source, key, reason) for (source, key), reason in self._listed.items()]

    def _write(self, row: dict[str, str]) -> None:
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._written is None:
                self._written = _written(self.path)
            if (row["source"], row["key"]) in self._written:
                return
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be written, so pictures that are broken cannot be listed: "
                f"{error.strerror or error}; choose another path."
            ) from None

    def _check(self) -> None:
        expected = self.limit * self.total
        if self.total < max(self.after, 1) or self.failed <= expected + 4 * math.sqrt(expected):
            return
        rows = list(self._listed.items())[: self.NAMED]
        first = "; ".join(f"{source} {key}: {reason.rstrip('.')}" for (source, key), reason in rows)
        where = "" if self.path is None else f"; all are listed in {self.path}"
        raise InputError(
            f"{self.failed} of {self.total} pictures cannot be used ({_percent(self.failed / self.total)}; at most "
            f"{_percent(self.limit)} may be missing): {first}{where}; fetch them again, or allow for a larger share."
        )


def _written(path: Path) -> set[tuple[str, str]]:
    """Of whom a list of an earlier run tells; a line that was cut is none."""
    found = set()
    for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
            found.add((str(row["source"]), str(row["key"])))
        except (ValueError, TypeError, KeyError):
            continue
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
