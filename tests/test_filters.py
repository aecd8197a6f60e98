"""Which images a filter lets through, and searching among them."""

import datetime

import numpy as np
import pytest
from store_rows import make_row, name_only, new_store

from fwd2bot.errors import InputError
from fwd2bot.store.filters import EVERYTHING, Filter, Size, listed, parse_filter, search_listed


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
        assert Filter(larger=Size.parse(text)).lets(row)
        assert Filter(smaller=Size.parse(text)).lets(row)
    for text in ("1001", "801x600", "800x601"):
        assert not Filter(larger=Size.parse(text)).lets(row)
    for text in ("999", "799x600", "800x599"):
        assert not Filter(smaller=Size.parse(text)).lets(row)


def test_days_are_whole_and_local():
    day = datetime.date(2024, 2, 29)
    for hour, fine in (((2024, 2, 29, 0, 0), True), ((2024, 2, 29, 23, 59), True), ((2024, 3, 1, 0, 1), False)):
        row = make_row("a", modified=int(datetime.datetime(*hour).timestamp()))
        assert Filter(until=day).lets(row) is fine
        assert Filter(since=day + datetime.timedelta(1)).lets(row) is not fine


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
    among = search_listed(store, queries, 5, Filter(path="7/*"))
    assert among == few.search_many(queries, 5)
    assert [len(found) for found in search_listed(store, queries, 50, Filter(path="7/*"))] == [12, 12, 12]
    assert search_listed(store, queries, 5, EVERYTHING) == store.search_many(queries, 5)
    [[(name, _)]] = search_listed(store, queries[:1], 5, Filter(path="zz/*"))
    assert name == "zz/again.png"
    assert [row.name for row in listed(store, Filter(path="*/3.png"))] == ["3/3.png"]
