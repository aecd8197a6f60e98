"""The commands that look after a store, and the options that choose images."""

import json
import os
import shutil

import pytest
from fake_model import FakeModel, picture
from PIL import Image
from store_rows import make_row, new_store

from fwd2bot.store import Store
from fwd2bot.store.lance import LanceStore

LONG_AGO, NEW_YEAR = 1_400_000_000, 1_704_110_400  # May 2014; noon of 2024-01-01


@pytest.fixture
def photos(run, tmp_path):
    """A store and its pictures: fox.png, sea.png, more/flag.png; sea.png is old, and fox.png of New Year."""
    picture(tmp_path / "photos/fox.png", "red")
    picture(tmp_path / "photos/sea.png", "blue")
    picture(tmp_path / "photos/more/flag.png", "green", "yellow")
    os.utime(tmp_path / "photos/sea.png", (LONG_AGO, LONG_AGO))
    os.utime(tmp_path / "photos/fox.png", (NEW_YEAR, NEW_YEAR))
    assert run("compress", "photos", "--store", "album.store").code == 0
    return tmp_path / "photos"


def hurt_tokens(folder, name):
    """Changes a byte of an image's tokens; gives the file."""
    store = Store.open(folder / "album.store")
    tokens = store.header.quantiser.encode(store.get([name])[0].tokens).tobytes()
    for file in (folder / "album.store/data").iterdir():
        content = file.read_bytes()
        if (at := content.find(tokens)) >= 0:
            file.write_bytes(content[: at + 5] + bytes([content[at + 5] ^ 1]) + content[at + 6 :])
            return file
    raise AssertionError(name)


# Verify and repair.


def test_verify_of_a_whole_store_says_so(run, album):
    ran = run("verify", "album.store")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "album.store: 3 rows in 2 files, all as they were written\n"
    assert json.loads(run("verify", "album.store", "--json").out)["whole"] is True


def test_verify_names_what_is_hurt_and_repair_gives_it_back(run, album):
    file = hurt_tokens(album, "fox.png")
    ran = run("verify", "album.store")
    assert ran.code == 5
    assert f"data/{file.name} (can be given back)" in ran.out
    assert "with a row that is hurt:\n  fox.png (can be given back)" in ran.out  # so small a row shares its bytes
    assert ran.err == "fwd2bot: album.store is damaged: run `fwd2bot repair album.store`\n"
    told = json.loads(run("verify", "album.store", "--json").out)
    assert {"image": "fox.png", "restorable": True} in told["images"]
    assert told["damaged"] == [{"file": f"data/{file.name}", "restorable": True}]
    assert "run `fwd2bot repair album.store`" in run("ask", "what?", "--store", "album.store", "--all").err
    ran = run("repair", "album.store")
    assert ran.code == 0
    assert "mended, with 3 rows; its old state is album.store.damaged" in ran.out
    assert run("verify", "album.store").code == 0
    assert "nothing to repair" in run("repair", "album.store").out
    assert run("ask", "what?", "--store", "album.store", "--image", "fox.png").out == "red\n"


def test_repair_says_which_images_are_lost_and_compress_adds_them(run, photos, tmp_path):
    for guard in (tmp_path / "album.store/care").glob("*.lance.guard"):
        guard.unlink()
    hurt_tokens(tmp_path, "fox.png")
    assert "fox.png (lost)" in run("verify", "album.store").out
    ran = run("repair", "album.store")
    assert ran.code == 3
    assert "1 image lost; `fwd2bot compress` adds them again, where their files are:\n    fox.png" in ran.out
    assert Store.open("album.store").names() == ["more/flag.png", "sea.png"]
    assert "1 image added" in run("compress", "photos", "--store", "album.store").out
    assert run("ask", "what?", "--store", "album.store", "--image", "fox.png").out == "red\n"


def test_verify_tells_of_guards_that_are_gone_and_compress_makes_new_ones(run, photos, tmp_path):
    shutil.rmtree(tmp_path / "album.store/care")
    ran = run("verify", "album.store")
    assert ran.code == 0
    assert ran.err.startswith("fwd2bot: album.store/care lacks the guards of 2 files")
    assert json.loads(run("verify", "album.store", "--json").out)["unguarded"] == 2
    run("compress", "photos", "--store", "album.store")
    assert run("verify", "album.store").err == ""


