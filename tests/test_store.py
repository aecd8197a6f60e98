"""What every store keeps to, with every quantiser; and what becomes of damaged, foreign and shared ones."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from fwd2bot.errors import InputError, StoreError
from fwd2bot.store import QUANTISERS, Row, Store

MODEL = {"fingerprint": "f" * 64, "model": "fake"}
TOKENS, WIDTH = 4, 8
HERE = Path(__file__).parent


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


@pytest.fixture(params=QUANTISERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store.create(
        tmp_path / "album.store", num_tokens=TOKENS, width=WIDTH, quantisation=str(request.param), **MODEL
    )


def new_store(path: Path) -> Store:
    return Store.create(path, num_tokens=TOKENS, width=WIDTH, **MODEL)


def assert_holds(store: Store, name: str, content: str) -> None:
    expected = make_row(name, content)
    [row] = store.get([name])
    assert (row.name, row.hash, row.fingerprint) == (name, expected.hash, MODEL["fingerprint"])
    assert (row.file_bytes, row.width, row.height) == (1000, 30, 40)
    assert row.tokens is not None
    assert (np.abs(row.tokens - expected.tokens) <= store.header.quantiser.tolerance(expected.tokens)).all()
    assert np.array_equal(row.vector, expected.vector)


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
        assert {name: key for name, (key, _) in store.images().items()} == truth
        assert [row.hash for row in store.get(store.names())] == [truth[name] for name in store.names()]
    assert Store.open(store.path).images() == store.images()
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
        with pytest.raises(InputError, match="there is no image"):
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
    ("asked", "says"), [("foxx.png", "did you mean 'fox.png'"), ("zzzz", "holds 2 images, the first is 'fox.png'")]
)
def test_find_suggests_the_nearest(store: Store, asked: str, says: str) -> None:
    store.add([make_row("fox.png"), make_row("owl.png")])
    with pytest.raises(InputError, match=says):
        store.find(asked)


def test_find_in_an_empty_store_says_so(store: Store) -> None:
    with pytest.raises(InputError, match="is empty: add images"):
        store.find("a.png")


# Searching.


def test_search_equals_cosine_in_plain_loops(store: Store) -> None:
    rows = [make_row(f"{i}.png") for i in range(40)]
    store.add(rows[:25])
    store.add(rows[25:])
    query = make_row("query").vector
    assert query is not None
    scores = {
        row.name: sum(float(a) * float(b) for a, b in zip(row.vector, query, strict=True))
        for row in rows
        if row.vector is not None
    }
    expected = sorted(scores.items(), key=lambda pair: -pair[1])[:7]
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
    queries = np.stack([make_row(f"q{i}").vector for i in range(6)])  # type: ignore[misc]
    assert store.search_many(queries, 3) == [store.search(query, 3) for query in queries]


def test_search_refuses_another_width_and_no_results(store: Store) -> None:
    store.add([make_row("a")])
    with pytest.raises(StoreError, match="vectors of 8 numbers"):
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
    per_token = {"bf16": 2 * WIDTH, "int8": WIDTH + 4}[info.quantisation]
    assert info.bytes_per_row == TOKENS * per_token + 4 * WIDTH
    assert info.image_bytes == 300 * 1000
    assert info.disk_bytes > 300 * info.bytes_per_row
    assert (info.model, info.fingerprint) == ("fake", "f" * 64)


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
        "missing": "there is no store",
        "empty": "there is no store",
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
        (json.dumps({"format": 99}), "newer fwd2bot .format 99; this one reads 1.: upgrade"),
        ("{", "damaged header"),
        ("[]", "damaged header"),
        (json.dumps({"format": 1}), "damaged header"),
    ],
)
def test_open_refuses_a_header_that_it_cannot_read(tmp_path: Path, header: str, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        Store.open(with_header(tmp_path / "s", header))


@pytest.mark.parametrize("quantisation", ["int3", ""])
def test_create_refuses_an_unknown_quantisation(tmp_path: Path, quantisation: str) -> None:
    with pytest.raises(StoreError, match="bf16, int8"):
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
from test_store import make_row, new_store
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
