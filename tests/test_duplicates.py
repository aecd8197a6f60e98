"""Near-duplicates against every pair in plain loops."""

import tracemalloc

import numpy as np
import pytest
from store_rows import WIDTH, make_row, name_only, new_store

from fwd2bot.errors import InputError
from fwd2bot.store import duplicates as module
from fwd2bot.store.duplicates import duplicates


def near(vector: np.ndarray, cosine: float, seed: int) -> np.ndarray:
    """A unit vector with that cosine to another."""
    noise = np.random.default_rng(seed).standard_normal(WIDTH)
    noise -= (noise @ vector) * vector
    noise /= np.linalg.norm(noise)
    return (cosine * vector + np.sqrt(1 - cosine**2) * noise).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    store = new_store(tmp_path / "s")
    rows = [make_row(f"{i:02}") for i in range(40)]
    rows += [make_row(f"n{i}", vector=near(rows[i % 4].vector, 0.97 + 0.005 * i, i)) for i in range(6)]
    store.add([*rows, name_only("zz", "05")])
    return store


@pytest.mark.parametrize("above", [0.5, 0.9, 0.98, 1.0])
@pytest.mark.parametrize("panel", [1, 700, 1 << 26])
def test_groups_are_those_of_all_pairs(store, monkeypatch, above, panel):
    whole = [(names, block) for names, block in store.vectors()]
    names, vectors = whole[0][0], whole[0][1].astype(np.float64)
    blocks = [(names[i : i + 7], whole[0][1][i : i + 7]) for i in range(0, len(names), 7)]
    monkeypatch.setattr(type(store), "vectors", lambda self: iter(blocks))
    groups = {name: {name} for name in names}
    scores = {}
    for i, first in enumerate(names):
        for j in range(i):
            score = round(float(vectors[i] @ vectors[j]), 9)
            if score >= above:
                scores[first, names[j]] = score
                joined = groups[first] | groups[names[j]]
                groups.update(dict.fromkeys(joined, joined))
    expected = {frozenset(group) for group in groups.values() if len(group) > 1}
    found = duplicates(store, above, panel=panel)
    assert {frozenset(group.images) for group in found} == expected
    assert bool(found) == (above < 1)
    for group in found:
        inside = [score for pair, score in scores.items() if set(pair) <= set(group.images)]
        assert group.score == pytest.approx(min(inside), abs=1e-6)
    assert [group.score for group in found] == sorted((group.score for group in found), reverse=True)


def test_memory_is_bounded_however_many_are_alike(tmp_path, monkeypatch):
    store = new_store(tmp_path / "s")
    one = make_row("one").vector
    store.add([make_row(f"{i:04}", vector=one) for i in range(700)])  # 244,650 pairs
    monkeypatch.setattr(module, "PAIRS", 64)
    tracemalloc.start()
    (group,) = duplicates(store, 0.99, panel=1 << 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(group.images) == 700
    assert peak < 4 << 20  # the pairs alone would be 25 MB


@pytest.mark.parametrize("above", [0.0, -0.1, 1.01, float("nan")])
def test_a_cosine_that_is_none_is_refused(store, above):
    with pytest.raises(InputError, match="more than 0 and at most 1"):
        duplicates(store, above)