def test_verify_and_repair_of_nothing_are_one_sentence(run):
    for command in ("verify", "repair"):
        ran = run(command, "none.store")
        assert (ran.code, ran.out) == (5, "")
        assert ran.err.startswith("fwd2bot: There is no store at none.store")


# Delete, moved files.


def test_delete_takes_names_and_leaves_nothing_of_them_on_the_disk(run, photos, tmp_path):
    store = Store.open("album.store")
    [row] = store.get(["fox.png"])
    model, header = FakeModel(), store.header
    [vector] = model.embed(model.compress([Image.open(photos / "fox.png")])).numpy()
    codes = [header.quantiser.encode(row.tokens).tobytes(), header.vector_quantiser.encode(vector).tobytes()]
    codes += [b"fox.png", bytes.fromhex(row.hash)]

    def on_disk():
        files = [file.read_bytes() for file in (tmp_path / "album.store").rglob("*") if file.is_file()]
        return [any(code in file for file in files) for code in codes]

    assert on_disk() == [True] * 4
    assert run("delete", "album.store", "fox.png").out == "album.store: 1 image deleted\n  fox.png\n"
    assert Store.open("album.store").names() == ["more/flag.png", "sea.png"]
    assert (photos / "fox.png").exists()
    assert on_disk() == [False] * 4
    assert run("verify", "album.store").code == 0
    assert run("delete", "album.store", "fox.png").code == 2


@pytest.mark.parametrize("again", [("fox.png",), ("--missing",)])
def test_delete_that_was_stopped_before_the_bytes_were_gone_is_finished_by_the_next(
    run, photos, tmp_path, monkeypatch, again
):
    [row] = Store.open("album.store").get(["fox.png"])

    def stopped(self, *, erase=False):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LanceStore, "tidy", stopped)
        assert run("delete", "album.store", "fox.png").code == 130
    files = [file for file in (tmp_path / "album.store").rglob("*") if file.is_file()]
    assert any(bytes.fromhex(row.hash) in file.read_bytes() for file in files)
    assert run("delete", "album.store", *again).code == (2 if again == ("fox.png",) else 0)
    files = [file for file in (tmp_path / "album.store").rglob("*") if file.is_file()]
    assert not any(bytes.fromhex(row.hash) in file.read_bytes() for file in files)


def test_delete_asks_which_where_one_picture_has_several_such_names(run, photos):
    for folder in ("a", "b"):
        picture(photos / folder / "twin.png", "white")
    assert run("compress", "photos", "--store", "album.store").code == 0
    for asked in ("twin.png", Store.open("album.store").get(["a/twin.png"])[0].hash):
        ran = run("delete", "album.store", asked)
        assert (ran.code, ran.out) == (2, "")
        assert "may be 'a/twin.png' or 'b/twin.png' of album.store: give the whole name." in ran.err
    assert run("ask", "?", "--store", "album.store", "--image", "twin.png").out == "white\n"  # the same row
    assert run("delete", "album.store", "b/twin.png").code == 0
    assert run("delete", "album.store", "twin.png").out.splitlines()[1:] == ["  a/twin.png"]


def test_delete_missing_takes_those_whose_files_are_gone(run, photos):
    assert run("delete", "album.store", "--missing").out == "album.store: 0 images deleted\n"
    (photos / "sea.png").unlink()
    told = json.loads(run("delete", "album.store", "--missing", "--json").out)
    assert told == {"store": "album.store", "deleted": ["sea.png"]}
    shutil.rmtree(photos)
    command = ["delete", "album.store", "--missing", "--yes", "--path", "more/*"]
    assert run(*command).out.splitlines()[1:] == ["  more/flag.png"]
    assert Store.open("album.store").names() == ["fox.png"]


def test_delete_of_a_filter_takes_what_it_lets_through_alone(run, photos):
    assert run("delete", "album.store", "--path", "nowhere/*").out == "album.store: 0 images deleted\n"
    assert len(Store.open("album.store")) == 3
    ran = run("delete", "album.store", "--path", "more/*")
    assert ran.out.splitlines() == ["album.store: 1 image deleted", "  more/flag.png"]
    assert Store.open("album.store").names() == ["fox.png", "sea.png"]


