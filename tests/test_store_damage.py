"""What becomes of damaged, foreign and shared stores, and of writers that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lance
import pyarrow as pa
import pytest
from store_rows import MODEL, assert_holds, make_row, new_store

from fwd2bot.errors import StoreError
from fwd2bot.store import Store

HERE = Path(__file__).parent

# The wrong place.


def test_check_names_both_models_and_the_remedy(store: Store) -> None:
    store.check("f" * 64, "fake")
    with pytest.raises(StoreError, match=r"fake .ffffffffffff.* other .000000000000.*into a new store"):
        store.check("0" * 64, "other")


def test_open_says_what_is_wrong_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "photo.png").write_text("x")
    (tmp_path / "empty").mkdir()
    lance.write_dataset(pa.table({"a": [1]}), str(tmp_path / "foreign"))
    for name, says in {
        "missing": "There is no store",
        "empty": "There is no store",
        "file": "is a file, not a store",
        "folder": "is a folder but not a store",
        "foreign": "fwd2bot did not write",
    }.items():
        with pytest.raises(StoreError, match=says):
            Store.open(tmp_path / name)


def test_create_leaves_what_is_there_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_text("x")
    with pytest.raises(StoreError, match="not empty"):
        new_store(tmp_path)
    assert [part.name for part in tmp_path.iterdir()] == ["photo.png"]
    new_store(tmp_path / "s").add([make_row("a")])
    with pytest.raises(StoreError, match="holds a store already"):
        new_store(tmp_path / "s")
    assert Store.open(tmp_path / "s").names() == ["a"]


def test_create_begins_anew_after_a_creation_that_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / "s" / "_transactions").mkdir(parents=True)
    (tmp_path / "s" / "writer.lock").touch()
    with pytest.raises(StoreError, match="never finished"):
        Store.open(tmp_path / "s")
    assert not Store.exists(tmp_path / "s")
    new_store(tmp_path / "s").add([make_row("a")])
    assert Store.open(tmp_path / "s").names() == ["a"]


def with_header(path: Path, text: str) -> Path:
    table = pa.table({"a": [1]}).replace_schema_metadata({b"fwd2bot": text.encode()})
    lance.write_dataset(table, str(path))
    return path


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (json.dumps({"format": 99}), "newer fwd2bot .format 99; this one reads 2.: upgrade"),
        ("{", "damaged header"),
        ("[]", "damaged header"),
        (json.dumps({"format": 1}), "older fwd2bot .format 1; this one reads 2.: compress the images again"),
        (json.dumps({"format": 2}), "damaged header"),
    ],
)
def test_open_refuses_a_header_that_it_cannot_read(tmp_path: Path, header: str, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        Store.open(with_header(tmp_path / "s", header))


@pytest.mark.parametrize("quantisation", ["int3", ""])
def test_create_refuses_an_unknown_quantisation(tmp_path: Path, quantisation: str) -> None:
    with pytest.raises(StoreError, match="bf16, int8, int4, int2, binary"):
        Store.create(tmp_path / "s", num_tokens=1, width=1, quantisation=quantisation, **MODEL)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("part", ["data", "_versions"])
@pytest.mark.parametrize("damage", ["cut", "overwrite", "delete"])
def test_a_damaged_store_is_one_sentence(tmp_path: Path, part: str, damage: str) -> None:
    store = new_store(tmp_path / "s")
    store.add([make_row(f"{i}") for i in range(50)])
    for path in (tmp_path / "s" / part).iterdir():
        if damage == "delete":
            path.unlink()
        else:
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"\xff" * len(content))
    with pytest.raises(StoreError) as caught:
        Store.open(tmp_path / "s").get(["1"])
    assert "\n" not in str(caught.value)


def test_permissions_that_lack_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_store(tmp_path / "s").add([make_row("a")])
    store = Store.open(tmp_path / "s")

    def denied(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    for method, call, says in (
        ("open", lambda: store.add([make_row("b")]), "written"),  # the lock
        ("iterdir", lambda: Store.exists(tmp_path / "s"), "read"),
        ("mkdir", lambda: new_store(tmp_path / "t"), "written"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, denied)
            with pytest.raises(StoreError, match=f"may not be {says}: permission denied"):
                call()


# Two at a time, and sudden death.


def test_a_second_writer_is_told_to_wait_and_readers_are_not(store: Store) -> None:
    store.add([make_row("a")])
    other = Store.open(store.path)
    with store.writing():
        store.add([make_row("b")])
        with pytest.raises(StoreError, match=f"being written by process {os.getpid()}: wait"):
            other.add([make_row("c")])
        assert Store.open(store.path).names() == ["a", "b"]
    other.add([make_row("b"), make_row("c")])
    assert len(other) == 3
    assert other.names() == ["a", "b", "c"]
    store.add([make_row("c"), make_row("d")])
    assert Store.open(store.path).names() == ["a", "b", "c", "d"]
    assert len(store) == 4


@pytest.mark.parametrize("work", ["add", "erase"])
def test_what_a_writer_does_while_a_store_is_opened_is_no_damage(
    work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks of one opening a version comes, or the files go that the version before was made of."""
    path, opened = tmp_path / "album.store", lance.dataset
    writer = new_store(path)
    writer.add([make_row("first"), make_row("second")])

    def interrupted(place: str) -> object:
        monkeypatch.setattr(lance, "dataset", opened)
        found = opened(place)
        writer.add([make_row("third")])
        if work == "erase":
            writer.remove(["first"])
            writer.tidy(erase=True)
        return found

    monkeypatch.setattr(lance, "dataset", interrupted)
    reader = Store.open(path)
    assert lance.dataset is opened
    assert "second" in reader.names()
    assert [row.name for row in Store.open(path).get(["second", "third"])] == ["second", "third"]


