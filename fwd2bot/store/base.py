"""The seam: what a store does, whatever keeps its rows.

The key of a row is the hash of the image's file. A file that lies under two names is one row with two names; a file
that was changed under its name is a new row, to which the name moves.
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fwd2bot.errors import InputError, StoreError, check_list
from fwd2bot.store.filters import EVERYTHING, Filter
from fwd2bot.store.names import Names
from fwd2bot.store.quantise import DEFAULT_QUANTISATION, DEFAULT_VECTORS, Bytes
from fwd2bot.store.ranking import at_least_top, cosines
from fwd2bot.store.rows import Floats, Header, Row, StoreInfo
from fwd2bot.store.sketches import Sketches

Places = NDArray[np.int64]
SKETCHED_FROM = 20_000
"""Rows from which a search looks at sketches first."""
HELD = 64 * 2**20
"""Bytes of vectors that are held in memory as numbers, so that the next search reads nothing."""
AT_ONCE = 8192
"""Rows whose vectors are read at once where some of a store are searched."""
QUERIES = 1024
"""That are compared at once."""


class Store(ABC):
    """Rows of one model, in a folder."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.header = header
        self._sketches: tuple[object, Sketches | None] | None = None  # of which version
        self._held: tuple[object, list[tuple[list[str], Floats]]] | None = None  # of which version

    def __reduce__(self) -> tuple[Callable[[Path], "Store"], tuple[Path]]:
        return Store.open, (self.path,)  # in another process it is opened anew

    @staticmethod
    def open(path: str | Path) -> "Store":
        """The store in a folder, as it is now: rows that others add later are seen by what is opened later.

        Raises StoreError where there is none, or it cannot be read.
        """
        from fwd2bot.store.lance import open_store

        return open_store(Path(path))

    @staticmethod
    def create(
        path: str | Path,
        *,
        fingerprint: str,
        model: str,
        num_tokens: int,
        width: int,
        source: str | None = None,
        quantisation: str = DEFAULT_QUANTISATION,
        vector_quantisation: str = DEFAULT_VECTORS,
    ) -> "Store":
        """A new store, in a folder that is not there, is empty, or holds a creation that was cut off.

        `model` is the name of the model that writes it, `source` what loads that model again (None: its name).

        Raises StoreError where the folder holds anything else.
        """
        from fwd2bot.store.lance import create_store

        header = Header(
            fingerprint=fingerprint,
            model=model,
            source=source or model,
            num_tokens=num_tokens,
            width=width,
            quantisation=quantisation,
            vector_quantisation=vector_quantisation,
        )
        return create_store(Path(path), header)

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether there is anything to open: False where `create` would make a new store.

        Raises StoreError where the folder may not be read.
        """
        from fwd2bot.store.lance import is_new

        return not is_new(Path(path))

    # What an implementation gives.

    @abstractmethod
    def add(self, rows: Iterable[Row]) -> None:
        """Keep the rows: all of them or, where the process dies, none of them. A row that is there stays as it is.

        Raises StoreError where they are of another model or shape, not finite, or cannot be written.
        """

    @abstractmethod
    def writing(self) -> AbstractContextManager[None]:
        """The right to add, for a while, with all that others have added in sight.

        Raises StoreError where another process has it.
        """

    @abstractmethod
    def owner(self, name: str) -> tuple[str, str] | None:
        """The content hash of a name, and the path of its file when it was compressed; None where it is not there."""

    @abstractmethod
    def has(self, key: str) -> bool:
        """Whether there is a row with this content hash, be it one that has lost its last name."""

    @abstractmethod
    def names_of(self, key: str) -> dict[str, str]:
        """Names of a content hash, with the paths of their files; none where it is not there."""

    @abstractmethod
    def listing(self, wanted: Filter = EVERYTHING) -> Iterator[Row]:
        """The images that a filter lets through, sorted by name, without tokens and vectors."""

    @abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Drop names; a row goes with its last name, from the disk when the store is tidied.

        Raises InputError where one is not there, StoreError where that cannot be written.
        """

    @abstractmethod
    def info(self) -> StoreInfo:
        """The figures of the store, without reading its tokens."""

    @abstractmethod
    def tidy(self, *, erase: bool = False) -> None:
        """Delete what commits have left behind, such as rows that no name finds any more.

        Where `erase`, the bytes of such rows leave the disk: their files are written again without them, and a
        reader that had the store open is told to open it again.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Rows; an image with two names counts once."""

    @abstractmethod
    def _read(self, names: Sequence[str]) -> list[tuple[Row, bytes]]:
        """Rows by names that are there, in order, without tokens; and the bytes of their tokens."""

    @abstractmethod
    def vectors(self) -> Iterator[tuple[list[str], Floats]]:
        """All rows in blocks: their names (the first of each row) and (n, D) unit vectors."""

    @abstractmethod
    def _lookup(self) -> Names:
        """Where the row of each name is, in this version."""

    @abstractmethod
    def _version(self) -> object:
        """Changes whenever the rows, or the places where they are, may have changed."""

    @abstractmethod
    def _codes(self) -> Iterator[tuple[Places, Bytes]]:
        """All rows in blocks: their places, and their vectors as they are kept."""

    @abstractmethod
    def _vectors_at(self, places: Places) -> Floats:
        """(n, D): the vectors of rows."""

    @abstractmethod
    def _places_of(self, wanted: Filter) -> Places:
        """Of the rows that have a name which a filter lets through, rising."""

    @abstractmethod
    def _names_at(self, places: Places, wanted: Filter) -> list[str]:
        """The first name of each of these rows that a filter lets through; there is one."""

    # What all share.

    def check(self, fingerprint: str, model: str) -> None:
        """Raises StoreError where the rows were written by another model."""
        if fingerprint != self.header.fingerprint:
            raise StoreError(
                f"The rows of {self.path} were written by {self.header.model} ({short(self.header.fingerprint)}), and "
                f"this is {model} ({short(fingerprint)}): use the model that wrote them, "
                "or compress the images with this one into a new store."
            )

    def names(self, start: int = 0, end: int | None = None) -> list[str]:
        """Names of all images, sorted, or of a part of them."""
        names = self._lookup()
        return names.between(start, len(names) if end is None else end)

    def hashes(self) -> NDArray[np.bytes_]:
        """Content hashes of all rows, sorted: hexadecimal digits, as an array of S64."""
        return self._lookup().hashes()

    def find(self, image: str) -> str:
        """The name of an image, which may be asked for by its name, by any end of its path, or by its content hash.

        Raises InputError where there is no such image (suggesting the nearest), or more than one.
        """
        image = str(image)
        asked = PurePosixPath(image.strip()).as_posix()
        for name in (image, asked):
            if self._lookup().place(name) is not None:
                return name
        entry = self._lookup().entry(asked)
        if entry is not None and entry.names:
            return min(entry.names)
        ending = "/" + asked.removeprefix("/")
        found = self._lookup().ending(ending)  # one a content
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            several = " or ".join(map(repr, list(found.values())[:3]))
            raise InputError(f"{image!r} may be {several} of {self.path}: give the whole name.")
        raise InputError(self.unknown(image))

    def unknown(self, image: str) -> str:
        """What to say of an image that is not there: a sentence with the name that is nearest."""
        asked = PurePosixPath(image.strip()).as_posix()
        return f"There is no image {image!r} in {self.path}{self._suggestion(asked)}"

    def get(self, images: Sequence[str], num_tokens: int | None = None) -> list[Row]:
        """The rows of images, in order, with their first `num_tokens` summary tokens (all of them where None).

        Raises InputError where an image is not there, StoreError where a row holds fewer tokens.
        """
        check_list(images, "images")
        count = self.header.num_tokens if num_tokens is None else num_tokens
        if not 1 <= count <= self.header.num_tokens:
            raise StoreError(
                f"{self.path} holds {self.header.num_tokens} tokens an image, so {count} cannot be read: "
                f"ask for 1 to {self.header.num_tokens}, or compress again with more into a new store."
            )
        size = count * self.header.quantiser.token_bytes(self.header.width)
        rows = []
        for row, content in self._read([self.find(image) for image in images]):
            codes = np.frombuffer(content[:size], dtype=np.uint8).reshape(count, -1)
            rows.append(Row(**{**vars(row), "tokens": self.header.quantiser.decode(codes)}))
        return rows

    def search(
        self, vector: Floats, top: int = 10, *, wanted: Filter = EVERYTHING, exact: bool = False
    ) -> list[tuple[str, float]]:
        """The `top` nearest images to a (D,) unit vector, as (name, cosine), best first."""
        return self.search_many(np.asarray(vector)[None], top, wanted=wanted, exact=exact)[0]

    def search_many(
        self, vectors: Floats, top: int = 10, *, wanted: Filter = EVERYTHING, exact: bool = False
    ) -> list[list[tuple[str, float]]]:
        """`search` for each of (Q, D) unit vectors.

        Scores are exact cosines of the stored vectors. All rows are compared where `exact`, and where less than
        20,000 are searched; of more, the 6,000 whose sketches (see `sketches`) promise most, so that one of
        the nearest may be missed: docs/store.md says how rarely. In both cases equal vectors get equal scores, and
        equal scores go by name: the answer does not depend on the order in which rows were added. An image with
        several names is found once, under the first of them that `wanted` lets through.
        Raises StoreError where the vectors are not of the rows' width; InputError where `top` is below 1.
        """
        queries = np.ascontiguousarray(vectors, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.header.width:
            raise StoreError(f"Vectors of {self.header.width} numbers search in {self.path}, not {queries.shape[1:]}.")
        if top < 1:
            raise InputError(f"The number of results must be at least 1, not {top}.")
        if not np.isfinite(queries).all():
            raise InputError("A vector to search by holds numbers that are none (NaN or infinite): make it anew.")
        places = None if wanted == EVERYTHING else self._places_of(wanted)
        few = places is not None and len(places) < SKETCHED_FROM
        sketches = None if exact or few else self._sketched()
        if sketches is not None:
            among = None if places is None else np.searchsorted(sketches.places, places)
            return [self._looked_up(sketches, query, top, wanted, among) for query in queries]
        parts = (queries[first : first + QUERIES] for first in range(0, len(queries), QUERIES))
        if places is None:
            return [found for part in parts for found in self._compared(part, top)]
        return [found for part in parts for found in self._compared_at(part, top, places, wanted)]

    def _compared(self, queries: Floats, top: int) -> list[list[tuple[str, float]]]:
        """`search_many` in one pass over all rows."""
        best: list[list[tuple[float, str]]] = [[] for _ in queries]
        for names, block in self._blocks():
            rough = queries @ block.T  # its rounding depends on the block's shape: good for the choice alone
            for query, scores, kept in zip(queries, rough, best, strict=True):
                chosen = at_least_top(scores, top)
                kept.extend((-score, names[i]) for score, i in zip(cosines(query, block[chosen]), chosen, strict=True))
                kept.sort()
                del kept[top:]
        return [[(name, -score) for score, name in kept] for kept in best]

    def _blocks(self) -> Iterable[tuple[list[str], Floats]]:
        """All rows in blocks, as `vectors` gives them; read once for a version, where they are few."""
        version = self._version()
        if self._held is None or self._held[0] != version:
            if 4 * self.header.width * len(self) > HELD:
                return self.vectors()
            self._held = (version, list(self.vectors()))
        return self._held[1]

    def _looked_up(
        self, sketches: Sketches, query: Floats, top: int, wanted: Filter, among: Places | None
    ) -> list[tuple[str, float]]:
        """The nearest of the rows whose sketches promise most, of all or of those with these numbers there."""
        rows = sketches.nearest(query, top, among)
        places, codes = sketches.places[rows], sketches.codes(rows)
        vectors = self._vectors_at(places) if codes is None else self.header.decoded_vectors(codes)
        chosen = at_least_top(vectors @ query, top)
        return self._named(places[chosen], cosines(query, vectors[chosen]), top, wanted)

    def _compared_at(self, queries: Floats, top: int, places: Places, wanted: Filter) -> list[list[tuple[str, float]]]:
        """`search_many` in one pass over the rows at these places."""
        best: list[dict[int, float]] = [{} for _ in queries]
        for first in range(0, len(places), AT_ONCE):
            part = places[first : first + AT_ONCE]
            vectors = self._vectors_at(part)
            for query, kept in zip(queries, best, strict=True):
                chosen = at_least_top(vectors @ query, top)
                kept.update(zip(part[chosen].tolist(), cosines(query, vectors[chosen]), strict=True))
        return [self._named(np.array([*kept], dtype=np.int64), [*kept.values()], top, wanted) for kept in best]

    def _named(self, places: Places, scores: Sequence[float], top: int, wanted: Filter) -> list[tuple[str, float]]:
        """The best of these rows, by name."""
        chosen = at_least_top(told := np.array(scores), top)
        found = zip(self._names_at(places[chosen], wanted), told[chosen].tolist(), strict=True)
        return sorted(found, key=lambda one: (-one[1], one[0]))[:top]

    def _sketched(self) -> Sketches | None:
        """Sketches of all rows, made once for a version; None where there are few rows, or more than memory is for."""
        version = self._version()
        if self._sketches is None or self._sketches[0] != version:
            count, made = len(self), None
            if count >= SKETCHED_FROM and Sketches.fit(count, self.header.width):
                made = Sketches(self._codes(), count, self.header.width, self.header.vector_quantiser)
            self._sketches = (version, made)
        return self._sketches[1]

    def _suggestion(self, asked: str) -> str:
        names = self._lookup()
        if not len(names):
            return ", which is empty: add images with `fwd2bot compress`."
        folded = {name.casefold(): name for name in names.near(asked)}
        near = difflib.get_close_matches(asked.casefold(), folded, n=1, cutoff=0.5)
        if near:
            return f": did you mean {folded[near[0]]!r}?"
        return f": it holds {len(names)} images, the first is {names.first!r}."


def short(fingerprint: str) -> str:
    """As much of a fingerprint as a person compares."""
    return fingerprint.removeprefix("sha256:")[:12]