def test_delete_missing_does_not_take_a_disk_that_is_away_for_deleted_files(run, photos, tmp_path):
    there = Store.open("album.store").names()
    photos.rename(tmp_path / "elsewhere")
    ran = run("delete", "album.store", "--missing")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "3 files cannot be found, and the folder" in ran.err
    photos.mkdir()  # where the disk was
    (photos / "more").mkdir()
    ran = run("delete", "album.store", "--missing")
    assert (ran.code, ran.out) == (2, "")
    assert "no file of the store is there: is a disk away? --yes deletes the rows" in ran.err
    assert Store.open("album.store").names() == there
    assert run("delete", "album.store", "--missing", "--yes").out.startswith("album.store: 3 images deleted")


def test_delete_missing_keeps_rows_of_files_that_may_not_be_looked_at(run, photos, monkeypatch):
    stat = os.stat

    def forbidden(path, *rest, **more):
        if str(path).endswith("flag.png"):
            raise PermissionError(13, "Permission denied")
        return stat(path, *rest, **more)

    (photos / "sea.png").unlink()
    monkeypatch.setattr(os, "stat", forbidden)
    ran = run("delete", "album.store", "--missing")
    assert ran.out.splitlines() == ["album.store: 1 image deleted", "  sea.png"]
    assert "1 file may not be looked at: the rows stay" in ran.err


@pytest.mark.parametrize("options", [(), ("fox.png", "--missing"), ("fox.png", "--path", "*")])
def test_delete_wants_names_or_options(run, album, options):
    ran = run("delete", "album.store", *options)
    assert ran.code == 2
    assert "Delete which images?" in ran.err
    assert "--yes is for --missing alone" in run("delete", "album.store", "fox.png", "--yes").err
    assert len(Store.open("album.store")) == 3


def test_a_file_that_was_renamed_is_known_by_its_new_name_alone(run, photos):
    (photos / "fox.png").rename(photos / "red.png")
    shutil.copy(photos / "sea.png", photos / "also.png")
    ran = run("compress", "photos", "--store", "album.store")
    assert "1 image moved: only the new name answers" in ran.out
    assert "1 image with the same content as another" in ran.out
    assert Store.open("album.store").names() == ["also.png", "more/flag.png", "red.png", "sea.png"]
    assert len(Store.open("album.store")) == 3


def test_two_files_that_changed_places_keep_both_names(run, photos):
    (photos / "fox.png").rename(photos / "x")
    (photos / "sea.png").rename(photos / "fox.png")
    (photos / "x").rename(photos / "sea.png")
    assert run("compress", "photos", "--store", "album.store").code == 0
    answers = run("ask", "what?", "--store", "album.store", "--image", "fox.png", "--image", "sea.png").out
    assert answers == "fox.png\tblue\nsea.png\tred\n"


def test_a_store_is_not_made_of_paths_that_are_not_there(run, tmp_path):
    ran = run("compress", "photso", "--store", "new.store")
    assert (ran.code, ran.err) == (3, "fwd2bot: photso is not there: check the path.\n")
    assert not (tmp_path / "new.store").exists()


# Duplicates.


def test_duplicates_lists_groups(run, photos):
    picture(photos / "wine.png", "red", "red").write_bytes((photos / "fox.png").read_bytes() + b"x")
    run("compress", "photos", "--store", "album.store")
    assert run("duplicates", "album.store").out == " 1.000\tfox.png\twine.png\n"
    told = json.loads(run("duplicates", "album.store", "--json", "--above", "0.999").out)
    assert told == [{"images": ["fox.png", "wine.png"], "score": 1.0}]
    assert run("duplicates", "album.store", "--above", "1.5").code == 2


# Which images.


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--path", "more/*"], ["more/flag.png"]),
        (["--path", "*.png", "--until", "2014-12-31"], ["sea.png"]),
        (["--since", "2014-12-31"], ["fox.png", "more/flag.png"]),
        (["--since", "2023-12-30", "--until", "2024-01-03"], ["fox.png"]),
        (["--larger", "16x16"], ["fox.png", "more/flag.png", "sea.png"]),
        (["--smaller", "2KB", "--path", "*/photos/fox*"], ["fox.png"]),
    ],
)
def test_options_choose_images(run, photos, options, names):
    told = json.loads(run("info", "album.store", "--rows", "--json", *options).out)
    assert [one["image"] for one in told["images"]] == names
    asked = json.loads(run("ask", "what?", "--store", "album.store", "--json", *options).out)
    assert [one["image"] for one in asked] == names
    captions = json.loads(run("caption", "--store", "album.store", "--json", *options).out)
    assert [one["image"] for one in captions] == names
    found = json.loads(run("search", "a blue one", "--store", "album.store", "--json", *options).out)
    assert sorted(one["image"] for one in found) == names


