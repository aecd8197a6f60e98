"""Which images of a store are meant: by name or path, date, and size."""

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate

import numpy as np
from numpy.typing import NDArray

from fwd2bot.errors import InputError

FIGURES = ("file_bytes", "modified", "width", "height")
"""Columns that a filter reads: of a file its bytes and when it was changed, in seconds since 1970; pixels."""
Figures = Mapping[str, NDArray[np.integer]]
Flags = NDArray[np.bool_]
EARLIEST, LATEST = datetime.date(1902, 1, 1), datetime.date(9998, 12, 31)
"""Days of which every system knows when they begin."""
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of a file in bytes, or of a picture in pixels (width and height)."""

    file_bytes: int | None = None
    pixels: tuple[int, int] | None = None

    @classmethod
    def parse(cls, text: str) -> "Size":
        """1MB, 300KB, 12000 or 800x600. Raises InputError where it is neither."""
        if found := re.fullmatch(r"(\d{1,15})x(\d{1,15})", text.strip(), re.ASCII):
            return cls(pixels=(int(found[1]), int(found[2])))
        if found := re.fullmatch(r"(\d{1,15}(?:\.\d+)?) ?([KMG]?B?)", text.strip().upper(), re.ASCII):
            unit = found[2] if found[2] in _UNITS else found[2] + "B"
            return cls(file_bytes=round(float(found[1]) * _UNITS[unit]))
        raise InputError(f"{text!r} is no size: write bytes such as 300KB or 1.5MB, or pixels such as 800x600.")

    def below(self, figures: Figures) -> Flags:
        """Which pictures have at least so much; in pixels: in both directions."""
        if self.pixels is not None:
            return (figures["width"] >= self.pixels[0]) & (figures["height"] >= self.pixels[1])
        return figures["file_bytes"] >= (self.file_bytes or 0)

    def above(self, figures: Figures) -> Flags:
        """Which pictures have at most so much."""
        if self.pixels is not None:
            return (figures["width"] <= self.pixels[0]) & (figures["height"] <= self.pixels[1])
        return figures["file_bytes"] <= (self.file_bytes or 0)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """None lets everything through. Days are those of the file's last change; `until` is the last one."""

    path: str | None = None  # * is any text, / too; of the name, or of the path where the file was
    since: datetime.date | None = None
    until: datetime.date | None = None
    larger: Size | None = None  # at least so large; pixels: in both directions
    smaller: Size | None = None

    def passing(self, names: Sequence[str], paths: Sequence[str], figures: Figures) -> Flags:
        """(n,): which of n images are let through, by their names, paths and columns of FIGURES."""
        fits = np.ones(len(names), dtype=np.bool_)
        if self.since is not None:
            fits &= figures["modified"] >= _midnight(self.since)
        if self.until is not None:
            fits &= figures["modified"] < _midnight(self.until + datetime.timedelta(1))
        if self.larger is not None:
            fits &= self.larger.below(figures)
        if self.smaller is not None:
            fits &= self.smaller.above(figures)
        if self.path is not None:
            like = pattern(self.path).match
            for at in np.flatnonzero(fits).tolist():
                fits[at] = like(names[at]) is not None or like(paths[at]) is not None
        return fits


EVERYTHING = Filter()


def pattern(text: str) -> re.Pattern[str]:
    """Of * and ?; a bracket is itself, since names of files often have some."""
    return re.compile(translate(text.replace("[", "[[]")))


def parse_filter(
    path: str | None, since: str | None, until: str | None, larger: str | None, smaller: str | None
) -> Filter:
    """From what a user writes. Raises InputError where a date or a size is none."""
    return Filter(
        path=path,
        since=_day(since),
        until=_day(until),
        larger=None if larger is None else Size.parse(larger),
        smaller=None if smaller is None else Size.parse(smaller),
    )


def _day(text: str | None) -> datetime.date | None:
    if text is None:
        return None
    try:
        day = datetime.date.fromisoformat(text.strip())
    except ValueError:
        raise InputError(f"{text!r} is no date: write it as 2024-12-31.") from None
    return min(max(day, EARLIEST), LATEST)


def _midnight(day: datetime.date) -> float:
    """When it begins on this machine, in seconds since 1970."""
    return datetime.datetime.combine(day, datetime.time()).timestamp()
