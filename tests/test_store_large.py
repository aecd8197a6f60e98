"""What a store of very many rows needs: memory for some of them at a time, and files that stay while they are read."""

from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread, current_thread
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from store_rows import assert_holds, make_row, name_only, new_store

from fwd2bot.errors import StoreError
from fwd2bot.store import Store, check, guards
from fwd2bot.store import lance as lance_store
from fwd2bot.store.care import verify
from fwd2bot.store.lance import LanceStore
from fwd2bot.store.names import Known


@pytest.fixture
def filled(tmp_path: Path) -> LanceStore:
    """Thirty rows of three commits; those below ten have a second name."""
    store = new_store(tmp_path / "s")
    for part in range(0, 30, 10):
        store.add([make_row(f"{i}") for i in range(part, part + 10)])
    store.add([name_only(f"again {i}", f"{i}") for i in range(10)])
    assert isinstance(store, LanceStore)
    return store


CONTENTS = {**{f"{i}": f"{i}" for i in range(30)}, **{f"again {i}": f"{i}" for i in range(10)}}


def assert_names(store: Store, names: set[str]) -> None:
    for opened in (store, Store.open(store.path)):
        assert opened.names() == sorted(names)
        assert len(opened) == len({CONTENTS[name] for name in names})
        for name in names:
            assert_holds(opened, name, CONTENTS[name])


def on_disk(store: Store, name: str) -> bool:
    tokens = make_row(name).tokens
    assert tokens is not None
    codes = store.header.quantiser.encode(tokens).tobytes()
    return any(codes in file.read_bytes() for file in (store.path / "data").iterdir())


# Removing.


def test_rows_that_lose_their_last_name_go_unread(filled: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        for method in ("take", "merge_insert"):
            patch.setattr(lance.LanceDataset, method, lambda *_, **__: pytest.fail("rows are read"))
        filled.remove([f"{i}" for i in range(10, 30)])
    assert_names(filled, {name for name in CONTENTS if int(CONTENTS[name]) < 10})
    assert not filled.has(make_row("20").hash)
    assert verify(filled.path).whole
    assert on_disk(filled, "20")
    filled.tidy(erase=True)
    assert [on_disk(filled, name) for name in ("20", "9")] == [False, True]
    filled.remove(filled.names())
    filled.tidy(erase=True)
    assert_names(filled, set())
    filled.add([make_row("20")])
    assert_names(filled, {"20"})


def test_many_names_go_in_several_commits_each_with_its_guards(
    filled: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lance_store, "DELETED", 4)
    monkeypatch.setattr(lance_store, "RENAMED_BYTES", 3 * filled.header.bytes_per_row)
    reader, path, commits = Store.open(filled.path), filled.path, []

    def to_change(of: Path) -> Any:
        bare = [file for file in guards.guarded_files(path) if not guards.guard_file(path, file).exists()]
        commits.append(bare)
        return lance.dataset(str(of))

    monkeypatch.setattr(lance_store, "to_change", to_change)
    gone = {"0", "again 1", "2", "3", "4", "5", "again 5", *(f"{i}" for i in range(29, 21, -1))}
    filled.remove(sorted(gone))
    assert commits == [[]] * (2 + 3)  # five rows of two names, in two commits; nine rows in three
    assert verify(path).unguarded == 0
    assert_names(filled, {*CONTENTS} - gone)
    assert reader.names() == sorted(CONTENTS)
    assert_holds(reader, "again 5", "5")


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4])
def test_a_removal_that_dies_between_two_commits_leaves_a_sound_store(
    after: int, filled: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lance_store, "DELETED", 2)
    monkeypatch.setattr(lance_store, "RENAMED_BYTES", filled.header.bytes_per_row)
    gone, seen = ["0", "again 1", "11", "22", "13", "24"], []

    def to_change(of: Path) -> Any:
        seen.append(of)
        if len(seen) > after:
            raise KeyboardInterrupt
        return lance.dataset(str(of))

    with monkeypatch.context() as patch:
        patch.setattr(lance_store, "to_change", to_change)
        if after < 4:
            with pytest.raises(KeyboardInterrupt):
                filled.remove(gone)
        else:
            filled.remove(gone)
    left = set(Store.open(filled.path).names())
    lost = [len({*some} - left) for some in (gone[:2], gone[2:])]
    assert lost == [min(after, 2), 2 * max(after - 2, 0)]
    assert verify(filled.path).whole
    rest = sorted(left & {*gone})
    if rest:
        filled.remove(rest)
    filled.tidy(erase=True)
    assert_names(filled, {*CONTENTS} - {*gone})
    assert not on_disk(filled, "13")


