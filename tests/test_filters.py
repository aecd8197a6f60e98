"""Which images a filter lets through, and searching among them."""

import datetime

import numpy as np
import pytest
from store_rows import make_row, name_only, new_store

from fwd2bot.errors import InputError
from fwd2bot.store import base, sketches
from fwd2bot.store.filters import EVERYTHING, FIGURES, Filter, Size, parse_filter


def lets(wanted, *rows):
    """Which rows a filter lets through."""
    figures = {name: np.array([getattr(row, name) for row in rows]) for name in FIGURES}
    return wanted.passing([row.name for row in rows], [row.path for row in rows], figures).tolist()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("12000", Size(file_bytes=12_000)),
        ("300KB", Size(file_bytes=300_000)),
        ("1.5 mb", Size(file_bytes=1_500_000)),
        ("2G", Size(file_bytes=2_000_000_000)),
        (" 800x600 ", Size(pixels=(800, 600))),
    ],
)
def test_sizes_are_bytes_or_pixels(text, size):
    assert Size.parse(text) == size


@pytest.mark.parametrize("text", ["", "big", "-1", "1TBB", "800x", "8e3", "१२"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="is no size"):
        Size.parse(text)


def test_bounds_themselves_are_let_through():
    row = make_row("a", file_bytes=1000, width=800, height=600)
    for text in ("1000", "1KB", "800x600"):
        assert lets(Filter(larger=Size.parse(text)), row) == [True]
        assert lets(Filter(smaller=Size.parse(text)), row) == [True]
    for text in ("1001", "801x600", "800x601"):
        assert lets(Filter(larger=Size.parse(text)), row) == [False]
    for text in ("999", "799x600", "800x599"):
        assert lets(Filter(smaller=Size.parse(text)), row) == [False]


def test_days_are_whole_and_local():
    day = datetime.date(2024, 2, 29)
    for hour, fine in (((2024, 2, 29, 0, 0), True), ((2024, 2, 29, 23, 59), True), ((2024, 3, 1, 0, 1), False)):
        row = make_row("a", modified=int(datetime.datetime(*hour).timestamp()))
        assert lets(Filter(until=day), row) == [fine]
        assert lets(Filter(since=day + datetime.timedelta(1)), row) == [not fine]


def test_parse_of_nothing_lets_everything_through():
    assert parse_filter(None, None, None, None, None) == EVERYTHING
    with pytest.raises(InputError, match="is no date"):
        parse_filter(None, "yesterday", None, None, None)


def test_search_among_some_is_the_search_in_a_store_of_those(tmp_path):
    store, few = new_store(tmp_path / "all"), new_store(tmp_path / "few")
    rows = [make_row(f"{i % 10}/{i}.png") for i in range(120)]
    store.add([*rows, name_only("zz/again.png", "3/3.png")])
    few.add([row for row in rows if row.name.startswith("7/")])
    queries = np.stack([make_row(f"q{i}").vector for i in range(3)])
    among = store.search_many(queries, 5, wanted=Filter(path="7/*"))
    assert among == few.search_many(queries, 5)
    assert [len(found) for found in store.search_many(queries, 50, wanted=Filter(path="7/*"))] == [12, 12, 12]
    assert store.search_many(queries, 5, wanted=EVERYTHING) == store.search_many(queries, 5)
    [[(name, _)]] = store.search_many(queries[:1], 5, wanted=Filter(path="zz/*"))
    assert name == "zz/again.png"
    assert store.search_many(queries, 5, wanted=Filter(path="nowhere/*")) == [[], [], []]
    assert [row.name for row in store.listing(Filter(path="*/3.png"))] == ["3/3.png"]
    assert [row.name for row in store.listing(Filter(path="zz/*"))] == ["zz/again.png"]


def test_patterns_are_of_names_or_paths_and_keep_to_case():
    row = make_row("fox.png", path="/Photos/2024/a [1]/fox.png")
    fits = ["fox.png", "f?x*", "/Photos/*/fox.png", "*2024*", "*a [1]*", "FOX.png", "fox", "/Photos/*/fox"]
    fits += ["[f]ox.png", "*[[]1]*"]  # a bracket is a bracket: many names of files have some
    assert [lets(Filter(path=text), row)[0] for text in fits] == [True] * 5 + [False] * 5


def test_all_that_is_asked_must_fit():
    rows = [make_row(name, file_bytes=size) for name, size in (("a/1", 10), ("a/2", 20), ("b/3", 20))]
    assert lets(Filter(path="a/*", larger=Size(file_bytes=15)), *rows) == [False, True, False]


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31"])
def test_days_of_any_year_are_taken(text):
    row = make_row("a", modified=1_700_000_000)
    assert lets(parse_filter(None, text, None, None, None), row) == [text < "2000"]
    assert lets(parse_filter(None, None, text, None, None), row) == [text > "2000"]


@pytest.mark.parametrize("exact", [False, True])
def test_a_search_among_many_looks_at_sketches_of_those(exact, tmp_path, monkeypatch):
    """With sketches of all rows, of which a part is asked for: the same as a store of that part gives."""
    monkeypatch.setattr(base, "SKETCHED_FROM", 30)
    monkeypatch.setattr(base, "AT_ONCE", 16)
    monkeypatch.setattr(sketches, "COMPARED", 1)  # 20 times as many as are asked for
    store, few = new_store(tmp_path / "all"), new_store(tmp_path / "few")
    rows = [make_row(f"{i % 2}/{i}.png") for i in range(200)]
    store.add(rows)
    few.add([row for row in rows if row.name.startswith("1/")])
    queries = np.stack([make_row(f"q{i}").vector for i in range(3)])
    truth = few.search_many(queries, 2, exact=True)
    assert store.search_many(queries, 2, wanted=Filter(path="1/*"), exact=exact) == truth
