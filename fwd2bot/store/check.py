"""A row's checks: what tells a row that was damaged on the disk from one that is as it was written.

A row has one 64-bit check for each of its parts that is read alone: who it is, its tokens, its vector. All of them
cover the content hash, so that parts of two rows cannot be mixed up. A change within 8 bytes that lie together is
always found, any other but for one in 2^32 or fewer. They tell rot, not a forger.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fwd2bot.store.columns import fixed, one_piece, text_sums

Words = NDArray[np.uint64]

PARTS = {  # check -> the columns that it covers
    "check": ("hash", "names", "paths", "file_bytes", "modified", "width", "height", "time"),
    "tokens_check": ("hash", "tokens"),
    "vector_check": ("hash", "vector"),
}
BLOCK = 1 << 21  # bytes that are summed at once
_ODD = np.uint64(0x9E3779B97F4A7C15)


def checks(table: Any, part: str) -> Words:
    """(n,) of a table or batch that has the part's columns. Raises ValueError where a value is missing."""
    total = np.ones(table.num_rows, dtype=np.uint64)  # so that a hole in the file is no sound row
    for place, name in enumerate(PARTS[part]):
        total = total * _ODD + _sums(_numbers(table[name]), place)
    return total


def sound(table: Any, parts: Iterable[str]) -> NDArray[np.bool_]:
    """(n,): which rows have these parts as they were written. The table has their columns and their checks."""
    whole = np.ones(table.num_rows, dtype=bool)
    for part in parts:
        whole &= checks(table, part) == one_piece(table[part]).to_numpy(zero_copy_only=False)
    return whole


def columns_of(parts: Iterable[str]) -> list[str]:
    """What must be read to tell whether these parts are sound."""
    parts = list(parts)
    return list(dict.fromkeys([*(name for part in parts for name in PARTS[part]), *parts]))


def _sums(rows: NDArray[np.uint8], place: int) -> Words:
    """(n, bytes) -> (n,): every word times an odd number of its own, which loses no change of one word."""
    count, size = rows.shape
    if size % 8:
        rows = np.pad(rows, ((0, 0), (0, -size % 8)))
    words = np.ascontiguousarray(rows).view("<u8").astype(np.uint64, copy=False)
    keys = _keys(place, words.shape[1])
    step = max(1, BLOCK // max(rows.shape[1], 1))
    sums = np.empty(count, dtype=np.uint64)
    for start in range(0, count, step):
        part = words[start : start + step]
        sums[start : start + step] = (part ^ (part >> np.uint64(32))) @ keys
    return sums


@lru_cache(maxsize=32)
def _keys(place: int, count: int) -> Words:
    """Odd numbers without a pattern (SplitMix64)."""
    state = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(place << 32)) * _ODD
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    keys: Words = (state ^ (state >> np.uint64(31))) | np.uint64(1)
    return keys


def _numbers(column: Any) -> NDArray[np.uint8]:
    """Values as they lie in memory, (n, bytes of one); of lists of texts, the CRC of each."""
    array = one_piece(column)
    if array.null_count:
        raise ValueError("a value is missing")
    if pa.types.is_list(array.type):
        return text_sums(array).astype("<u4").view(np.uint8).reshape(-1, 4)
    if pa.types.is_fixed_size_binary(array.type):
        return fixed(array)
    flat = array.flatten() if pa.types.is_fixed_size_list(array.type) else array
    if flat.null_count:
        raise ValueError("a number is missing")
    values = np.ascontiguousarray(flat.to_numpy(zero_copy_only=False))
    return values.view(np.uint8).reshape(len(array), -1) if len(array) else np.zeros((0, 8), dtype=np.uint8)