def test_writing_lets_errors_of_the_caller_through(store: Store) -> None:
    with pytest.raises(ValueError, match="mine"), store.writing():
        raise ValueError("mine")
    store.add([make_row("a")])


def test_a_reader_goes_on_while_others_write_and_tidy(store: Store) -> None:
    store.add([make_row("a"), make_row("b")])
    reader = Store.open(store.path)
    store.add([make_row("a", "new"), make_row("c")])
    store.tidy()
    assert reader.names() == ["a", "b"]
    assert Store.open(store.path).names() == ["a", "b", "c"]


WRITER = """
from store_rows import make_row, new_store
from fwd2bot.store import Store
store = Store.open({path!r}) if Store.exists({path!r}) else new_store(__import__("pathlib").Path({path!r}))
with store.writing():
    for i in range(len(store), 100_000, 5):
        store.add([make_row(f"{{i + j}}") for j in range(5)])
        print(i + 5, flush=True)
"""


def test_kill_9_at_any_time_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "s"
    script = WRITER.format(path=str(path))
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}
    acknowledged = 0
    for wait in (0.0, 0.013, 0.05, 0.11):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        lines = [process.stdout.readline()] if wait else []
        time.sleep(wait or 0.45)  # the first dies about when it creates the store
        process.send_signal(signal.SIGKILL)
        lines += process.communicate()[0].splitlines()
        acknowledged = max([acknowledged, *(int(line) for line in lines if line.strip())])
        if Store.exists(path):
            names = Store.open(path).names()
            assert len(names) >= acknowledged
            assert len(names) % 5 == 0  # a batch is there whole or not at all
    store = Store.open(path)
    assert sorted(store.names(), key=int) == [str(i) for i in range(len(store))]
    store.tidy()
    for name in store.names():
        assert_holds(store, name, name)


def test_a_reader_of_files_that_are_gone_is_told_to_open_again(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s")
    store.add([make_row(f"{i}") for i in range(20)])
    reader, replaced = Store.open(store.path), Store.open(store.path)
    assert reader.get(["1"])
    store.remove(["0"])
    store.tidy(erase=True)
    with pytest.raises(StoreError, match="was changed since it was opened: open it again"):
        reader.get(["1"])
    other = Store.create(tmp_path / "t", fingerprint="0" * 64, model="other", num_tokens=4, width=8)
    store.path.rename(tmp_path / "aside")
    other.path.rename(store.path)
    with pytest.raises(StoreError, match="was changed since it was opened: open it again"):
        replaced.add([make_row("new")])
    assert len(Store.open(store.path)) == 0
