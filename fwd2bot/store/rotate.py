"""A rotation that spreads what a token says evenly over its numbers, so that few bits each can hold them.

Summary tokens have a few channels that are far larger than the others. Signs by chance and a Hadamard transform mix
all channels into each; what comes out is close to normally distributed whatever went in, and dot products are kept.
The signs follow from SHAKE-256 alone, so that rows can be read for ever.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def rotate(tokens: Floats) -> Floats:
    """(..., D) -> (..., D). Blocks of the largest power of two that divides D are mixed, each in itself."""
    return _mixed(np.ascontiguousarray(tokens, dtype=np.float32) * _signs(tokens.shape[-1]))


def rotate_back(tokens: Floats) -> Floats:
    """The inverse of `rotate`."""
    mixed = _mixed(np.array(tokens, dtype=np.float32, order="C"))
    mixed *= _signs(tokens.shape[-1])
    return mixed


@lru_cache(maxsize=8)
def _signs(width: int) -> Floats:
    """(D,) of 1 and -1."""
    content = np.frombuffer(hashlib.shake_256(b"fwd2bot").digest((width + 7) // 8), dtype=np.uint8)
    return 1 - 2 * np.unpackbits(content)[:width].astype(np.float32)


def _mixed(tokens: Floats) -> Floats:
    """The Hadamard transform of unit norm, its own inverse, in place. Adds in an order that D alone decides, so that a
    token comes out the same alone and among others.
    """
    width = tokens.shape[-1]
    size = width & -width
    tokens *= np.float32(size**-0.5)
    half = 1
    while half < size:
        pairs = tokens.reshape(-1, width // (2 * half), 2, half)
        left, right = pairs[:, :, 0], pairs[:, :, 1]
        left += right
        right *= -2
        right += left
        half *= 2
    return tokens
