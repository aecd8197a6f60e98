"""What a store holds: its header, and rows."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fwd2bot.errors import StoreError
from fwd2bot.store.quantise import DEFAULT_QUANTISATION, DEFAULT_VECTORS, Bytes, Quantiser, quantiser

FORMAT = 2
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is true of every row of a store."""

    model: str  # its name
    source: str  # what loads it again: a bundled name, a folder, a hub id
    fingerprint: str
    num_tokens: int  # K
    width: int  # D
    quantisation: str = DEFAULT_QUANTISATION  # of the tokens
    vector_quantisation: str = DEFAULT_VECTORS
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.num_tokens < 1 or self.width < 1:
            raise StoreError(f"A row cannot hold {self.num_tokens} tokens of {self.width} numbers: at least 1 of each.")
        _ = self.bytes_per_row

    @property
    def quantiser(self) -> Quantiser:
        return quantiser(self.quantisation)

    @property
    def vector_quantiser(self) -> Quantiser:
        return quantiser(self.vector_quantisation)

    def decoded_vectors(self, codes: Bytes) -> Floats:
        """(n, D): as they are kept, but of unit norm again."""
        vectors = self.vector_quantiser.decode(codes)
        norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)

    @property
    def bytes_per_row(self) -> int:
        """Summary tokens and the search vector, all with their scales."""
        tokens = self.num_tokens * self.quantiser.token_bytes(self.width)
        return tokens + self.vector_quantiser.token_bytes(self.width)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, path: Path) -> "Header":
        """Raises StoreError where the text is of another format, or damaged."""
        try:
            values = json.loads(text)
            version = int(values["format"])
            if version > FORMAT:
                raise StoreError(
                    f"{path} was written by a newer fwd2bot (format {version}; this one reads {FORMAT}): upgrade it."
                )
            if version < FORMAT:
                raise StoreError(
                    f"{path} was written by an older fwd2bot (format {version}; this one reads {FORMAT}): "
                    "compress the images again, into a new store."
                )
            return cls(**{field.name: values[field.name] for field in fields(cls)})
        except (KeyError, TypeError, ValueError):
            raise StoreError(f"{path} has a damaged header: restore it from a copy, or compress anew.") from None


@dataclass(frozen=True, kw_only=True)
class Row:
    """An image: what its file was, and what the model made of it."""

    name: str
    hash: str
    path: str = ""
    file_bytes: int = 0
    modified: int = 0  # when its file was, in seconds since 1970
    width: int = 0  # pixels
    height: int = 0
    fingerprint: str = ""  # of the model that wrote the tokens
    tokens: Floats | None = None  # (K, D); None: another name for an image whose tokens are already there
    vector: Floats | None = None  # (D,), unit norm


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """The figures of a store. Bytes are whole numbers; `disk_bytes` counts all that lies in its folder."""

    path: str
    rows: int
    names: int
    num_tokens: int
    width: int
    quantisation: str
    vector_quantisation: str
    bytes_per_row: int
    disk_bytes: int
    image_bytes: int
    model: str
    source: str
    fingerprint: str
    format: int
