"""Folders that change places."""

from pathlib import Path

import pytest

from fwd2bot.store import swap


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "says").write_text(name)
    return tmp_path / "new", tmp_path / "old", tmp_path / "aside"


@pytest.mark.parametrize("can", [True, False])
def test_the_new_folder_has_the_place_and_the_old_is_aside(folders, monkeypatch, can):
    new, old, aside = folders
    if not can:
        monkeypatch.setattr(swap, "_exchange", lambda *_: False)
    swap.replace_folder(new, old, aside)
    assert ((old / "says").read_text(), (aside / "says").read_text()) == ("new", "old")
    assert not new.exists()


def test_killed_in_between_both_are_whole_and_the_new_is_nowhere_that_is_written_anew(folders, monkeypatch):
    new, old, aside = folders

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(swap, "_exchange", killed)
    with pytest.raises(KeyboardInterrupt):
        swap.replace_folder(new, old, aside)
    assert ((old / "says").read_text(), (aside / "says").read_text()) == ("old", "new")
    assert not new.exists()


def test_folders_change_places_in_one_step_here(folders):
    new, old, _ = folders
    assert swap._exchange(new, old)
    assert ((new / "says").read_text(), (old / "says").read_text()) == ("old", "new")
    assert not swap._exchange(new, old.with_name("none"))


def test_a_name_that_is_taken_gets_a_number(tmp_path):
    path = tmp_path / "s"
    for expected in ("s.damaged", "s.damaged-2", "s.damaged-3"):
        free = swap.free_name(path, "damaged")
        assert free.name == expected
        free.mkdir()


def test_the_folder_behind_a_link_is_meant(tmp_path, monkeypatch):
    (tmp_path / "s").mkdir()
    (tmp_path / "link").symlink_to("s")
    monkeypatch.chdir(tmp_path / "s")
    assert swap.real_folder(Path()) == tmp_path / "s"
    assert swap.real_folder(tmp_path / "link") == tmp_path / "s"
    assert swap.real_folder(Path("../s")) == Path("../s")
