"""Verify finds what is not as it was written; repair gives it back, or keeps all the rest."""

import os
import random
import shutil
from pathlib import Path

import lance
import numpy as np
import pytest
import store_rows
from store_rows import TOKENS, assert_holds, make_row, name_only, new_store

from fwd2bot.errors import StoreError
from fwd2bot.store import Store, care
from fwd2bot.store.care import repair, verify

WIDE = 1024


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty rows in two data files, with a deletion file, two names of one row and an empty row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_rows, "WIDTH", WIDE)
        store = new_store(tmp_path_factory.mktemp("stores") / "s")
        for part in (range(40), range(40, 60)):
            store.add([make_row(f"{i}") for i in part])
        store.add([name_only("again", "7")])
        store.remove(["5"])
        store.tidy()
        store.add([make_row("3", "new")])  # the row that was called so is empty now
    return store.path


@pytest.fixture(autouse=True)
def wide_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As wide as a model's, which Lance keeps as they are, one after the other."""
    monkeypatch.setattr(store_rows, "WIDTH", WIDE)


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "s"))


NAMES = {"again", *(str(i) for i in range(60) if i != 5)}
CONTENTS = {**{name: name for name in NAMES}, "3": "new", "again": "7"}


def assert_holds_all(path: Path, names: set[str]) -> None:
    store = Store.open(path)
    assert set(store.names()) == names
    assert_holds(store, sorted(names)[0], CONTENTS[sorted(names)[0]])
    expected = {name: make_row(name, CONTENTS[name]) for name in names}
    for row in store.get(sorted(names)):
        assert row.hash == expected[row.name].hash
        tokens, vector = expected[row.name].tokens, expected[row.name].vector
        assert (np.abs(row.tokens - tokens) <= store.header.quantiser.tolerance(tokens)).all()
        assert row.vector @ vector > 0.999


def largest(path: Path, part: str) -> Path:
    return max((path / part).iterdir(), key=lambda file: (file.suffix != ".json", file.stat().st_size))


def flip(file: Path, places: list[int]) -> None:
    content = bytearray(file.read_bytes())
    for at in places:
        content[at] ^= 0x40
    file.write_bytes(content)


def place_of(path: Path, name: str) -> tuple[Path, int]:
    """Where the tokens of an image lie."""
    expected = make_row(name, CONTENTS[name])
    assert expected.tokens is not None
    codes = Store.open(path).header.quantiser.encode(expected.tokens).tobytes()
    for file in (path / "data").iterdir():
        if (at := file.read_bytes().find(codes)) >= 0:
            return file, at
    raise AssertionError(f"no tokens of {name}")


def test_a_whole_store_is_whole_and_repair_leaves_it_alone(path):
    found = verify(path)
    assert (found.whole, found.rows, found.files) == (True, 59, len(list((path / "care").iterdir())))
    before = sorted(file.name for file in path.rglob("*"))
    assert repair(path).aside is None
    assert sorted(file.name for file in path.rglob("*")) == before


def test_rows_are_looked_at_some_at_a_time(path, monkeypatch):
    take, asked = lance.LanceDataset.take, []

    def see(self, places, **options):
        asked.append(len(places))
        return take(self, places, **options)

    monkeypatch.setattr(lance.LanceDataset, "take", see)
    monkeypatch.setattr(care, "BLOCK", 16)
    assert verify(path).rows == 59  # the empty row is not counted
    assert max(asked) == 16
    assert sum(asked) == 60  # and each once


@pytest.mark.parametrize("part", ["data", "_versions", "_deletions", "care"])
def test_one_flipped_byte_in_any_file_is_found_and_given_back(path, part):
    random_ = random.Random(part)
    file = largest(path, part)
    for _ in range(3):
        flip(file, [random_.randrange(file.stat().st_size)])
        found = verify(path)
        assert [(one.file, one.restorable) for one in found.damaged] == [(f"{part}/{file.name}", True)]
        assert all(image.restorable for image in found.images)
        report = repair(path)
        assert (report.gone, report.unnamed, report.rows) == ([], 0, 59)
        assert verify(path).whole
        assert_holds_all(path, NAMES)
        assert report.aside is not None
        assert not verify(report.aside).whole  # the old state is kept as it was
        shutil.rmtree(report.aside)
        file = largest(path, part)


