"""Sketches choose the rows that are worth comparing, whatever the order in which rows stand."""

from collections.abc import Iterator

import numpy as np
import pytest
from store_rows import make_row, name_only

from fwd2bot.store import Store, base, sketches
from fwd2bot.store.quantise import quantiser
from fwd2bot.store.rotate import rotate
from fwd2bot.store.sketches import Bytes, Floats, Places, Sketches

CODEC = quantiser("int8")


def some_vectors(count: int, width: int, seed: int = 0) -> Floats:
    """Unit vectors whose variance falls along the axes, as that of a model's does."""
    numbers = np.random.default_rng(seed).standard_normal((count, width)) * np.exp(-np.arange(width) / 48)
    return (numbers / np.linalg.norm(numbers, axis=1, keepdims=True)).astype(np.float32)


def in_blocks(vectors: Floats, first: int = 0) -> Iterator[tuple[Places, Bytes]]:
    for start in range(0, len(vectors), 700):
        codes = CODEC.encode(vectors[start : start + 700])
        yield np.arange(first + start, first + start + len(codes)), codes


@pytest.mark.parametrize(("width", "recall"), [(64, 0.9), (256, 0.98), (600, 0.95)])
def test_candidates_hold_the_nearest(width: int, recall: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketches, "COMPARED", 400)
    rows = some_vectors(8000, width)
    queries = rows[:40] + 0.5 * some_vectors(40, width, seed=1)
    index = Sketches(in_blocks(rows, first=5), len(rows), width, CODEC)
    hits = []
    for query in queries:
        places = index.places[index.nearest(query, 5)] - 5
        assert len(places) < 600
        hits.append(np.isin(np.argsort(-(rows @ query))[:5], places).mean())
    assert np.mean(hits) > recall


def test_choice_is_the_same_in_any_order_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketches, "COMPARED", 20)
    rows = some_vectors(3000, 64)
    order = np.random.default_rng(2).permutation(len(rows))
    query = rows[7]
    straight = Sketches(in_blocks(rows), len(rows), 64, CODEC).nearest(query, 1)
    shuffled = Sketches(in_blocks(rows[order]), len(rows), 64, CODEC).nearest(query, 1)
    assert np.array_equal(np.sort(order[shuffled]), straight)


def test_rows_that_look_alike_are_all_chosen() -> None:
    rows = np.repeat(some_vectors(1, 64), 9000, axis=0)
    assert len(Sketches(in_blocks(rows), len(rows), 64, CODEC).nearest(rows[0], 10)) == 9000


def test_differences_count_signs_and_weights_are_sums_under_signs() -> None:
    rows = some_vectors(50, 72)
    index = Sketches(in_blocks(rows), len(rows), 72, CODEC)
    signs = rotate(CODEC.decode(CODEC.encode(rows))) > 0
    query = rotate(rows[3])
    assert np.array_equal(index._differences(np.packbits(query > 0)), (signs != (query > 0)).sum(axis=1))
    steps = np.rint(query * (127 / np.abs(query).max()))
    assert np.array_equal(index._weighed(np.arange(50), query), signs @ steps)


def test_vectors_are_held_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = some_vectors(40, 64)
    some = np.array([3, 30])
    held = Sketches(in_blocks(rows), len(rows), 64, CODEC).codes(some)
    assert np.array_equal(held, CODEC.encode(rows[some]))
    monkeypatch.setattr(sketches, "MEMORY_WITH_VECTORS", 40 * (8 + 8 + 68) - 1)
    assert Sketches(in_blocks(rows), len(rows), 64, CODEC).codes(some) is None


def test_memory_of_sketches_is_bounded() -> None:
    assert Sketches.fit(53_000_000, 256)
    assert not Sketches.fit(54_000_000, 256)
    for width in (512, 4096):  # 512 signs, whatever the width
        assert Sketches.fit(29_000_000, width)
        assert not Sketches.fit(30_000_000, width)
    for rows, width in ((1_789_000, 256), (128_000, 4096)):
        assert Sketches.fit_with_vectors(rows, width, CODEC)
        assert not Sketches.fit_with_vectors(rows + 1_000, width, CODEC)


# In a store.


@pytest.fixture(params=["vectors in memory", "vectors in the store"])
def sketched(store: Store, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Store:
    monkeypatch.setattr(base, "SKETCHED_FROM", 1)
    if request.param == "vectors in the store":
        monkeypatch.setattr(sketches.Sketches, "codes", lambda *_: None)
    return store


def test_search_over_sketches_equals_search_of_all_rows(sketched: Store) -> None:
    sketched.add([make_row(f"{i}.png") for i in range(60)])
    queries = np.stack([make_row(f"q{i}").vector for i in range(6)])
    assert sketched.search_many(queries, 7) == sketched.search_many(queries, 7, exact=True)
    assert sketched._sketches[1] is not None


def test_search_over_sketches_orders_ties_by_name_and_finds_two_names_once(sketched: Store) -> None:
    vector = make_row("v").vector
    assert vector is not None
    names = [f"{i:02}.png" for i in np.random.default_rng(1).permutation(30)]
    sketched.add([make_row(name, vector=vector) for name in names])
    sketched.add([name_only("00 too.png", "00.png")])
    assert [name for name, _ in sketched.search(vector, 3)] == ["00 too.png", "01.png", "02.png"]


def test_search_over_sketches_sees_what_was_added_and_moved_since(sketched: Store) -> None:
    row = make_row("a", "old")
    assert row.vector is not None
    sketched.add([row, make_row("b")])
    assert sketched.search(row.vector, 1)[0][0] == "a"
    sketched.add([name_only("c", "b"), make_row("d", "new")])
    assert {name for name, _ in sketched.search(row.vector, 9)} == {"a", "b", "d"}
    sketched.add([make_row("a", "other")])  # the old row has no name any more
    assert {name for name, _ in sketched.search(row.vector, 9)} == {"a", "b", "d"}
    assert sketched.search(row.vector, 9) == sketched.search(row.vector, 9, exact=True)


def test_sketches_that_are_too_large_are_not_held(sketched: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketches, "MEMORY", 10)
    sketched.add([make_row("a"), make_row("b")])
    assert len(sketched.search(np.ones(8, dtype=np.float32), 5)) == 2
    assert sketched._sketches[1] is None
