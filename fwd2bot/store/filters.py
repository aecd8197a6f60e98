"""Which images of a store are meant: by name or path, date, and size."""

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fwd2bot.errors import InputError
from fwd2bot.store.base import Floats, Row, Store

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of a file in bytes, or of a picture in pixels (width and height)."""

    file_bytes: int | None = None
    pixels: tuple[int, int] | None = None

    @classmethod
    def parse(cls, text: str) -> "Size":
        """1MB, 300KB, 12000 or 800x600. Raises InputError where it is neither."""
        if found := re.fullmatch(r"(\d+)x(\d+)", text.strip(), re.ASCII):
            return cls(pixels=(int(found[1]), int(found[2])))
        if found := re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]?B?)", text.strip().upper(), re.ASCII):
            unit = found[2] if found[2] in _UNITS else found[2] + "B"
            return cls(file_bytes=round(float(found[1]) * _UNITS[unit]))
        raise InputError(f"{text!r} is no size: write bytes such as 300KB or 1.5MB, or pixels such as 800x600.")

    def fits_below(self, row: Row) -> bool:
        if self.pixels is not None:
            return row.width >= self.pixels[0] and row.height >= self.pixels[1]
        return row.file_bytes >= (self.file_bytes or 0)

    def fits_above(self, row: Row) -> bool:
        if self.pixels is not None:
            return row.width <= self.pixels[0] and row.height <= self.pixels[1]
        return row.file_bytes <= (self.file_bytes or 0)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """None lets everything through. Days are those of the file's last change; `until` is the last one."""

    path: str | None = None  # * is any text, / too; of the name, or of the path where the file was
    since: datetime.date | None = None
    until: datetime.date | None = None
    larger: Size | None = None  # at least so large; pixels: in both directions
    smaller: Size | None = None

    def lets(self, row: Row) -> bool:
        day = datetime.date.fromtimestamp(row.modified)
        return (
            (self.path is None or fnmatchcase(row.name, self.path) or fnmatchcase(row.path, self.path))
            and (self.since is None or day >= self.since)
            and (self.until is None or day <= self.until)
            and (self.larger is None or self.larger.fits_below(row))
            and (self.smaller is None or self.smaller.fits_above(row))
        )


EVERYTHING = Filter()


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


def listed(store: Store, wanted: Filter) -> Iterator[Row]:
    """The images that a filter lets through, sorted by name, without tokens and vectors."""
    return (row for row in store.listing() if wanted.lets(row))


def search_listed(
    store: Store, vectors: Floats, top: int, wanted: Filter, *, exact: bool = False
) -> list[list[tuple[str, float]]]:
    """`store.search_many` among the images that a filter lets through, each under the first name that it lets."""
    if wanted == EVERYTHING:
        return store.search_many(vectors, top, exact=exact)
    names: dict[str, str] = {}
    for row in listed(store, wanted):
        names.setdefault(row.hash, row.name)

    def first_let(name: str) -> str | None:
        key, _ = store.owner(name) or ("", "")
        return names.get(key)

    asked = top
    while True:
        found = [
            [(let, score) for name, score in results if (let := first_let(name)) is not None][:top]
            for results in store.search_many(vectors, asked, exact=exact)
        ]
        if asked >= len(store) or all(len(results) == top for results in found):
            return found
        asked *= 8


def _day(text: str | None) -> datetime.date | None:
    if text is None:
        return None
    try:
        return datetime.date.fromisoformat(text.strip())
    except ValueError:
        raise InputError(f"{text!r} is no date: write it as 2024-12-31.") from None