def test_search_among_some_finds_the_best_of_them(run, photos):
    found = run("search", "blue", "--store", "album.store", "--since", "2015-01-01", "--top", "1").out
    assert "sea.png" not in found
    assert len(found.splitlines()) == 1
    like = run("search", "--like", str(photos / "sea.png"), "--store", "album.store", "--path", "fox*").out
    assert [line.split()[1] for line in like.splitlines()] == ["fox.png"]


def test_info_lists_rows_with_their_urls(run, photos):
    picture(photos / "ä b.png", "white")
    run("compress", "photos", "--store", "album.store")
    told = json.loads(run("info", "album.store", "--rows", "--json").out)
    assert told["rows"] == 4
    first = told["images"][0]
    assert first["image"] == "fox.png"
    assert (first["url"], first["width"], first["height"]) == ("fwd2bot://fox.png", 16, 16)
    assert (first["bytes"], first["modified"]) == ((photos / "fox.png").stat().st_size, "2024-01-01T12:00:00+00:00")
    assert told["images"][-1]["url"] == "fwd2bot://%C3%A4%20b.png"
    asked = run("ask", "what?", "--store", "album.store", "--image", first["key"])
    assert asked.out == "red\n"
    assert run("info", "album.store", "--rows").out.startswith("fox.png\t")


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_info_prints_rows_as_they_come(run, album, capsys, monkeypatch, options):
    listing, out = LanceStore.listing, []

    def seen(self, wanted):
        for row in listing(self, wanted):
            out.append(capsys.readouterr().out)
            yield row

    whole = run("info", "album.store", "--rows", *options)
    monkeypatch.setattr(LanceStore, "listing", seen)
    ran = run("info", "album.store", "--rows", *options)
    assert "".join(out) + ran.out == whole.out
    assert [sum(name in text for text in out) for name in ("fox.png", "more/flag.png", "sea.png")] == [1, 1, 0]


def test_info_tells_of_a_file_of_a_year_that_dates_do_not_reach(run, tmp_path):
    new_store(tmp_path / "s").add([make_row("a.png", modified=10**12), make_row("b.png", modified=NEW_YEAR)])
    [first, second] = run("info", "s", "--rows").out.splitlines()
    assert first.split("\t")[3].startswith("9999-12-")
    assert second.split("\t")[3] == "2024-01-01"
    images = json.loads(run("info", "s", "--rows", "--json").out)["images"]
    assert images[0]["modified"].startswith("9999-12-")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("info", "album.store", "--path", "x"), "add --rows"),
        (("info", "album.store", "--rows", "--since", "2024"), "'2024' is no date: write it as 2024-12-31"),
        (("search", "x", "--store", "album.store", "--larger", "big"), "'big' is no size: write bytes such as 300KB"),
        (("caption", "--store", "album.store", "--path", "x"), "No image of album.store (3) meets these options."),
        (("caption", "--store", "album.store", "--path", "x", "--image", "fox.png"), "not both"),
        (("ask", "x", "--store", "album.store", "--path", "x", "--image", "fox.png"), "About which image?"),
    ],
)
def test_options_that_cannot_be_read_are_one_sentence(run, album, arguments, says):
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_file_whose_name_is_no_text_is_kept_like_any_other(run, tmp_path):
    folder = os.fsencode(tmp_path / "photos")
    picture(tmp_path / "photos/fox.png", "red")
    try:
        os.rename(folder + b"/fox.png", folder + b"/\xff.png")  # noqa: PTH104 (bytes)
    except OSError:
        pytest.skip("needs a file system that takes any bytes as a name")
    picture(tmp_path / "photos/sea.png", "blue")
    assert run("compress", "photos", "--store", "s").code == 0
    assert "2 images already there" in run("compress", "photos", "--store", "s").out
    assert run("ask", "?", "--store", "s", "--image", "\\xff.png").out == "red\n"
    assert run("ask", "?", "--store", "s", "--image", "photos/\udcff.png").out == "red\n"
    assert json.loads(run("info", "s", "--rows", "--json").out)["images"][0]["path"].endswith("/\udcff.png")
    assert run("delete", "s", "--missing").out == "s: 0 images deleted\n"
    os.remove(folder + b"/\xff.png")  # noqa: PTH107 (bytes)
    assert "1 image deleted" in run("delete", "s", "--missing").out
