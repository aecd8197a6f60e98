"""The small forms of runs/kill_store.py and runs/fuzz_store.py, and disks that are full."""

import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fuzz_store import fuzz
from kill_store import kill_often
from store_rows import assert_holds, make_row, new_store

from fwd2bot.errors import StoreError
from fwd2bot.store import Store
from fwd2bot.store.care import verify


def test_fifty_kills_with_two_writers_lose_nothing_acknowledged(tmp_path: Path) -> None:
    seen = kill_often(tmp_path, 50, pictures=300)
    assert seen["commits"] >= 20
    assert seen["refused"] >= 10
    assert seen["lost"] == 0


def test_damaged_files_give_right_answers_or_a_sentence(tmp_path: Path) -> None:
    came = fuzz(tmp_path, range(40))
    assert came["verify: damaged"] + came["verify: refused"] >= 30
    assert came["get: right"] >= 5
    assert came["get: refused"] >= 5


def test_the_fuzzer_sees_a_wrong_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fwd2bot.store.check.sound", lambda table, parts: np.ones(table.num_rows, bool))
    monkeypatch.setattr("fuzz_store.WIDTH", 2048)  # most of a file is then rows, which nothing else checks
    with pytest.raises(AssertionError, match=r"case \d+: \w+ is wrong"):
        fuzz(tmp_path, range(60))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB."""
    mount = shutil.which("mount")
    (tmp_path / "disk").mkdir()
    command = [mount or "", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(tmp_path / "disk")]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def fill(store: Store, batch: int) -> int:
    """Adds rows until it is told that no more fit; gives how many are in."""
    for number in range(0, 100_000, batch):
        try:
            store.add([make_row(f"{number + i}") for i in range(batch)])
        except StoreError as error:
            told = str(error)
            break
    assert "what was committed before is safe" in told
    assert "\n" not in told
    return number


def assert_nothing_is_lost(path: Path, number: int) -> None:
    store = Store.open(path)
    assert len(store) >= number
    assert {f"{i}" for i in range(number)} <= set(store.names())
    assert_holds(store, f"{number - 1}", f"{number - 1}")
    assert verify(path).whole


def test_a_full_disk_loses_nothing_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    store = new_store(small_disk / "s")
    number = fill(store, 40)
    assert number >= 200
    assert_nothing_is_lost(small_disk / "s", number)
    store = Store.open(small_disk / "s")
    with pytest.raises(StoreError, match="the disk is full"):
        store.remove(["1"])
    assert_nothing_is_lost(small_disk / "s", number)
    store.tidy()  # older versions leave room
    store.add([make_row("more")])
    assert_nothing_is_lost(small_disk / "s", number)


def test_files_that_may_not_grow_lose_nothing(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s")
    store.add([make_row(f"{i}") for i in range(30)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StoreError, match="cannot be written"):
            store.add([make_row(f"{i}") for i in range(30, 300)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_nothing_is_lost(tmp_path / "s", 30)
    Store.open(tmp_path / "s").add([make_row("more")])
    assert_nothing_is_lost(tmp_path / "s", 30)
