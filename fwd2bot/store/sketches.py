"""Which rows of very many are worth a look: those whose signs agree best with the query's.

A sketch is the signs of a row's rotated vector, a bit each. Sketches are kept in memory, 32 bytes a row at D = 256. A
search counts the signs in which each differs from the query's, takes the twentieth that differs least, weighs their
signs with the query's numbers (Charikar's hyperplanes, then the asymmetric distance of RaBitQ, arXiv 2405.12497), and
gives the best thousands, to be compared exactly.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fwd2bot.store.quantise import Quantiser
from fwd2bot.store.rotate import rotate

MOST_BITS = 512
MEMORY = 2 * 2**30
"""Bytes that the signs and the places of rows may take: without them a search reads all vectors."""
MEMORY_WITH_VECTORS = 512 * 2**20
"""Bytes that these may take with the vectors, where those are held, too: without them it reads some thousands."""
BLOCK = 2**15
"""Rows that are counted at once: they stay in the processor's cache."""
WEIGHED = 0.05
COMPARED = 6000
"""Rows that are compared exactly, or 20 times as many as are asked for."""

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32)
Places = NDArray[np.int64]
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class Sketches:
    """The signs of all rows, and where each row is; with the vectors as they are stored, where memory is for them."""

    def __init__(self, codes: Iterable[tuple[Places, Bytes]], rows: int, width: int, codec: Quantiser) -> None:
        """`codes`: places of rows and their vectors as `codec` keeps them, in blocks; `rows` in all."""
        self._bytes = _sketch_bytes(width)
        self.places = np.empty(rows, dtype=np.int64)
        self._signs = np.empty((_padded(self._bytes) // 8, rows), dtype=np.uint64)  # a word of all rows a line
        size = codec.token_bytes(width)
        held = self.fit_with_vectors(rows, width, codec)
        self._codes = np.empty((rows, size), dtype=np.uint8) if held else None
        first = 0
        for places, block in codes:
            part = slice(first, first + len(places))
            self.places[part] = places
            self._signs[:, part] = self._words(codec.signs(block))
            if self._codes is not None:
                self._codes[part] = block
            first += len(places)

    @staticmethod
    def fit(rows: int, width: int) -> bool:
        """Whether the sketches of so many rows may be held in memory."""
        return rows * _row_bytes(width) <= MEMORY

    @staticmethod
    def fit_with_vectors(rows: int, width: int, codec: Quantiser) -> bool:
        """Whether the vectors of so many rows are held beside their sketches."""
        return rows * (_row_bytes(width) + codec.token_bytes(width)) <= MEMORY_WITH_VECTORS

    def codes(self, rows: Places) -> Bytes | None:
        """The vectors of rows by their numbers here, as they are stored; None where they are not held."""
        return None if self._codes is None else self._codes.take(rows, axis=0)

    def nearest(self, query: Floats, top: int, among: Places | None = None) -> Places:
        """Numbers of the rows to compare with a (D,) query, rising; of all, or of those among these numbers.

        All of those that a limit cuts at equal counts are in, so that the choice is one of vectors, not of places.
        """
        compared = max(COMPARED, 20 * top)
        rotated = rotate(query)[: 8 * self._bytes]
        counts = self._differences(np.packbits(rotated > 0))
        if among is not None:
            counts = counts[among]
        near = _fewest(counts, max(int(WEIGHED * len(counts)), 4 * compared))
        if among is not None:
            near = among[near]
        return near[_highest(self._weighed(near, rotated), compared)]

    def _differences(self, signs: Bytes) -> NDArray[np.uint16]:
        """(n,): in how many signs each row differs."""
        query = self._words(signs[None])
        found = np.empty(len(self.places), dtype=np.uint16)
        for first in range(0, len(found), BLOCK):
            part = slice(first, first + BLOCK)
            found[part] = np.bitwise_count(self._signs[:, part] ^ query).sum(axis=0, dtype=np.uint16)
        return found

    def _weighed(self, rows: Places, query: Floats) -> Floats:
        """(len(rows),): the sum of the query's numbers under the rows' signs, in whole steps, so that it is exact."""
        steps = np.zeros(8 * self._bytes, dtype=np.float32)
        steps[: len(query)] = np.rint(query * (127 / max(float(np.abs(query).max()), 1e-30)))
        worth = steps.reshape(-1, 8) @ _BITS.T  # (bytes, 256): what each byte adds
        total = np.zeros(len(rows), dtype=np.float32)
        for number, words in enumerate(self._signs):
            content = words.take(rows).view(np.uint8).reshape(len(rows), 8)
            for of_byte, column in zip(worth[8 * number :], content.T, strict=False):  # the last word may be filled up
                total += of_byte[column]  # less than 2^24: exact in any order
        return total

    def _words(self, signs: Bytes) -> NDArray[np.uint64]:
        """(n, bytes) -> (words, n): the first of the signs, filled up with zeros."""
        padded = np.zeros((len(signs), _padded(self._bytes)), dtype=np.uint8)
        padded[:, : self._bytes] = signs[:, : self._bytes]
        return padded.view(np.uint64).T


def _sketch_bytes(width: int) -> int:
    return (min(width, MOST_BITS) + 7) // 8


def _row_bytes(width: int) -> int:
    """Of a sketch, and of the place of its row."""
    return _padded(_sketch_bytes(width)) + 8


def _padded(count: int) -> int:
    return -(-count // 8) * 8


def _fewest(counts: NDArray[np.uint16], count: int) -> Places:
    """Positions of the `count` lowest, and of all that equal the last of them."""
    upto = np.cumsum(np.bincount(counts))  # how many rows have at most so much
    return np.flatnonzero(counts <= np.searchsorted(upto, min(count, len(counts))))


def _highest(values: Floats, count: int) -> Places:
    """Positions of the `count` highest, and of all that equal the last of them."""
    if len(values) <= count:
        return np.arange(len(values))
    return np.flatnonzero(values >= np.partition(values, -count)[-count])
