"""What every store keeps to, with every quantiser."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_rows import TOKENS, WIDTH, assert_holds, make_row, name_only, new_store

from fwd2bot.errors import InputError, StoreError
from fwd2bot.store import Row, Store, base
from fwd2bot.store import lance as lance_store

# Rows in, rows out.


def test_get_gives_what_was_added_also_after_opening_again(store: Store) -> None:
    store.add([make_row("a/1.png"), make_row("2.png")])
    store.add([make_row("3.png")])
    for opened in (store, Store.open(store.path)):
        assert opened.names() == ["2.png", "3.png", "a/1.png"]
        assert len(opened) == 3
        for name in opened.names():
            assert_holds(opened, name, name)


def test_get_keeps_the_order_and_repeats(store: Store) -> None:
    store.add([make_row(name) for name in "abc"])
    assert [row.name for row in store.get(["c", "a", "c"])] == ["c", "a", "c"]
    assert store.get([]) == []


def test_get_of_fewer_tokens_is_the_beginning_of_all(store: Store) -> None:
    store.add([make_row("a")])
    whole = store.get(["a"])[0].tokens
    part = store.get(["a"], num_tokens=2)[0].tokens
    assert whole is not None
    assert np.array_equal(part, whole[:2])


@pytest.mark.parametrize("count", [0, TOKENS + 1])
def test_get_refuses_more_tokens_than_a_row_holds(store: Store, count: int) -> None:
    store.add([make_row("a")])
    with pytest.raises(StoreError, match=f"holds {TOKENS} tokens an image, so {count}"):
        store.get(["a"], num_tokens=count)


def test_add_of_the_same_row_changes_nothing(store: Store) -> None:
    store.add([make_row("a"), make_row("a")])
    store.add([make_row("a"), make_row("b")])
    assert len(store) == 2
    assert_holds(store, "a", "a")


def test_add_under_another_name_keeps_one_row_that_answers_to_both(store: Store) -> None:
    store.add([make_row("a", "same"), name_only("b", "same"), make_row("x")])
    store.add([name_only("c", "same")])
    for opened in (store, Store.open(store.path)):
        assert len(opened) == 2
        assert opened.names() == ["a", "b", "c", "x"]
        for name in "abc":
            assert_holds(opened, name, "same")
        assert_holds(opened, "x", "x")


def test_add_of_new_content_under_a_name_moves_the_name(store: Store) -> None:
    store.add([make_row("a", "old"), make_row("b")])
    store.add([make_row("a", "new"), make_row("c")])
    for opened in (store, Store.open(store.path)):
        assert len(opened) == 3
        assert_holds(opened, "a", "new")
        assert "old" not in {row.hash for row in opened.get(opened.names())}


def test_add_of_new_content_keeps_the_old_row_while_it_has_another_name(store: Store) -> None:
    store.add([make_row("a", "old"), name_only("b", "old")])
    store.add([make_row("a", "new")])
    assert_holds(store, "a", "new")
    assert_holds(store, "b", "old")


def test_rows_stay_right_after_many_renames_and_tidying(store: Store) -> None:
    random = np.random.default_rng(0)
    truth: dict[str, str] = {}
    for step in range(12):
        rows = [make_row(f"n{random.integers(9)}", f"c{random.integers(20)}") for _ in range(4)]
        store.add(rows)
        truth.update({row.name: row.hash for row in rows})
        if step % 4 == 3:
            store.tidy()
        assert {row.name: row.hash for row in store.listing()} == truth
        assert [row.hash for row in store.get(store.names())] == [truth[name] for name in store.names()]
    assert list(Store.open(store.path).listing()) == list(store.listing())
    assert len(store) == len(set(truth.values()))


def test_add_refuses_a_name_for_content_that_is_not_there(store: Store) -> None:
    with pytest.raises(StoreError, match="without tokens"):
        store.add([name_only("a", "unknown")])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fingerprint": "0" * 64}, "written by fake .*000000"),
        ({"tokens": np.zeros((TOKENS + 1, WIDTH), np.float32)}, "shapes"),
        ({"vector": np.zeros(WIDTH - 1, np.float32)}, "shapes"),
        ({"vector": None}, "shapes"),
        ({"tokens": np.full((TOKENS, WIDTH), np.nan, np.float32)}, "no finite numbers for a: try --dtype float32"),
    ],
)
def test_add_refuses_the_whole_batch_for_one_bad_row(store: Store, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(StoreError, match=says):
        store.add([make_row("b"), make_row("a", **changes)])
    assert store.names() == []


def test_names_of_any_letters_are_kept(store: Store) -> None:
    names = ["sp ace.png", "quo'te\".png", "ünï/日本.png", "new\nline.png", "🦊.png"]
    store.add([make_row(name) for name in names])
    assert Store.open(store.path).names() == sorted(names)
    for name in names:
        assert_holds(store, name, name)


def test_a_store_may_lie_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("relative", "deep/er/my store #1?%20é", "file:x"):
        new_store(Path(path)).add([make_row("a")])
        assert_holds(Store.open(path), "a", "a")


# Finding a name.


def test_find_takes_the_name_or_any_end_of_the_path(store: Store) -> None:
    store.add([make_row("a/1.png", path="/photos/a/1.png"), make_row("b/1.png", path="/photos/b/1.png")])
    for asked in ("a/1.png", "./a/1.png", "photos/a/1.png", "/photos/a/1.png"):
        assert store.find(asked) == "a/1.png"
    for asked in ("c/1.png", "hotos/a/1.png"):
        with pytest.raises(InputError, match="There is no image"):
            store.find(asked)
    with pytest.raises(InputError, match=re.escape("may be 'a/1.png' or 'b/1.png'")):
        store.find("1.png")


def test_find_sees_what_was_added_later(store: Store) -> None:
    store.add([make_row("a.png")])
    with pytest.raises(InputError):
        store.find("photos/b.png")
    store.add([make_row("b.png")])
    assert store.find("photos/b.png") == "b.png"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("foxx.png", "did you mean 'fox.png'"),
        ("FOX.PNG", "did you mean 'fox.png'"),
        ("zzzz", "holds 2 images, the first is 'fox.png'"),
    ],
)
def test_find_suggests_the_nearest(store: Store, asked: str, says: str) -> None:
    store.add([make_row("fox.png"), make_row("owl.png")])
    with pytest.raises(InputError, match=says):
        store.find(asked)


def test_find_in_an_empty_store_says_so(store: Store) -> None:
    with pytest.raises(InputError, match="is empty: add images"):
        store.find("a.png")


# Searching.


def test_search_equals_cosine_of_what_is_stored_in_plain_loops(store: Store) -> None:
    names = [f"{i}.png" for i in range(40)]
    store.add([make_row(name) for name in names[:25]])
    store.add([make_row(name) for name in names[25:]])
    query = make_row("query").vector
    assert query is not None
    scores = {
        row.name: sum(float(a) * float(b) for a, b in zip(row.vector, query, strict=True))
        for row in store.get(names)
        if row.vector is not None
    }
    expected = sorted(scores.items(), key=lambda pair: (-round(pair[1], 9), pair[0]))[:7]
    found = store.search(query, 7)
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-6)


def test_search_orders_ties_by_name_whatever_the_order_of_adding(store: Store) -> None:
    vector = make_row("v").vector
    names = [f"{i:02}.png" for i in np.random.default_rng(1).permutation(30)]
    for part in (names[:11], names[11:13], names[13:]):
        store.add([make_row(name, vector=vector) for name in part])
    assert vector is not None
    assert [name for name, _ in store.search(vector, 5)] == [f"{i:02}.png" for i in range(5)]


def test_search_finds_an_image_of_two_names_once(store: Store) -> None:
    store.add([make_row("b", "same"), name_only("a", "same"), make_row("c")])
    vector = make_row("b", "same").vector
    assert vector is not None
    assert [name for name, _ in store.search(vector, 5)] == ["a", "c"]


def test_search_many_equals_search_of_each(store: Store) -> None:
    store.add([make_row(f"{i}.png") for i in range(20)])
    queries = np.stack([make_row(f"q{i}").vector for i in range(6)])
    assert store.search_many(queries, 3) == [store.search(query, 3) for query in queries]


def test_search_refuses_another_width_and_no_results(store: Store) -> None:
    store.add([make_row("a")])
    with pytest.raises(StoreError, match="Vectors of 8 numbers"):
        store.search(np.zeros(7, np.float32))
    with pytest.raises(InputError, match="at least 1"):
        store.search(np.zeros(8, np.float32), 0)


def test_search_in_an_empty_store_finds_nothing(store: Store) -> None:
    assert store.search(np.zeros(8, np.float32)) == []


# The figures.


def test_info_counts_bytes_as_they_are_stored(store: Store) -> None:
    store.add([make_row(f"{i}.png") for i in range(300)])
    store.add([name_only("again.png", "0.png")])
    info = store.info()
    assert (info.rows, info.names, info.num_tokens, info.width) == (300, 301, TOKENS, WIDTH)
    per_token = {"bf16": 2 * WIDTH, "int8": WIDTH + 4, "int4": WIDTH // 2 + 2, "int2": WIDTH // 4 + 2, "binary": 3}
    assert (info.quantisation, info.bytes_per_row) == (
        info.vector_quantisation,
        (TOKENS + 1) * per_token[info.quantisation],
    )
    assert info.image_bytes == 300 * 1000
    assert info.disk_bytes > 300 * info.bytes_per_row
    assert (info.model, info.fingerprint) == ("fake", "f" * 64)


def test_a_store_of_many_commits_becomes_few_files_with_rows_in_their_places(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lance_store, "COMMITS", 4)
    monkeypatch.setattr(lance_store, "SMALL_FILES", 2)
    monkeypatch.setattr(lance_store, "FILE_BYTES", 5 * store.header.bytes_per_row)
    for step in range(9):
        store.add([make_row(f"{step}-{i}", f"c{(7 * step + i) % 30}") for i in range(3)])
        assert_holds(store, f"{step}-1", f"c{(7 * step + 1) % 30}")
    assert len(list((store.path / "data").iterdir())) < 9
    for opened in (store, Store.open(store.path)):
        for step in range(9):
            for i in range(3):
                assert_holds(opened, f"{step}-{i}", f"c{(7 * step + i) % 30}")


# Removing.


def test_remove_drops_names_and_rows_with_their_last_name(store: Store) -> None:
    store.add([make_row("a", "same"), name_only("b", "same"), make_row("c"), make_row("d")])
    store.remove(["a", "c"])
    for opened in (store, Store.open(store.path)):
        assert opened.names() == ["b", "d"]
        assert len(opened) == 2
        assert_holds(opened, "b", "same")
        assert [name for name, _ in opened.search(make_row("c").vector, 9)] in (["b", "d"], ["d", "b"])
    store.add([make_row("c")])
    assert_holds(store, "c", "c")


def test_remove_takes_a_name_twice_and_refuses_one_that_is_not_there(store: Store) -> None:
    store.add([make_row("fox.png"), make_row("owl.png")])
    with pytest.raises(InputError, match=r"no image 'owl\.jpg' in .*: did you mean 'owl\.png'\?"):
        store.remove(["fox.png", "owl.jpg"])
    assert store.names() == ["fox.png", "owl.png"]
    store.remove(["fox.png", "fox.png"])
    assert store.names() == ["owl.png"]


def test_one_name_is_no_list_of_names(store: Store) -> None:
    store.add([make_row("fox.png")])
    for job in (store.get, store.remove):
        with pytest.raises(InputError, match=r"'fox\.png' is no list of images; put it in a list"):
            job("fox.png")


def test_tidy_erases_rows_that_are_gone(store: Store) -> None:
    rows = [make_row(f"{i}") for i in range(30)]
    store.add(rows)
    store.remove([f"{i}" for i in range(2)])

    def on_disk(row: Row) -> bool:
        assert row.tokens is not None
        codes = store.header.quantiser.encode(row.tokens).tobytes()
        return any(codes in file.read_bytes() for file in (store.path / "data").iterdir())

    store.tidy()
    assert on_disk(rows[0])  # a file is not written again for so few
    store.tidy(erase=True)
    assert [on_disk(row) for row in rows] == [False, False, *[True] * 28]
    for opened in (store, Store.open(store.path)):
        assert {row.name: row.hash for row in opened.listing()} == {row.name: row.hash for row in rows[2:]}
        assert_holds(opened, "7", "7")


def test_an_image_may_be_asked_for_by_the_hash_of_its_content(store: Store) -> None:
    store.add([make_row("b", "same"), name_only("a", "same")])
    assert store.find(make_row("a", "same").hash) == "a"


def test_listing_tells_what_each_file_was(store: Store) -> None:
    store.add([make_row("b", modified=7), make_row("a", width=5), name_only("c", "b")])
    told = [(row.name, row.path, row.modified, row.width, row.file_bytes, row.tokens) for row in store.listing()]
    assert told == [
        ("a", "/photos/a", 0, 5, 1000, None),
        ("b", "/photos/b", 7, 30, 1000, None),
        ("c", "/photos/c", 7, 30, 1000, None),
    ]


def test_the_next_search_in_few_rows_reads_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add([make_row(f"{number}") for number in range(5)])
    query = make_row("3").vector
    assert query is not None
    found = store.search(query, 5)
    read = store.vectors
    monkeypatch.setattr(store, "vectors", lambda: pytest.fail("the rows were read again"))
    assert store.search(query, 5) == found
    monkeypatch.setattr(store, "vectors", read)
    store.add([make_row("new")])
    assert len(store.search(query, 9)) == 6
    monkeypatch.setattr(base, "HELD", 0)
    store.add([make_row("newer")])
    assert len(store.search(query, 9)) == 7
    assert {name for name, _ in store.search(query, 5)} <= {*store.names()}
