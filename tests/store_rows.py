"""Rows of a small made-up model."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from fwd2bot.store import Row, Store

MODEL = {"fingerprint": "f" * 64, "model": "fake"}
TOKENS, WIDTH = 4, 8


def make_row(name: str, content: str | None = None, **changes: Any) -> Row:
    """A row whose numbers follow from the content."""
    key = hashlib.sha256((content or name).encode())
    numbers = np.random.default_rng(int(key.hexdigest()[:8], 16))
    vector = numbers.standard_normal(WIDTH).astype(np.float32)
    values: dict[str, Any] = {
        "name": name,
        "hash": key.hexdigest(),
        "path": f"/photos/{name}",
        "file_bytes": 1000,
        "width": 30,
        "height": 40,
        "fingerprint": MODEL["fingerprint"],
        "tokens": numbers.standard_normal((TOKENS, WIDTH)).astype(np.float32),
        "vector": vector / np.linalg.norm(vector),
    }
    return Row(**{**values, **changes})


def name_only(name: str, content: str) -> Row:
    return make_row(name, content, tokens=None, vector=None)


def new_store(path: Path) -> Store:
    return Store.create(path, num_tokens=TOKENS, width=WIDTH, **MODEL)


def assert_holds(store: Store, name: str, content: str) -> None:
    expected = make_row(name, content)
    [row] = store.get([name])
    assert (row.name, row.hash, row.fingerprint) == (name, expected.hash, MODEL["fingerprint"])
    assert (row.file_bytes, row.width, row.height) == (1000, 30, 40)
    assert row.tokens is not None
    assert row.vector is not None
    assert (np.abs(row.tokens - expected.tokens) <= store.header.quantiser.tolerance(expected.tokens)).all()
    assert abs(np.linalg.norm(row.vector) - 1) < 1e-6
    lost = store.header.vector_quantiser.tolerance(expected.vector)
    assert (np.abs(row.vector - expected.vector) <= 2 * lost).all()  # twice: it is of unit norm again
