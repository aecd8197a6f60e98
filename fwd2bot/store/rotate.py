"""A rotation that spreads what a token says evenly over its numbers, so that few bits each can hold them.

Summary tokens have some channels that are larger than the others. Signs by chance and a Hadamard transform mix all
channels into each; what comes out is close to normally distributed whatever went in, and dot products are kept. The
signs follow from SHAKE-256 alone, so that rows can be read for ever.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def rotate(tokens: Floats) -> Floats:
    """(..., D) -> (..., D). Where D is no power of two, the last numbers are mixed, then the first, as many as can be,
    so that each of the first holds a part of all.
    """
    rotated = np.array(tokens, dtype=np.float32, order="C")
    for part, signs in _passes(rotated.shape[-1]):
        rotated[..., part] = _mixed(rotated[..., part] * signs)
    return rotated


def rotate_back(tokens: Floats) -> Floats:
    """The inverse of `rotate`."""
    rotated = np.array(tokens, dtype=np.float32, order="C")
    for part, signs in reversed(_passes(rotated.shape[-1])):
        rotated[..., part] = _mixed(rotated[..., part]) * signs
    return rotated


@lru_cache(maxsize=8)
def _passes(width: int) -> list[tuple[slice, Floats]]:
    """What is mixed, in turn: where, and the signs that it gets before."""
    size = 1 << (width.bit_length() - 1)
    parts = [slice(0, size)] if size == width else [slice(width - size, width), slice(0, size)]
    content = np.frombuffer(hashlib.shake_256(b"fwd2bot").digest((len(parts) * size + 7) // 8), dtype=np.uint8)
    signs = 1 - 2 * np.unpackbits(content)[: len(parts) * size].astype(np.float32)
    return list(zip(parts, signs.reshape(len(parts), size), strict=True))


def _mixed(tokens: Floats) -> Floats:
    """The Hadamard transform of unit norm, its own inverse. It adds in an order that the width alone decides, so that a
    token comes out the same alone and among others.
    """
    size = tokens.shape[-1]
    columns = np.ascontiguousarray(tokens.reshape(-1, size).T) * np.float32(size**-0.5)  # a number of all tokens a line
    half = 1
    while half < size:
        pairs = columns.reshape(size // (2 * half), 2, -1)
        left, right = pairs[:, 0], pairs[:, 1]
        left += right
        right *= -2
        right += left
        half *= 2
    return columns.T.reshape(tokens.shape)
