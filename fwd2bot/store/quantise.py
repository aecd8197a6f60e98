"""How summary tokens become bytes. One token at a time, so that a row can be cut after any of them.
Each quantiser says how far a decoded number may lie from the original.
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from fwd2bot.errors import StoreError
from fwd2bot.store.rotate import rotate, rotate_back

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class Quantiser(ABC):
    """Tokens of D float32 numbers to bytes and back."""

    name: str

    @abstractmethod
    def token_bytes(self, width: int) -> int:
        """Bytes of one token of `width` numbers, its scale included."""

    @abstractmethod
    def encode(self, tokens: Floats) -> Bytes:
        """(..., D) -> (..., token_bytes(D))."""

    @abstractmethod
    def decode(self, codes: Bytes) -> Floats:
        """(..., token_bytes(D)) -> (..., D)."""

    def signs(self, codes: Bytes) -> Bytes:
        """(n, token_bytes(D)) -> (n, ceil(D / 8)): a bit for the sign of each rotated number; a search scans them."""
        return np.packbits(rotate(self.decode(codes)) > 0, axis=-1)

    @abstractmethod
    def tolerance(self, tokens: Floats) -> Floats:
        """(..., D) -> (..., D): how far each decoded number may lie from the original."""


class Bfloat16(Quantiser):
    """The upper half of a float32, rounded to the nearest: 2 bytes a number."""

    name = "bf16"

    def token_bytes(self, width: int) -> int:
        return 2 * width

    def encode(self, tokens: Floats) -> Bytes:
        bits = np.ascontiguousarray(tokens, dtype="<f4").view("<u4").astype(np.uint64)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # ties to even
        return rounded.astype("<u2").view(np.uint8)

    def decode(self, codes: Bytes) -> Floats:
        upper = np.ascontiguousarray(codes).view("<u2").astype("<u4")
        return (upper << 16).view("<f4").astype(np.float32, copy=False)

    def tolerance(self, tokens: Floats) -> Floats:
        return np.abs(tokens) * np.float32(2**-8) + np.finfo(np.float32).tiny


class Int8(Quantiser):
    """A float32 scale for each token, then a byte a number: its largest number is 127 scales from 0."""

    name = "int8"

    def token_bytes(self, width: int) -> int:
        return 4 + width

    def encode(self, tokens: Floats) -> Bytes:
        tokens = np.asarray(tokens, dtype=np.float32)
        scale = _int8_scale(tokens)
        steps = np.clip(np.rint(tokens / scale), -127, 127).astype(np.int8)
        return np.concatenate([scale.astype("<f4").view(np.uint8), steps.view(np.uint8)], axis=-1)

    def decode(self, codes: Bytes) -> Floats:
        codes = np.ascontiguousarray(codes)
        scale = np.ascontiguousarray(codes[..., :4]).view("<f4")
        return codes[..., 4:].view(np.int8).astype(np.float32) * scale.astype(np.float32)

    def tolerance(self, tokens: Floats) -> Floats:
        return np.broadcast_to(_int8_scale(tokens) * np.float32(0.51), tokens.shape)


def _int8_scale(tokens: Floats) -> Floats:
    """(..., D) -> (..., 1)."""
    largest = np.abs(tokens).max(axis=-1, keepdims=True)
    return np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)


class Spherical(Quantiser):
    """The norm in bfloat16, then the direction, rotated, in so many bits a number.

    After the rotation numbers are close to normally distributed, so each becomes the nearest of the levels that lose
    least of a normal distribution (Max, "Quantizing for minimum distortion", 1960). One bit keeps the signs alone: the
    binary spherical quantisation of QLIP (arXiv 2502.05178, after 2406.07548). What is decoded has the token's norm.
    """

    def __init__(self, name: str, *levels: float) -> None:
        """`levels`: the positive ones, rising; as many negative ones mirror them."""
        self.name = name
        self._levels = np.array([*(-level for level in reversed(levels)), *levels], dtype=np.float32)
        self._edges = (self._levels[1:] + self._levels[:-1]) / 2
        bits = len(self._levels).bit_length() - 1
        self._shifts = np.arange(0, 8, bits, dtype=np.uint8)  # of the numbers in a byte
        self._of_byte = self._levels[np.arange(256)[:, None] >> self._shifts & (len(self._levels) - 1)]

    def token_bytes(self, width: int) -> int:
        """Raises StoreError where the width does not fill whole bytes."""
        if width % len(self._shifts):
            raise StoreError(
                f"Tokens of {width} numbers cannot be kept as {self.name}, "
                f"which packs {len(self._shifts)} into a byte: choose int8 or bf16."
            )
        return 2 + width // len(self._shifts)

    def encode(self, tokens: Floats) -> Bytes:
        norm, unit = _polar(tokens)
        steps: Bytes = np.zeros(unit.shape, dtype=np.uint8)
        for edge in self._edges:
            steps += unit > edge
        grouped = (
            steps.reshape(*steps.shape[:-1], steps.shape[-1] // len(self._shifts), len(self._shifts)) << self._shifts
        )
        return np.concatenate([_BF16.encode(norm), np.bitwise_or.reduce(grouped, axis=-1)], axis=-1)

    def signs(self, codes: Bytes) -> Bytes:
        return np.packbits(self._rotated(codes) > 0, axis=-1)

    def decode(self, codes: Bytes) -> Floats:
        norm, numbers = _BF16.decode(codes[..., :2]), self._rotated(codes)
        length = np.sqrt((numbers**2).sum(axis=-1, keepdims=True))
        tokens: Floats = rotate_back(numbers / length) * norm
        return tokens

    def _rotated(self, codes: Bytes) -> Floats:
        """The levels, (..., token_bytes(D)) -> (..., D)."""
        levels: Floats = self._of_byte[codes[..., 2:]]  # (..., bytes, numbers in a byte)
        return levels.reshape(*codes.shape[:-1], levels.shape[-2] * levels.shape[-1])

    def tolerance(self, tokens: Floats) -> Floats:
        """Twice the distance to the levels, since the norm is kept, and what is lost of the norm."""
        norm, unit = _polar(tokens)
        inside = np.diff(self._levels).max() / 2
        distance = np.maximum(inside, np.abs(unit) - self._levels[-1])
        relative = 2 * np.sqrt((distance**2).mean(axis=-1, keepdims=True))
        lost = norm * (np.minimum(relative, np.float32(2**0.5)) + np.float32(2**-7)) + np.finfo(np.float32).tiny
        return np.broadcast_to(lost, tokens.shape)


def _polar(tokens: Floats) -> tuple[Floats, Floats]:
    """Norms (..., 1), and the rotated tokens with a mean square of 1; zeros where the norm is 0."""
    exact = np.asarray(tokens, dtype=np.float64)
    norm = np.sqrt((exact**2).sum(axis=-1, keepdims=True))
    unit = exact * (exact.shape[-1] ** 0.5 / np.where(norm > 0, norm, 1))
    return norm.astype(np.float32), rotate(unit.astype(np.float32))


_BF16 = Bfloat16()
DEFAULT_QUANTISATION = "int2"
DEFAULT_VECTORS = "int8"
QUANTISERS: dict[str, Quantiser] = {
    quantiser.name: quantiser
    for quantiser in (
        _BF16,
        Int8(),
        Spherical("int4", 0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326),
        Spherical("int2", 0.4528, 1.5104),
        Spherical("binary", 1.0),
    )
}


def quantiser(name: str) -> Quantiser:
    """The quantiser of that name. Raises StoreError where there is none."""
    if name not in QUANTISERS:
        raise StoreError(f"There is no quantisation {name!r}: choose one of {', '.join(QUANTISERS)}.")
    return QUANTISERS[name]
