"""Which row a name leads to, and a content hash, in a store of very many: sorted columns in place of dictionaries.

About 150 bytes an image, most of them its name, path and hash; a tenth of what Python's own strings and
dictionaries would take, and read in a second where there are a million.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fwd2bot.store.columns import fixed

NEAR = 5000
"""Names before and after a place that may be meant by a name that is not there."""
BLOCK = 4096
"""Names that are listed at once."""
FEW = 2**16
"""Rows that a writer remembers in dictionaries, or a sixteenth of those that were there."""
Places = NDArray[np.int64]


_HALF = re.compile("[\ud800-\udfff]")
_TOLD = re.compile("\0(d[89a-f][0-9a-f]{2})")


def path_text(path: str) -> str:
    """A path as text that Arrow can hold: what stands for a byte that is not UTF-8 becomes \\0 and its number.

    No path has a \\0, so `path_of` gives every path back.
    """
    return path if path.isascii() else _HALF.sub(lambda half: f"\0{ord(half[0]):x}", path)


def path_of(text: str) -> str:
    """The path that `path_text` made this text of."""
    return _TOLD.sub(lambda told: chr(int(told[1], 16)), text) if "\0" in text else text


@dataclass(frozen=True)
class Entry:
    """A row as it is known without being read: its place in the version at hand, and its names with their paths."""

    place: int
    names: dict[str, str]


class Names:
    """All names of a version of a store, with the paths of their files, and the places and hashes of their rows."""

    def __init__(self, table: Any) -> None:
        """`table`: columns of lists, `names` and as many `paths`, a list of each a row; and its `hash`."""
        counts = np.asarray(pc.list_value_length(table["names"]), dtype=np.int64)
        self.named = counts > 0  # by place
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._hashes = fixed(table["hash"])
        self._names, self._paths = (_flat(table[column]) for column in ("names", "paths"))  # row after row
        self._order = np.asarray(pc.sort_indices(self._names), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def first(self) -> str:
        return self._name(0)

    @property
    def rows(self) -> int:
        """With a name."""
        return int(self.named.sum())

    def between(self, first: int, end: int) -> list[str]:
        """Some of the sorted names."""
        found: list[str] = self._names.take(self._order[first:end]).to_pylist()
        return found

    def blocks(self) -> Iterator[tuple[list[str], list[str], Places]]:
        """Names in order, some at a time, with their paths and the places of their rows."""
        for first in range(0, len(self), BLOCK):
            chosen = self._order[first : first + BLOCK]
            paths = [path_of(text) for text in self._paths.take(chosen).to_pylist()]
            yield self._names.take(chosen).to_pylist(), paths, self._places(chosen)

    def place(self, name: str) -> int | None:
        """Of the row; None where there is no such name."""
        at = self._at(name)
        return None if at is None else int(self._places(at)[0])

    def owner(self, name: str) -> tuple[str, str] | None:
        """The content hash of a name, and the path of its file; None where there is no such name."""
        at = self._at(name)
        return None if at is None else (self.hash(int(self._places(at)[0])), path_of(self._paths[int(at[0])].as_py()))

    def entry(self, key: str) -> Entry | None:
        """The row with a content hash, in hexadecimal digits; None where there is none."""
        place = self.place_of(key)
        if place is None:
            return None
        part = slice(int(self._starts[place]), int(self._starts[place + 1]))
        names, paths = self._names[part].to_pylist(), self._paths[part].to_pylist()
        return Entry(place, dict(zip(names, map(path_of, paths), strict=True)))

    def place_of(self, key: str) -> int | None:
        """Of the row with a content hash, in hexadecimal digits; None where there is none. Its names are not read."""
        if re.fullmatch("[0-9a-f]{64}", key) is None:
            return None
        content, (beginnings, places) = bytes.fromhex(key), self._by_hash
        beginning = np.frombuffer(content[:8], dtype=">u8")
        first, end = (int(np.searchsorted(beginnings, beginning, side)[0]) for side in ("left", "right"))
        return next((place for place in places[first:end].tolist() if self._hashes[place].tobytes() == content), None)

    def hash(self, place: int) -> str:
        """Of the row, in hexadecimal digits."""
        return str(self._hashes[place].tobytes().hex())

    def hashes(self) -> NDArray[np.bytes_]:
        """Of all rows, sorted, in hexadecimal digits, as an array of S64."""
        return np.sort(np.frombuffer(self._hashes.tobytes().hex().encode(), dtype="S64"))

    def ending(self, ending: str) -> dict[int, str]:
        """Places of the rows whose path is or ends in this, which begins with a slash; with a name of each."""
        ending = path_text(ending)
        fits = pc.or_(pc.ends_with(self._paths, ending), pc.equal(self._paths, ending[1:]))
        chosen = self._order[np.asarray(fits)[self._order]]
        names = self._names.take(chosen).to_pylist()
        return dict(zip(self._places(chosen).tolist(), names, strict=True))

    def near(self, name: str) -> list[str]:
        """Names that stand near it; all, where they are few."""
        at = self._rank(name)
        return self.between(max(at - NEAR, 0), at + NEAR)

    @cached_property
    def _by_hash(self) -> tuple[NDArray[np.uint64], Places]:
        """The first eight bytes of the rows' hashes, sorted, and their rows."""
        beginnings = np.ascontiguousarray(self._hashes[:, :8]).view(">u8")[:, 0].astype(np.uint64)
        order = np.argsort(beginnings, kind="stable")
        return beginnings[order], order

    def _places(self, chosen: Places) -> Places:
        """Of the rows that hold these names."""
        return np.searchsorted(self._starts, chosen, "right") - 1

    def _at(self, name: str) -> Places | None:
        """Where a name stands among those of all rows, one number; None where there is no such name."""
        rank = self._rank(name)
        return self._order[rank : rank + 1] if rank < len(self) and self._name(rank) == name else None

    def _name(self, rank: int) -> str:
        return str(self._names[int(self._order[rank])].as_py())

    def _rank(self, name: str) -> int:
        """How many names come before it."""
        return bisect_left(range(len(self)), name, key=self._name)


