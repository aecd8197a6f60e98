"""Which row a name leads to, in a store of very many: sorted columns in place of a dictionary.

About 130 bytes an image, most of them its name, path and hash; a tenth of what Python's own strings and
dictionaries would take, and read in a second where there are a million.
"""

import re
from bisect import bisect_left
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NEAR = 5000
"""Names before and after a place that may be meant by a name that is not there."""


class Names:
    """All names of a version of a store, sorted, with the paths of their files and the places of their rows."""

    def __init__(self, table: Any) -> None:
        """`table`: columns of lists, `names` and as many `paths`, a list of each a row; and its `hash`."""
        counts = np.asarray(pc.list_value_length(table["names"]), dtype=np.int64)
        self.named = counts > 0  # by place
        self._hashes = table["hash"]
        names, paths = (_flat(table[column]) for column in ("names", "paths"))
        order = pc.sort_indices(names)
        self._names, self._paths = names.take(order), paths.take(order)
        self._places = np.repeat(np.arange(len(counts)), counts)[np.asarray(order, dtype=np.int64)]

    def __len__(self) -> int:
        return len(self._names)

    @property
    def first(self) -> str:
        return str(self._names[0].as_py())

    @property
    def rows(self) -> int:
        """With a name."""
        return int(self.named.sum())

    def all(self) -> list[str]:
        """Sorted."""
        found: list[str] = self._names.to_pylist()
        return found

    def place(self, name: str) -> int | None:
        """Of the row; None where there is no such name."""
        at = self._rank(name)
        return int(self._places[at]) if at < len(self._names) and self._names[at].as_py() == name else None

    def of_hash(self, text: str) -> str | None:
        """The first name of the row with this content hash, in hexadecimal digits; None where there is none."""
        if re.fullmatch("[0-9a-f]{64}", text) is None:
            return None
        place = pc.index(self._hashes, pa.scalar(bytes.fromhex(text), self._hashes.type)).as_py()
        found = np.flatnonzero(self._places == place)
        return str(self._names[found[0]].as_py()) if len(found) else None

    def ending(self, ending: str) -> dict[int, str]:
        """Places of the rows whose path is or ends in this, which begins with a slash; with a name of each."""
        fits = pc.or_(pc.ends_with(self._paths, ending), pc.equal(self._paths, ending[1:]))
        return {int(self._places[at]): self._names[at].as_py() for at in np.flatnonzero(np.asarray(fits))}

    def near(self, name: str) -> list[str]:
        """Names that stand near it; all, where they are few."""
        at = self._rank(name)
        found: list[str] = self._names[max(at - NEAR, 0) : at + NEAR].to_pylist()
        return found

    def _rank(self, name: str) -> int:
        """How many names come before it."""
        return bisect_left(range(len(self._names)), name, key=lambda at: self._names[at].as_py())


def _flat(lists: Any) -> Any:
    """One array of all that the lists of a column hold."""
    return pc.list_flatten(lists).cast(pa.large_string()).combine_chunks()