def test_the_image_whose_row_is_hurt_is_named(path):
    file, at = place_of(path, "11")
    flip(file, [at + 3])
    with pytest.raises(StoreError, match=r"row of 11 in .* is damaged: run `fwd2bot repair"):
        Store.open(path).get(["11"])
    assert Store.open(path).get(["12"])
    assert [(one.image, one.restorable) for one in verify(path).images] == [("11", True)]


def test_a_file_that_lance_must_not_see_is_not_shown_to_it(path, monkeypatch):
    file, _ = place_of(path, "50")
    flip(file, [file.stat().st_size - 60])  # what says where everything lies

    def see(*arguments: object, **options: object) -> None:
        raise AssertionError("Lance reads it")

    with monkeypatch.context() as patch:
        patch.setattr(lance.LanceDataset, "take", see)
        patch.setattr(lance.LanceDataset, "to_table", see)
        with pytest.raises(StoreError, match=f"damaged .data/{file.name}.: run `fwd2bot repair"):
            Store.open(path)
    found = verify(path)
    assert len(found.images) == 20
    assert all(image.restorable for image in found.images)
    repair(path)
    assert_holds_all(path, NAMES)


def test_damage_beyond_its_guard_costs_the_rows_that_it_hit_alone(path):
    for guard in (path / "care").glob("*.lance.guard"):
        guard.write_bytes(b"gone")
    file, at = place_of(path, "11")
    flip(file, [at, at + TOKENS * Store.open(path).header.quantiser.token_bytes(WIDE)])  # the next row's, too
    found = verify(path)
    assert {(one.image, one.restorable) for one in found.images} == {("11", False), ("12", False)}
    report = repair(path)
    assert (report.gone, report.unnamed, report.rows) == (["11", "12"], 0, 57)
    assert_holds_all(path, NAMES - {"11", "12"})
    assert verify(path).whole
    Store.open(path).add([make_row("11"), make_row("12")])
    assert_holds_all(path, NAMES)


def test_a_data_file_that_is_gone_costs_its_rows(path):
    file, _ = place_of(path, "50")
    file.unlink()
    with pytest.raises(StoreError, match="run `fwd2bot repair"):
        Store.open(path).get(["50"])
    report = repair(path)
    assert report.rows + report.unnamed + len(report.gone) == 59
    assert report.unnamed == 20
    assert_holds_all(path, NAMES - {str(i) for i in range(40, 60)})


@pytest.mark.parametrize("manifest", ["gone", "hurt"])
def test_a_last_commit_that_is_lost_is_told(manifest, path, run):
    """The list of the newest version and its copy are both hurt: a deleted image is there again, and nobody wonders."""
    Store.open(path).remove(["11"])
    newest = min((path / "_versions").glob("*.manifest"))
    (path / "care" / f"{newest.name}.guard").write_bytes(b"hurt")
    newest.unlink() if manifest == "gone" else newest.write_bytes(b"hurt")
    with pytest.raises(StoreError, match="run `fwd2bot repair"):
        Store.open(path)
    found = verify(path)
    assert (found.older, found.whole) == (True, False)
    assert (f"_versions/{newest.name}", False) in {(one.file, one.restorable) for one in found.damaged}
    assert "the last commit is lost" in run("verify", str(path)).out
    ran = run("repair", str(path))
    assert ran.code == 3
    assert "the last commit is lost" in ran.out
    assert verify(path).whole
    assert_holds_all(path, NAMES)


