"""Names lead to the places of their rows."""

import pyarrow as pa
import pytest

from fwd2bot.store import names as names_module
from fwd2bot.store.names import Entry, Known, Names, path_of, path_text

ROWS = [
    (["b.png", "ünï.png"], ["/photos/b.png", "/other/ünï.png"]),
    ([], []),  # a row that no name finds any more
    (["a/1.png"], ["/photos/a/1.png"]),
    (["1.png"], ["1.png"]),
]
HASHES = [bytes([7] * 8 + [place]) + bytes(23) for place in range(3)] + [bytes([3]) + bytes(31)]
"""Three begin alike; one has the beginning's zeros to its end."""


@pytest.fixture
def found() -> Names:
    """In two chunks, as a store of two commits gives them."""
    kind = pa.list_(pa.string())

    def table(first: int, end: int) -> pa.Table:
        names, paths = ([row[which] for row in ROWS[first:end]] for which in (0, 1))
        hashes = pa.array([HASHES[place] for place in range(first, end)], pa.binary(32))
        return pa.table({"names": pa.array(names, kind), "paths": pa.array(paths, kind), "hash": hashes})

    return Names(pa.concat_tables([table(0, 1), table(1, 2), table(2, 4)]))


def test_every_name_leads_to_its_row(found: Names) -> None:
    assert [found.place(name) for name in ("b.png", "ünï.png", "a/1.png", "1.png")] == [0, 0, 2, 3]
    assert [found.place(name) for name in ("", "b.pn", "zzz", "a/1.pngx")] == [None] * 4


def test_names_are_sorted(found: Names) -> None:
    assert found.between(0, 9) == ["1.png", "a/1.png", "b.png", "ünï.png"]
    assert (len(found), found.first) == (4, "1.png")


def test_ending_takes_whole_parts_of_paths(found: Names) -> None:
    assert found.ending("/1.png") == {2: "a/1.png", 3: "1.png"}
    assert found.ending("/a/1.png") == {2: "a/1.png"}
    assert found.ending("/hotos/b.png") == {}


def test_hash_leads_to_the_row_and_its_names(found: Names) -> None:
    entries = [found.entry(key.hex()) for key in HASHES]
    names = [dict(zip(*row, strict=True)) for row in ROWS]
    assert entries == [Entry(place, one) for place, one in enumerate(names)]
    for text in ("b.png", "ff" * 32, HASHES[0].hex().replace("7", "F"), HASHES[3].hex()[1:]):
        assert found.entry(text) is None
    assert [found.hash(place) for place in range(4)] == [key.hex() for key in HASHES]
    assert (found.rows, found.named.tolist()) == (3, [True, False, True, True])
    assert found.hashes().tolist() == sorted(key.hex().encode() for key in HASHES)


def test_blocks_list_all_names_in_order(found: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "BLOCK", 3)
    parts = [(names, paths, places.tolist()) for names, paths, places in found.blocks()]
    assert parts == [
        (["1.png", "a/1.png", "b.png"], ["1.png", "/photos/a/1.png", "/photos/b.png"], [3, 2, 0]),
        (["ünï.png"], ["/other/ünï.png"], [0]),
    ]


def test_known_is_a_version_and_what_came_later(found: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Known(found)
    assert not known.grown
    known.add([("ab" * 32, {"new.png": "/n/new.png"}), ("cd" * 32, {"x": "/x", "y": "/y"})], first=4)
    assert known.grown
    assert known.owner("y") == ("cd" * 32, "/y")
    assert known.owner("ünï.png") == (HASHES[0].hex(), "/other/ünï.png")
    assert known.owner("z") is None
    assert (known.place("cd" * 32), known.place(HASHES[2].hex())) == (5, 2)
    assert known.place_of("ef" * 32) is None
    assert not known.full
    monkeypatch.setattr(names_module, "FEW", 1)
    assert known.full


def test_near_is_what_stands_around(found: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "NEAR", 1)
    assert found.near("a/2.png") == ["a/1.png", "b.png"]
    assert found.near("0") == ["1.png"]


@pytest.mark.parametrize("path", ["/a/b.png", "/ünï/\udcff\udc80.png", "\ud83d/\\xff", "/\udcff00", ""])
def test_a_path_of_any_bytes_is_text_and_back(path: str) -> None:
    assert path_of(path_text(path).encode().decode()) == path


def test_a_path_that_is_no_text_comes_back() -> None:
    kind = pa.list_(pa.string())
    columns = {"names": ["x"], "paths": [path_text("/p/\udcff.png")]}
    table = {name: pa.array([values], kind) for name, values in columns.items()}
    found = Names(pa.table({**table, "hash": pa.array([b"0" * 32], pa.binary(32))}))
    assert found.ending("/\udcff.png") == {0: "x"}
    assert found.ending("/\ud800") == {}
    assert [paths for _, paths, _ in found.blocks()] == [["/p/\udcff.png"]]
    entry = found.entry((b"0" * 32).hex())
    assert entry is not None
    assert entry.names == {"x": "/p/\udcff.png"}


def test_no_names_at_all() -> None:
    kind = pa.list_(pa.string())
    nothing = Names(
        pa.table({"names": pa.array([], kind), "paths": pa.array([], kind), "hash": pa.array([], pa.binary(32))})
    )
    assert (len(nothing), nothing.between(0, 9), nothing.place("a")) == (0, [], None)
    assert (nothing.ending("/a"), nothing.near("a"), list(nothing.blocks())) == ({}, [], [])
    assert nothing.entry("00" * 32) is None