def test_a_row_that_is_not_found_where_it_is_deleted_is_damage(
    filled: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lance.LanceDataset, "delete", lambda *_: {"num_deleted_rows": 0})
    with pytest.raises(StoreError, match=r"is damaged \(rows are missing\): run `fwd2bot repair"):
        filled.remove(["11"])


# Two gigabytes of names and paths.


def test_texts_of_all_rows_are_never_joined(filled: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An array of Arrow's holds two gigabytes of text."""
    one_piece = check.one_piece

    def small(column: Any) -> Any:
        if isinstance(column, pa.ChunkedArray) and pa.types.is_list(column.type) and column.num_chunks > 1:
            raise pa.ArrowInvalid("offset overflow while concatenating arrays")
        return one_piece(column)

    monkeypatch.setattr(check, "one_piece", small)
    store = Store.open(filled.path)
    assert isinstance(store, LanceStore)
    assert store._who_table()["paths"].num_chunks > 1
    info = store.info()
    assert (info.rows, info.names, info.image_bytes) == (30, 40, 30_000)
    assert store.names() == sorted(CONTENTS)
    assert {row.name: row.hash for row in store.listing()} == {name: make_row(CONTENTS[name]).hash for name in CONTENTS}
    assert store.find("photos/25") == "25"


def test_damage_in_any_part_of_the_rows_is_told(filled: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = check.sound

    def last_is_hurt(table: Any, parts: list[str]) -> Any:
        hashes = table["hash"].to_pylist()
        return sound(table, parts) & np.array([key.hex() != make_row("29").hash for key in hashes], dtype=bool)

    monkeypatch.setattr(check, "sound", last_is_hurt)
    for ask in (LanceStore.info, LanceStore.names):
        with pytest.raises(StoreError, match=r"is damaged \(rows: 1\): run `fwd2bot repair"):
            ask(LanceStore.open(filled.path))


# Threads that ask what is known while rows come and go.


def ask_in_a_thread(store: Store, told: list[bool], seconds: float | None = None) -> None:
    thread = Thread(target=lambda: told.append(store.has(make_row("1").hash)))
    thread.start()
    thread.join(seconds)


def counted(patch: pytest.MonkeyPatch) -> list[int]:
    """Grows when who is there is read."""
    reads: list[int] = []
    who = LanceStore._who_table

    def table(self: LanceStore) -> pa.Table:
        reads.append(1)
        return who(self)

    patch.setattr(LanceStore, "_who_table", table)
    return reads


def test_a_thread_that_asks_while_rows_are_added_reads_nothing(
    filled: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert filled.has(make_row("1").hash)
    reads, told, add = counted(monkeypatch), list[bool](), Known.add

    def late(self: Known, rows: Any, first: int) -> None:
        ask_in_a_thread(filled, told, 0.2)
        add(self, rows, first)

    monkeypatch.setattr(Known, "add", late)
    filled.add([make_row("new")])
    ask_in_a_thread(filled, told)
    assert (told, reads) == ([True, True], [])


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.add([make_row("1", "new content")]),
        lambda store: store.remove(["again 1"]),
        lambda store: store.remove(["20"]),
        lambda store: store.tidy(erase=True),
    ],
    ids=["move", "rename", "delete", "tidy"],
)
def test_a_thread_that_asks_before_a_commit_is_taken_in_reads_nothing(
    change: Callable[[Store], None], filled: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.add([make_row("2", "new"), make_row("again 2", "new")])  # what tidying deletes
    assert filled.has(make_row("1").hash)
    reads, told, opened = counted(monkeypatch), list[bool](), lance_store.open_newest

    def late(*arguments: Any) -> Any:
        ask_in_a_thread(filled, told)
        assert not reads or len(told) > 1  # a store that tidies goes on to several versions
        return opened(*arguments)

    monkeypatch.setattr(lance_store, "open_newest", late)
    change(filled)
    assert told
    assert all(told)


def test_files_that_a_thread_reads_stay_until_it_is_done(filled: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.add([make_row("2", "new"), make_row("again 2", "new")])  # what tidying deletes
    told, reading, done = list[bool](), Event(), Event()
    reader = Thread(target=lambda: told.append(filled.has(make_row("1").hash)))
    rewrite, read = LanceStore._rewrite_without_deleted, lance.LanceDataset.to_batches

    def while_it_reads(self: LanceStore) -> None:
        reader.start()
        assert reading.wait(30)
        rewrite(self)

    def slow(self: Any, *arguments: Any, **options: Any) -> Any:
        if current_thread() is reader:
            reading.set()
            done.wait(1)
        return read(self, *arguments, **options)

    monkeypatch.setattr(LanceStore, "_rewrite_without_deleted", while_it_reads)
    monkeypatch.setattr(lance.LanceDataset, "to_batches", slow)
    filled.tidy(erase=True)
    done.set()
    reader.join()
    assert told == [True]
