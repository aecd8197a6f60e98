"""How summary tokens become bytes. One token at a time, so that a row can be cut after any of them.
Each quantiser says how far a decoded number may lie from the original.
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from fwd2bot.errors import StoreError

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


DEFAULT_QUANTISATION = "bf16"
QUANTISERS: dict[str, Quantiser] = {quantiser.name: quantiser for quantiser in (Bfloat16(), Int8())}


def quantiser(name: str) -> Quantiser:
    """The quantiser of that name. Raises StoreError where there is none."""
    if name not in QUANTISERS:
        raise StoreError(f"There is no quantisation {name!r}: choose one of {', '.join(QUANTISERS)}.")
    return QUANTISERS[name]