class Known:
    """Who is in a store at the moment: the names of a version, and the rows that were added since."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self._added: dict[str, Entry] = {}
        self._owners: dict[str, str] = {}

    @property
    def grown(self) -> bool:
        return bool(self._added)

    @property
    def full(self) -> bool:
        """Whether the names had better be read anew."""
        return len(self._added) > max(FEW, len(self.names) // 16)

    def add(self, rows: Iterable[tuple[str, dict[str, str]]], first: int) -> None:
        """Content hashes and names of new rows, from a place on. None of these hashes and names was there."""
        for place, (key, names) in enumerate(rows, start=first):
            self._added[key] = Entry(place, names)
            self._owners.update(dict.fromkeys(names, key))

    def entry(self, key: str) -> Entry | None:
        """The row with a content hash; None where there is none."""
        return self._added.get(key) or self.names.entry(key)

    def place_of(self, key: str) -> int | None:
        """Of the row with a content hash; None where there is none."""
        added = self._added.get(key)
        return self.names.place_of(key) if added is None else added.place

    def place(self, key: str) -> int:
        """Of a row that is there, by its content hash."""
        place = self.place_of(key)
        assert place is not None, f"{key} is there"
        return place

    def owner(self, name: str) -> tuple[str, str] | None:
        """The content hash of a name, and the path of its file; None where there is no such name."""
        if (key := self._owners.get(name)) is not None:
            return key, self._added[key].names[name]
        return self.names.owner(name)


def _flat(lists: Any) -> Any:
    """One array of all that the lists of a column hold."""
    return pc.list_flatten(lists).cast(pa.large_string()).combine_chunks()
