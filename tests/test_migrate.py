"""`fwd2bot migrate`: the rows of another model, from the files."""

import pytest
from fake_model import OtherModel, picture
from test_cli_stores import photos

from fwd2bot.store import Store

__all__ = ["photos"]


def stopped_at(monkeypatch, number):
    """Ctrl-C comes in that batch of the other model; gives the sizes of all."""
    compress, seen = OtherModel.compress, []

    def stopping(self, images, num_tokens=None):
        seen.append(len(images))
        if len(seen) == number:
            raise KeyboardInterrupt
        return compress(self, images, num_tokens)

    monkeypatch.setattr(OtherModel, "compress", stopping)
    return seen


def test_migrate_gives_the_rows_of_another_model_and_keeps_the_old(run, photos):
    (photos / "sea.png").unlink()
    ran = run("migrate", "album.store", "--model", "other")
    assert ran.code == 3
    assert "album.store: 2 images of other in" in ran.out
    assert "the old rows are in album.store.before" in ran.out
    assert "1 image could not be read, and stay there alone:" in ran.out
    assert "sea.png is not there: check the path." in ran.out
    new, old = Store.open("album.store"), Store.open("album.store.before")
    assert (new.names(), new.header.fingerprint) == (["fox.png", "more/flag.png"], OtherModel.fingerprint)
    assert old.names() == ["fox.png", "more/flag.png", "sea.png"]
    assert run("ask", "what?", "--store", "album.store.before", "--image", "sea.png").out == "blue\n"
    assert run("verify", "album.store").code == 0


def test_migrate_to_a_model_that_gives_other_numbers_of_tokens_takes_its_own(run, photos):
    assert run("compress", "photos", "--store", "three.store", "--tokens", "3").code == 0
    assert run("migrate", "three.store", "--model", "other").code == 0
    assert Store.open("three.store").header.num_tokens == 4
    assert run("migrate", "three.store", "--model", "other", "--tokens", "3").code == 2


def test_migrate_that_was_stopped_goes_on(run, photos, monkeypatch, tmp_path):
    seen = stopped_at(monkeypatch, 2)
    ran = run("migrate", "album.store", "--model", "other", "--batch", "1")
    assert ran.code == 130
    assert "album.store is as it was; the same command goes on" in ran.err
    assert run("ask", "what?", "--store", "album.store", "--image", "sea.png").out == "blue\n"
    other = run("migrate", "album.store", "--tokens", "2")
    assert other.code == 5
    assert "Or delete album.store.migrating, which an earlier `fwd2bot migrate` began." in other.err
    assert run("migrate", "album.store", "--model", "other", "--batch", "1").code == 0
    assert seen == [1, 1, 1, 1]  # the first of the first run was kept
    assert len(Store.open("album.store")) == 3
    assert sorted(path.name for path in tmp_path.glob("*store*")) == ["album.store", "album.store.before"]


def test_migrate_that_goes_on_does_not_bring_back_what_was_deleted(run, photos, monkeypatch, tmp_path):
    stopped_at(monkeypatch, 3)
    assert run("migrate", "album.store", "--model", "other", "--batch", "1").code == 130
    assert Store.open("album.store.migrating").names() == ["fox.png", "more/flag.png"]
    [row] = Store.open("album.store").get(["fox.png"])
    assert run("delete", "album.store", "fox.png").code == 0
    (photos / "fox.png").unlink()
    (photos / "more/flag.png").rename(photos / "flag.png")
    picture(tmp_path / "fox.png", "white")  # another picture of that name, from elsewhere
    assert run("compress", "photos", "fox.png", "--store", "album.store").code == 0
    assert run("migrate", "album.store", "--model", "other", "--batch", "1").code == 0
    assert Store.open("album.store").names() == Store.open("album.store.before").names()
    [new] = Store.open("album.store").get(["fox.png"])
    assert new.hash != row.hash
    files = [file for file in (tmp_path / "album.store").rglob("*") if file.is_file()]
    assert not any(bytes.fromhex(row.hash) in file.read_bytes() for file in files)


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ((), 2, "written by fake as it is: there is nothing to migrate"),
        (("--tokens", "0"), 2, "fake gives 1 to 4 tokens an image, not 0"),
        (("--tokens", "9"), 2, "fake gives 1 to 4 tokens an image, not 9"),
        (("--batch", "0"), 2, "at least 1 picture, not 0"),
        (("--model", "none"), 4, "no model none"),
    ],
)
def test_migrate_says_what_is_wrong(run, photos, options, code, says):
    ran = run("migrate", "album.store", *options)
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert len(Store.open("album.store")) == 3


def test_migrate_keeps_the_shape_of_the_rows_unless_asked(run, photos):
    assert run("migrate", "album.store", "--tokens", "2", "--quantise", "int8").code == 0
    assert run("migrate", "album.store", "--model", "other").code == 0
    header = Store.open("album.store").header
    assert (header.model, header.num_tokens, header.quantisation) == ("other", 2, "int8")
    assert run("migrate", "album.store").code == 2  # the other one wrote it
    assert sorted(path.name for path in photos.parent.glob("*.before*")) == [
        "album.store.before",
        "album.store.before-2",
    ]


def test_migrate_without_any_file_leaves_the_store_as_it_is(run, album):
    ran = run("migrate", "album.store", "--model", "other")
    assert ran.code == 3
    assert "Of the 3 images of album.store no file is there: it stays as it is." in ran.err
    assert Store.open("album.store").header.model == "fake"