@pytest.mark.parametrize("place", [5, -9], ids=["sums", "copy"])
def test_a_list_of_deleted_rows_that_is_hurt_with_its_copy_is_not_shown_to_lance(place, path, monkeypatch):
    """It may ask for more memory than there is. What of the guard finds damage may be hurt, too, or the copy alone."""
    lists = list((path / "_deletions").iterdir())
    for one in lists:
        flip(one, [one.stat().st_size // 2])
        guard = path / "care" / f"{one.name}.guard"
        flip(guard, [place % guard.stat().st_size])
    opened = lance.dataset

    def see(place: str) -> object:
        assert not list((Path(place) / "_deletions").iterdir()), "Lance sees them"
        return opened(place)

    with monkeypatch.context() as patch:
        patch.setattr(lance, "dataset", see)
        with pytest.raises(StoreError, match=r"damaged .*\.(arrow|bin)\): run `fwd2bot repair"):
            Store.open(path)
        told = {(one.file, one.restorable) for one in verify(path).damaged}
        assert told == {(f"_deletions/{one.name}", False) for one in lists}
    report = repair(path)
    assert report.unnamed > 0
    assert report.rows + report.unnamed == 60  # which of them was deleted nobody knows
    assert verify(path).whole


@pytest.mark.parametrize("damage", ["unlink", "cut"])
def test_the_newest_manifest_is_given_back_also_where_it_is_gone(path, damage):
    store = Store.open(path)
    store.add([make_row("late")])
    manifest = min((path / "_versions").glob("*.manifest"))
    if damage == "unlink":
        manifest.unlink()
    else:
        manifest.write_bytes(b"")
    with pytest.raises(StoreError, match=f"damaged .{manifest.name}.: run `fwd2bot repair"):
        Store.open(path)
    repair(path)
    assert_holds(Store.open(path), "late", "late")


def test_a_torn_manifest_of_a_writer_that_died_is_left_out(path):
    store = Store.open(path)
    store.add([make_row("late")])
    manifest = min((path / "_versions").glob("*.manifest"))
    newer = manifest.with_name(f"{int(manifest.stem) - 1:020}.manifest")
    newer.write_bytes(manifest.read_bytes()[:50])  # the power went before its guard was written
    with pytest.raises(StoreError, match="run `fwd2bot repair"):
        Store.open(path)
    repair(path)
    assert_holds(Store.open(path), "late", "late")


def test_a_store_without_any_version_that_can_be_read_is_left_alone(path):
    for file in [*(path / "_versions").glob("*.manifest"), *(path / "care").glob("*.manifest.guard")]:
        file.write_bytes(b"x")
    for work in (verify, repair):
        with pytest.raises(StoreError, match=r"No version of .* can be read: restore it from a copy"):
            work(path)
    assert not path.with_name("s.damaged").exists()


def test_a_repair_that_was_killed_is_begun_anew(path):
    flip(largest(path, "data"), [9])
    path.with_name("s.repairing").mkdir()
    path.with_name("s.repairing").joinpath("half").touch()
    path.with_name("s.damaged").mkdir()
    report = repair(path)
    assert report.aside == str(path) + ".damaged-2"
    assert not path.with_name("s.repairing").exists()
    assert_holds_all(path, NAMES)


def test_a_tidying_that_was_killed_before_guards_went_is_no_damage(path, monkeypatch):
    def killed(root):
        raise KeyboardInterrupt

    store = Store.open(path)
    store.remove(["9"])
    with monkeypatch.context() as patch, store.writing():
        patch.setattr(care.guards, "protect", killed)
        with pytest.raises(KeyboardInterrupt):
            store.tidy(erase=True)
    left = {file.name.removesuffix(".guard") for file in (path / "care").iterdir()}
    assert {name for name in left if name.endswith((".lance", ".arrow"))} - {one.name for one in path.rglob("*")}
    found = verify(path)
    assert (found.whole, found.rows) == (True, 58)
    assert repair(path).aside is None
    flip(place_of(path, "20")[0], [place_of(path, "20")[1]])  # real damage beside it is found as ever
    assert [one.image for one in verify(path).images] == ["20"]


def test_guards_are_on_the_disk_before_the_manifest_counts(tmp_path, monkeypatch):
    """In order: data, its guard, then the manifest, whose guard comes last; none gets its name before its bytes lie."""
    store = new_store(tmp_path / "s")
    store.add([make_row("1"), make_row("2")])
    events = []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        events.append(Path(f"/proc/self/fd/{handle}").readlink().relative_to(store.path).as_posix())
        fsync(handle)

    def named(old, new):
        events.append(f"{Path(old).name} -> {Path(new).name}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", named)
    store.add([name_only("again", "1")])
    files = [event for event in events if "/" in event and not event.startswith("care/")]
    assert {file.split("/")[0] for file in files} == {"data", "_deletions", "_versions"}
    (manifest,) = (at for at, event in enumerate(events) if event.startswith("_versions/"))
    for file in files:
        guard = f"{Path(file).name}.guard"
        half = str(Path(guard).with_suffix(".half"))
        begun, renamed = events.index(f"care/{half}"), events.index(f"{half} -> {guard}")
        assert events.index(file) < events.index(file.split("/")[0]) < begun < renamed
        assert "care" in events[renamed : manifest if renamed < manifest else None]
        assert (renamed < manifest) == (not file.startswith("_versions/"))


def test_a_store_that_is_being_written_is_not_verified(path):
    store = Store.open(path)
    with store.writing():
        for work in (verify, repair):
            with pytest.raises(StoreError, match=f"being written by process {os.getpid()}"):
                work(path)


def test_a_store_that_may_not_be_written_is_verified(path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    (path / "writer.lock").unlink()
    assert verify(path).whole
    assert not (path / "writer.lock").exists()


def test_what_is_no_store_is_one_sentence(tmp_path):
    for work in (verify, repair):
        with pytest.raises(StoreError, match="There is no store"):
            work(tmp_path / "none")


def test_a_copy_is_made_where_links_cannot(path, monkeypatch):
    def refuse(*arguments: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    flip(largest(path, "data"), [9])
    repair(path)
    assert_holds_all(path, NAMES)


@pytest.mark.parametrize("folder", [False, True])
def test_a_store_without_its_manifest_is_damaged_not_new(path: Path, folder: bool) -> None:
    """The manifest is what says which rows there are; a creation that was cut off has no rows."""
    if folder:
        shutil.rmtree(path / "_versions")
    else:
        for file in (path / "_versions").glob("*.manifest"):
            file.unlink()
    with pytest.raises(StoreError, match=r"is damaged .*: run `fwd2bot repair"):
        Store.open(path)
    with pytest.raises(StoreError, match="holds a store already"):
        new_store(path)
    assert [one.restorable for one in verify(path).damaged] == [True]
    report = repair(path)
    assert (report.rows, report.gone, report.unnamed, report.older) == (59, [], 0, False)
    assert_holds_all(path, NAMES)


def test_a_store_without_manifest_and_guard_is_not_begun_anew(path: Path) -> None:
    shutil.rmtree(path / "_versions")
    for file in (path / "care").glob("*.manifest.guard"):
        file.unlink()
    for what in (Store.open, verify, repair):
        with pytest.raises(StoreError, match=r"No version of .* can be read|is damaged"):
            what(path)
    with pytest.raises(StoreError, match="holds a store already"):
        new_store(path)
    assert any((path / "data").iterdir())


def test_lance_never_sees_a_data_file_whose_form_is_hurt(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It panics, at length, and may ask for more memory than there is."""
    largest = max((path / "data").glob("*.lance"), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[-len(content) // 4 :] = bytes(len(content[-len(content) // 4 :]))
    largest.write_bytes(content)
    found = verify(path)
    assert not found.whole
    report = repair(path)
    assert report.rows < 59
    assert len(Store.open(path)) == report.rows
    assert "panicked" not in capfd.readouterr().err
