"""Pictures on their way into a store: what fails alone, what is written when, and which names move."""

import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_model import COLOURS, FakeModel, Overflowing, picture

from fwd2bot import ingest
from fwd2bot.disk import gone
from fwd2bot.engine import ask, compress_images
from fwd2bot.store import Row, Store, lance, names

PAIRS = [(one, other) for one in COLOURS for other in COLOURS if one != other]


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names that each commit brings."""
    told: list[list[str]] = []
    add = lance.LanceStore.add

    def telling(store: lance.LanceStore, rows: Sequence[Row]) -> None:
        add(store, rows)
        told.append([row.name for row in rows])

    monkeypatch.setattr(lance.LanceStore, "add", telling)
    return told


def answers(path: Path, *names: str) -> list[str | None]:
    return [reply.text for reply in ask(FakeModel(), Store.open(path), [(name, "?") for name in names])]


# No numbers.


@pytest.mark.parametrize("size", [1, 2, 32])
@pytest.mark.parametrize("where", ["tokens", "vector"])
def test_a_picture_without_finite_numbers_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, size: int
) -> None:
    monkeypatch.setattr(Overflowing, "where", where)
    for name, colour in (("a", "blue"), ("b", "red"), ("c", "red"), ("d", "white"), ("e", "red"), ("f", "blue")):
        picture(tmp_path / f"p/{name}.png", colour)
    report = compress_images(Overflowing(), [tmp_path / "p"], tmp_path / "s", batch_size=size)
    assert sorted(name for name, _ in report.failed) == ["b.png", "c.png", "e.png"]
    assert {reason.replace(name, "?") for name, reason in report.failed} == {
        f"The model gave no finite numbers for {tmp_path}/p/?: try --dtype float32."
    }
    assert (report.added, report.named, report.total) == (2, 1, 6)
    assert Store.open(tmp_path / "s").names() == ["a.png", "d.png", "f.png"]
    assert compress_images(FakeModel(), [tmp_path / "p"], tmp_path / "s").total == 6
    assert answers(tmp_path / "s", "b.png", "e.png", "f.png") == ["red", "red", "blue"]


def test_a_content_without_finite_numbers_is_given_to_the_model_once(tmp_path: Path) -> None:
    for number in range(9):
        picture(tmp_path / f"p/{number}.png", "red")
    model = Overflowing()
    report = compress_images(model, [tmp_path / "p"], tmp_path / "s", batch_size=1)
    assert len(report.failed) == report.total == 9
    assert model.batches == [1]


def test_a_file_that_changed_to_one_without_finite_numbers_keeps_its_old_row(tmp_path: Path) -> None:
    picture(tmp_path / "p/a.png", "blue")
    compress_images(FakeModel(), [tmp_path / "p"], tmp_path / "s")
    picture(tmp_path / "p/a.png", "red")
    report = compress_images(Overflowing(), [tmp_path / "p"], tmp_path / "s")
    assert [name for name, _ in report.failed] == ["a.png"]
    assert answers(tmp_path / "s", "a.png") == ["blue"]


# Names that wait.


@pytest.fixture
def grown(tmp_path: Path) -> Path:
    """Folders of four pictures that the store has, and of as many new ones with copies between them."""
    for number, pair in enumerate(PAIRS[:4]):
        picture(tmp_path / f"p/{number}.png", *pair)
    compress_images(FakeModel(), [tmp_path / "p"], tmp_path / "s")
    for number, pair in enumerate(PAIRS[4:8]):
        shutil.copy(tmp_path / f"p/{number}.png", picture(tmp_path / f"q/{number}-copy.png", "red"))
        picture(tmp_path / f"q/{number}-new.png", *pair)
    return tmp_path


COPIES = [f"{number}-copy.png" for number in range(4)]
NEW = [f"{number}-new.png" for number in range(4)]


def test_names_of_contents_that_are_there_are_written_at_the_end(
    grown: Path, commits: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "COMMIT_ROWS", 2)
    report = compress_images(FakeModel(), [grown / "q"], grown / "s", batch_size=1)
    assert (report.added, report.named) == (4, 4)
    assert commits == [NEW[:2], NEW[2:], COPIES]
    assert set(Store.open(grown / "s").names()) == {*COPIES, *NEW, "0.png", "1.png", "2.png", "3.png"}


def test_names_are_written_where_many_wait(
    grown: Path, commits: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "COMMIT_ROWS", 3)
    monkeypatch.setattr(ingest, "WAITING_BYTES", 0)
    compress_images(FakeModel(), [grown / "q"], grown / "s", batch_size=1)
    assert commits == [[*COPIES[:3], *NEW[:2]], [*COPIES[3:], *NEW[2:]]]


def test_names_that_wait_are_written_when_it_is_interrupted(grown: Path) -> None:
    def progress(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_images(FakeModel(), [grown / "q"], grown / "s", batch_size=1, progress=progress)
    assert {COPIES[0], NEW[0]} <= set(Store.open(grown / "s").names())


def test_names_that_waited_when_it_died_are_found_again_without_the_model(
    grown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "COMMIT_ROWS", 2)
    (grown / "p/0.png").unlink()  # its name moves
    with monkeypatch.context() as dies:
        dies.setattr(ingest.Ingest, "commit", lambda self: None)
        compress_images(FakeModel(), [grown / "q"], grown / "s", batch_size=1)
    assert set(Store.open(grown / "s").names()) == {*NEW, "0.png", "1.png", "2.png", "3.png"}
    model = FakeModel()
    report = compress_images(model, [grown / "q"], grown / "s")
    assert (report.present, report.named, report.moved, model.batches) == (4, 3, 1, [])
    assert set(Store.open(grown / "s").names()) == {*COPIES, *NEW, "1.png", "2.png", "3.png"}


@pytest.mark.parametrize("tidied", [False, True])
def test_a_content_that_loses_its_name_before_it_gets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tidied: bool
) -> None:
    monkeypatch.setattr(ingest, "COMMIT_ROWS", 1)
    monkeypatch.setattr(lance, "COMMITS", 1 if tidied else 100)
    picture(tmp_path / "p/a.png", "red")
    compress_images(FakeModel(), [tmp_path / "p"], tmp_path / "s")
    shutil.copy(tmp_path / "p/a.png", picture(tmp_path / "p/b.png", "red"))
    picture(tmp_path / "p/a.png", "white")
    for number, pair in enumerate(PAIRS[:3]):
        picture(tmp_path / f"p/c{number}.png", *pair)
    report = compress_images(FakeModel(), [tmp_path / "p"], tmp_path / "s", batch_size=1)
    assert (report.added, report.named) == ((5, 0) if tidied else (4, 1))
    assert answers(tmp_path / "s", "a.png", "b.png") == ["white", "red"]
    assert len(Store.open(tmp_path / "s")) == 5


def test_a_row_without_a_name_gets_its_new_one_before_the_store_is_tidied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as untidy:
        untidy.setattr(lance.LanceStore, "tidy", lambda store: None)
        for colour in ("red", "white"):
            picture(tmp_path / "p/a.png", colour)
            compress_images(FakeModel(), [tmp_path / "p"], tmp_path / "s")
    monkeypatch.setattr(ingest, "COMMIT_ROWS", 1)
    monkeypatch.setattr(lance, "COMMITS", 1)
    picture(tmp_path / "p/b.png", "red")
    for number, pair in enumerate(PAIRS[:3]):
        picture(tmp_path / f"p/c{number}.png", *pair)
    report = compress_images(FakeModel(), [tmp_path / "p"], tmp_path / "s", batch_size=1)
    assert (report.added, report.named, len(Store.open(tmp_path / "s"))) == (3, 1, 5)
    assert answers(tmp_path / "s", "a.png", "b.png") == ["white", "red"]


def test_names_go_with_a_commit_that_looks_through_all_rows(
    grown: Path, commits: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "COMMIT_ROWS", 2)
    shutil.copytree(grown / "q", grown / "p", dirs_exist_ok=True)
    picture(grown / "p/1.png", "black", "white")  # was another picture
    compress_images(FakeModel(), [grown / "p"], grown / "s", batch_size=1)
    assert commits == [NEW[:2], [*COPIES[:3], "1.png", NEW[2]], [COPIES[3], NEW[3]]]


def test_reading_all_names_anew_takes_no_time_of_the_next_pictures(
    tmp_path: Path, commits: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "p/0.png", "red")
    compress_images(FakeModel(), [tmp_path / "p"], tmp_path / "s")
    commits.clear()
    now, who = 0.0, lance.LanceStore._who

    def slow(store: lance.LanceStore) -> Any:
        nonlocal now
        now += 100
        return who(store)

    monkeypatch.setattr(lance.LanceStore, "_who", slow)
    monkeypatch.setattr(ingest, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(ingest, "COMMIT_ROWS", 2)
    for number, pair in enumerate(PAIRS[:6]):  # the first has changed, so that a commit looks through all rows
        picture(tmp_path / f"p/{number}.png", *pair)
    compress_images(FakeModel(), [tmp_path / "p"], tmp_path / "s", batch_size=1)
    assert [len(rows) for rows in commits] == [2, 2, 2]


def test_the_clock_is_looked_at_where_pictures_are_there_already_or_fail(
    tmp_path: Path, commits: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, pair in enumerate(PAIRS[:6], start=1):
        picture(tmp_path / f"p/{number}.png", *pair)
    compress_images(FakeModel(), [tmp_path / "p"], tmp_path / "s")
    commits.clear()
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(ingest, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    picture(tmp_path / "p/0.png", "red")
    (tmp_path / "p/4.png").write_text("no picture")
    Store.open(tmp_path / "s").remove(["6.png"])
    compress_images(FakeModel(), [tmp_path / "p"], tmp_path / "s", batch_size=1)
    assert commits == [["0.png"], ["6.png"]]


def test_a_content_with_many_names_is_found_without_reading_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        picture(tmp_path / f"p/{number}.png", "red")
    compress_images(FakeModel(), [tmp_path / "p"], tmp_path / "s")
    read, entry = [], names.Names.entry

    def counted(found: names.Names, key: str) -> names.Entry | None:
        read.append(key)
        return entry(found, key)

    monkeypatch.setattr(names.Names, "entry", counted)
    assert compress_images(FakeModel(), [tmp_path / "p"], tmp_path / "s").present == 50
    assert read == []
    store = Store.open(tmp_path / "s")
    store.remove(store.names()[:40])
    assert len(read) == 1
    assert len(store.names()) == 10


# Which names move.


def test_many_copies_are_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old", "new"):
        for number in range(200):
            picture(tmp_path / f"{name}/{name}-{number}.png", "red")
    compress_images(FakeModel(), [tmp_path / "old"], tmp_path / "s")
    (tmp_path / "old/old-150.png").unlink()
    looked, stat, lock = 0, os.stat, threading.Lock()

    def counted(path: Any, *rest: Any, **more: Any) -> Any:
        nonlocal looked
        with lock:
            looked += str(path).endswith(".png")
        return stat(path, *rest, **more)

    monkeypatch.setattr(os, "stat", counted)
    report = compress_images(FakeModel(), [tmp_path / "new"], tmp_path / "s")
    assert (report.named, report.moved) == (199, 1)
    assert looked <= 5 * 400
    assert "old-150.png" not in Store.open(tmp_path / "s").names()


def test_a_copy_under_another_root_changes_nothing_while_the_old_file_is_there(
    tmp_path: Path, commits: list[list[str]]
) -> None:
    picture(tmp_path / "disk/p/a.png", "red")
    shutil.copytree(tmp_path / "disk", tmp_path / "backup")
    for root in ("disk", "backup", "disk", "backup"):
        report = compress_images(FakeModel(), [tmp_path / root], tmp_path / "s")
    assert (report.present, report.total, commits) == (1, 1, [["p/a.png"]])
    [row] = Store.open(tmp_path / "s").listing()
    assert row.path == str(tmp_path / "disk/p/a.png")
    shutil.rmtree(tmp_path / "disk")
    assert compress_images(FakeModel(), [tmp_path / "backup"], tmp_path / "s").present == 1
    [row] = Store.open(tmp_path / "s").listing()
    assert row.path == str(tmp_path / "backup/p/a.png")


def test_a_name_stays_where_its_file_may_not_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = picture(tmp_path / "p/old.png", "red")
    compress_images(FakeModel(), [tmp_path / "p"], tmp_path / "s")
    old.rename(tmp_path / "p/new.png")
    stat = os.stat

    def forbidden(path: Any, *rest: Any, **more: Any) -> Any:
        if str(path) == str(old):
            raise OSError(116, "Stale file handle")
        return stat(path, *rest, **more)

    monkeypatch.setattr(os, "stat", forbidden)
    report = compress_images(FakeModel(), [tmp_path / "p"], tmp_path / "s")
    assert (report.named, report.moved) == (1, 0)
    assert Store.open(tmp_path / "s").names() == ["new.png", "old.png"]


def test_gone_is_what_is_not_there_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = picture(tmp_path / "a.png", "red")
    assert gone(str(file)) is False
    assert gone(f"{file}.png") is True
    assert gone(f"{file}/below.png") is True
    assert gone("a\0b") is None

    def forbidden(path: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", forbidden)
    assert gone(str(file)) is None
