"""Names lead to the places of their rows."""

import pyarrow as pa
import pytest

from fwd2bot.store import names as names_module
from fwd2bot.store.names import Names

ROWS = [
    (["b.png", "ünï.png"], ["/photos/b.png", "/other/ünï.png"]),
    ([], []),  # a row that no name finds any more
    (["a/1.png"], ["/photos/a/1.png"]),
    (["1.png"], ["1.png"]),
]


@pytest.fixture
def found() -> Names:
    """In two chunks, as a store of two commits gives them."""
    kind = pa.list_(pa.string())

    def table(first: int, end: int) -> pa.Table:
        names, paths = ([row[which] for row in ROWS[first:end]] for which in (0, 1))
        hashes = [bytes([place]) * 32 for place in range(first, end)]
        return pa.table({"names": pa.array(names, kind), "paths": pa.array(paths, kind), "hash": hashes})

    return Names(pa.concat_tables([table(0, 1), table(1, 2), table(2, 4)]))


def test_every_name_leads_to_its_row(found: Names) -> None:
    assert [found.place(name) for name in ("b.png", "ünï.png", "a/1.png", "1.png")] == [0, 0, 2, 3]
    assert [found.place(name) for name in ("", "b.pn", "zzz", "a/1.pngx")] == [None] * 4


def test_names_are_sorted(found: Names) -> None:
    assert found.all() == ["1.png", "a/1.png", "b.png", "ünï.png"]
    assert (len(found), found.first) == (4, "1.png")


def test_ending_takes_whole_parts_of_paths(found: Names) -> None:
    assert found.ending("/1.png") == {2: "a/1.png", 3: "1.png"}
    assert found.ending("/a/1.png") == {2: "a/1.png"}
    assert found.ending("/hotos/b.png") == {}


def test_hash_leads_to_the_first_name(found: Names) -> None:
    assert [found.of_hash(f"{place:02x}" * 32) for place in range(5)] == ["b.png", None, "a/1.png", "1.png", None]
    assert found.of_hash("b.png") is None
    assert (found.rows, found.named.tolist()) == (3, [True, False, True, True])


def test_near_is_what_stands_around(found: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "NEAR", 1)
    assert found.near("a/2.png") == ["a/1.png", "b.png"]
    assert found.near("0") == ["1.png"]


def test_no_names_at_all() -> None:
    kind = pa.list_(pa.string())
    nothing = Names(
        pa.table({"names": pa.array([], kind), "paths": pa.array([], kind), "hash": pa.array([], pa.binary())})
    )
    assert (len(nothing), nothing.all(), nothing.place("a")) == (0, [], None)
    assert (nothing.ending("/a"), nothing.near("a")) == ({}, [])
