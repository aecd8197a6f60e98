"""Arrow columns as numpy sees them, without a copy where they are in one piece."""

import zlib
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def one_piece(column: Any) -> Any:
    """The array of a column, chunked or not."""
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    return column


def fixed(column: Any) -> NDArray[np.uint8]:
    """(n, bytes) of a column of as many bytes a row."""
    array = one_piece(column)
    size = array.type.byte_width
    content = np.frombuffer(array.buffers()[1] or b"", dtype=np.uint8)
    return content[array.offset * size : (array.offset + len(array)) * size].reshape(-1, size)


def text_sums(lists: Any) -> NDArray[np.uint32]:
    """(n,) of an array of lists of texts: the CRC-32 of each list, a zero byte between two texts.

    Raises ValueError where a text is missing.
    """
    flat = lists.flatten()
    if flat.null_count:
        raise ValueError("a text is missing")
    starts = lists.offsets.to_numpy().astype(np.int64)
    starts -= starts[0]  # now in `flat`
    _, where, content = flat.buffers()
    bounds = np.frombuffer(where or bytes(4), dtype=np.int32)[flat.offset :]
    edges, data = bounds[starts].tolist(), memoryview(content or b"")
    sums = [zlib.crc32(data[first:end]) for first, end in pairwise(edges)]
    for row in np.flatnonzero(np.diff(starts) > 1).tolist():
        inside = bounds[starts[row] : starts[row + 1] + 1].tolist()
        sums[row] = zlib.crc32(b"\0".join(data[first:end] for first, end in pairwise(inside)))
    return np.array(sums, dtype=np.uint32)
