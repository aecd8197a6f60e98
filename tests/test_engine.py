"""The jobs, with a model that sees colours."""

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_model import COLOURS, LONGEST, FakeModel, OtherModel, picture
from PIL import Image

from fwd2bot import ingest
from fwd2bot.engine import CHUNK, ask, caption, compress_images, match, open_or_create, search, search_like
from fwd2bot.errors import ImageError, InputError, StoreError
from fwd2bot.store import Store, lance

MODEL = FakeModel()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    picture(tmp_path / "photos/red.png", "red")
    picture(tmp_path / "photos/more/blue.png", "blue")
    picture(tmp_path / "photos/more/both.png", "green", "yellow")
    return tmp_path / "photos"


@pytest.fixture
def store(photos: Path, tmp_path: Path) -> Store:
    """Three pictures, whose files are gone."""
    compress_images(MODEL, [photos], tmp_path / "s")
    shutil.rmtree(photos)
    return Store.open(tmp_path / "s")


# Compressing.


def test_compress_stores_every_picture_and_reports(photos: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = compress_images(MODEL, [photos], tmp_path / "s", batch_size=2, progress=lambda *step: calls.append(step))
    assert (report.added, report.present, report.named, report.failed, report.total) == (3, 0, 0, [], 3)
    assert Store.open(tmp_path / "s").names() == ["more/blue.png", "more/both.png", "red.png"]
    assert calls[-1] == (3, 3)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_compress_again_does_only_what_is_new(photos: Path, tmp_path: Path) -> None:
    compress_images(MODEL, [photos], tmp_path / "s")
    picture(photos / "new.png", "white")
    model = FakeModel()
    report = compress_images(model, [photos], tmp_path / "s")
    assert (report.added, report.present) == (1, 3)
    assert model.batches == [1]


def test_compress_of_one_content_under_two_names_is_one_row(photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "red.png", photos / "again.png")
    model = FakeModel()
    report = compress_images(model, [photos], tmp_path / "s")
    assert (report.added, report.named, sum(model.batches)) == (3, 1, 3)
    store = Store.open(tmp_path / "s")
    assert len(store) == 3
    assert [reply.text for reply in ask(MODEL, store, [("again.png", "?"), ("red.png", "?")])] == ["red", "red"]
    assert compress_images(model, [photos], tmp_path / "s").present == 4


def test_compress_of_a_file_that_changed_moves_its_name(photos: Path, tmp_path: Path) -> None:
    compress_images(MODEL, [photos], tmp_path / "s")
    picture(photos / "red.png", "black")
    assert compress_images(MODEL, [photos], tmp_path / "s").added == 1
    store = Store.open(tmp_path / "s")
    assert len(store) == 3
    assert [reply.text for reply in ask(MODEL, store, [("red.png", "?")])] == ["black"]


@pytest.mark.parametrize("tidied", [False, True])
def test_compress_of_two_files_that_swapped_names(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tidied: bool
) -> None:
    monkeypatch.setattr(ingest, "COMMIT_ROWS", 1)
    if tidied:  # what loses its last name goes at once
        monkeypatch.setattr(lance, "COMMITS", 1)
    compress_images(MODEL, [photos], tmp_path / "s")
    content = (photos / "red.png").read_bytes()
    shutil.copy(photos / "more/blue.png", photos / "red.png")
    (photos / "more/blue.png").write_bytes(content)
    report = compress_images(MODEL, [photos], tmp_path / "s")
    assert (report.added, report.named) == (0, 2)
    store = Store.open(tmp_path / "s")
    texts = [reply.text for reply in ask(MODEL, store, [("red.png", "?"), ("more/blue.png", "?")])]
    assert texts == ["blue", "red"]


def test_compress_of_another_folder_with_the_same_name_in_it_keeps_both(photos: Path, tmp_path: Path) -> None:
    picture(tmp_path / "others/red.png", "white")
    for _ in range(2):
        compress_images(MODEL, [photos], tmp_path / "s")
        report = compress_images(MODEL, [tmp_path / "others"], tmp_path / "s")
    assert (report.added, report.present) == (0, 1)
    store = Store.open(tmp_path / "s")
    texts = [reply.text for reply in ask(MODEL, store, [("red.png", "?"), ("others/red.png", "?")])]
    assert texts == ["red", "white"]


def test_compress_lists_what_it_cannot_read_and_goes_on(photos: Path, tmp_path: Path) -> None:
    (photos / "empty.png").touch()
    (photos / "text.png").write_text("no picture")
    report = compress_images(MODEL, [photos, tmp_path / "missing.png"], tmp_path / "s")
    assert report.added == 3
    assert [name for name, _ in report.failed] == ["empty.png", "missing.png", "text.png"]
    for (_, reason), says in zip(report.failed, ("is empty", "is not there", "is not a picture"), strict=True):
        assert says in reason


def test_compress_of_nothing_makes_no_store(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"There are no pictures in .*empty"):
        compress_images(MODEL, [tmp_path / "empty"], tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_one_path_is_no_list_of_paths(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="photos' is no list of paths; put it in a list"):
        compress_images(MODEL, str(photos), tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("size", [1, 2, 5, 32])
def test_compress_gives_the_same_rows_whatever_the_batch(photos: Path, tmp_path: Path, size: int) -> None:
    compress_images(MODEL, [photos], tmp_path / "s", batch_size=size, quantisation="bf16")
    store = Store.open(tmp_path / "s")
    tokens = [row.tokens for row in store.get(store.names())]
    colours = [[int(value) for value in row[0][:3]] for row in tokens if row is not None]
    assert colours == [[-1, -1, 1], [-1, 1, -1], [1, -1, -1]]


def test_compress_refuses_a_batch_of_nothing(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 1 picture, not 0"):
        compress_images(MODEL, [photos], tmp_path / "s", batch_size=0)


class Stopping(FakeModel):
    """Is interrupted in the third batch."""

    def compress(self, images: Sequence[Image.Image], num_tokens: int | None = None) -> Any:
        if len(self.batches) == 2:
            raise KeyboardInterrupt
        return super().compress(images, num_tokens)


def test_compress_that_is_interrupted_keeps_what_was_compressed(tmp_path: Path) -> None:
    for place, colour in enumerate(["red", "green", "blue", "white", "black"]):
        picture(tmp_path / f"p/{place}.png", colour)
        picture(tmp_path / f"p/{place}-again.png", colour)
    with pytest.raises(KeyboardInterrupt):
        compress_images(Stopping(), [tmp_path / "p"], tmp_path / "s", batch_size=1)
    assert len(Store.open(tmp_path / "s")) == 2
    report = compress_images(MODEL, [tmp_path / "p"], tmp_path / "s")
    assert report.added == 3
    assert len(Store.open(tmp_path / "s").names()) == 10


def test_compress_reads_no_more_than_a_batch_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [picture(tmp_path / f"p/{i:02}.png", "red", "blue" if i % 2 else None) for i in range(20)]
    opened: list[str] = []
    lock = threading.Lock()
    original = ingest.read_bytes

    def counted(path: Path) -> bytes:
        with lock:
            opened.append(path.name)
        return original(path)

    monkeypatch.setattr(ingest, "read_bytes", counted)
    found = [(path.name, str(path)) for path in paths]
    for taken, _ in enumerate(ingest.read_ahead(found, set(), 3), start=1):
        assert len(opened) <= taken + 3


def test_pixels_of_the_next_batch_are_made_while_the_model_works(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, changed = 0, threading.Condition()
    compress = MODEL.compress

    def preparing(images: Sequence[Image.Image]) -> Sequence[Image.Image]:
        nonlocal prepared
        with changed:
            prepared += 1
            changed.notify_all()
        return images

    worked = 0

    def working(images: Sequence[Image.Image], **options: Any) -> Any:
        """Is not done before the next batch is prepared."""
        nonlocal worked
        worked += 1
        with changed:
            assert changed.wait_for(lambda: prepared >= min(3, worked + 1), timeout=30)
        return compress(images, **options)

    monkeypatch.setattr(MODEL, "prepare", preparing)
    monkeypatch.setattr(MODEL, "compress", working)
    assert compress_images(MODEL, [photos], tmp_path / "s", batch_size=1).added == 3
    assert (prepared, worked) == (3, 3)


def test_a_model_that_fails_loses_its_batch_alone(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress, batches = MODEL.compress, []

    def fails_once(images: Sequence[Image.Image], **options: Any) -> Any:
        batches.append(len(images))
        if len(batches) == 2:
            raise MemoryError("no room")
        return compress(images, **options)

    monkeypatch.setattr(MODEL, "compress", fails_once)
    with pytest.raises(MemoryError, match="no room"):
        compress_images(MODEL, [photos], tmp_path / "s", batch_size=1)
    kept = len(Store.open(tmp_path / "s"))
    assert kept == 1
    assert compress_images(MODEL, [photos], tmp_path / "s").added == 3 - kept


def test_compress_reads_the_next_pictures_while_the_model_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    colours = [(one, other) for one in COLOURS for other in COLOURS][:12]
    for number, pair in enumerate(colours):
        picture(tmp_path / f"p/{number:02}.png", *pair)
    read, changed = 0, threading.Condition()
    original, compress = ingest.decode, MODEL.compress

    def decoded(*given: Any) -> Any:
        nonlocal read
        found = original(*given)
        with changed:
            read += 1
            changed.notify_all()
        return found

    taken = 0

    def working(images: Sequence[Image.Image], **options: Any) -> Any:
        """Is not done before the files of the next batch are read and decoded, by others."""
        nonlocal taken
        taken += len(images)
        with changed:
            assert changed.wait_for(lambda: read >= min(12, taken + 4), timeout=30)
        return compress(images, **options)

    monkeypatch.setattr(ingest, "decode", decoded)
    monkeypatch.setattr(MODEL, "compress", working)
    assert compress_images(MODEL, [tmp_path / "p"], tmp_path / "s", batch_size=4).added == 12
    assert taken == 12


@pytest.mark.parametrize(("count", "offered"), [(5, "1 to 4"), (0, "1 to 4")])
def test_compress_refuses_a_number_of_tokens_that_the_model_lacks(
    photos: Path, tmp_path: Path, count: int, offered: str
) -> None:
    with pytest.raises(InputError, match=f"fake gives {offered} tokens an image, not {count}"):
        compress_images(MODEL, [photos], tmp_path / "s", num_tokens=count)
    with pytest.raises(InputError, match="other gives 2 or 4 tokens an image, not 3"):
        compress_images(OtherModel(), [photos], tmp_path / "s", num_tokens=3)
    assert not (tmp_path / "s").exists()


def test_open_or_create_refuses_what_the_store_is_not(photos: Path, tmp_path: Path) -> None:
    compress_images(MODEL, [photos], tmp_path / "s", num_tokens=2, quantisation="int8")
    header = open_or_create(MODEL, tmp_path / "s", num_tokens=2, quantisation="int8").header
    assert (header.num_tokens, header.quantisation, header.model) == (2, "int8", "fake")
    assert open_or_create(MODEL, tmp_path / "s").header == header
    with pytest.raises(StoreError, match="holds 2 tokens an image, not 4"):
        open_or_create(MODEL, tmp_path / "s", num_tokens=4)
    with pytest.raises(StoreError, match="holds tokens as int8, not bf16"):
        open_or_create(MODEL, tmp_path / "s", quantisation="bf16")
    with pytest.raises(StoreError, match=r"written by fake .* this is other .* new store"):
        compress_images(OtherModel(), [photos], tmp_path / "s")


# Asking and captioning, with the files gone.


def test_ask_answers_from_rows_alone(store: Store) -> None:
    pairs = [("more/both.png", "which colours in each ?"), ("red.png", "?"), ("more/both.png", "?")]
    replies = list(ask(MODEL, store, pairs))
    assert [(reply.image, reply.question) for reply in replies] == pairs
    assert [reply.text for reply in replies] == ["green yellow green yellow", "red", "green"]


def test_ask_of_fewer_tokens_reads_the_beginning_of_the_row(store: Store) -> None:
    [reply] = ask(MODEL, store, [("more/both.png", "each")], num_tokens=2)
    assert reply.text == "green yellow"


def test_ask_goes_on_after_what_cannot_be_answered(store: Store) -> None:
    pairs = [("red.png", "?")] * CHUNK
    pairs[3:3] = [("rad.png", "?"), ("red.png", " "), ("red.png", "x" * (LONGEST + 1))]
    replies = list(ask(MODEL, store, pairs))
    assert [reply.text for reply in replies] == ["red"] * 3 + [None] * 3 + ["red"] * (CHUNK - 3)
    says = ("did you mean 'red.png'", "The question is empty", f"at most {LONGEST} fit")
    for reply, part in zip(replies[3:6], says, strict=True):
        assert part in (reply.error or "")


def test_ask_refuses_another_model(store: Store) -> None:
    with pytest.raises(StoreError, match="written by fake"):
        list(ask(OtherModel(), store, [("red.png", "?")]))


def test_ask_refuses_more_tokens_than_there_are_and_parts_where_the_model_has_none(
    photos: Path, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="holds 4 tokens an image, so 5"):
        list(ask(MODEL, store, [("red.png", "?")], num_tokens=5))
    with pytest.raises(InputError, match="gives 1 to 4 tokens an image, not 0"):
        list(ask(MODEL, store, [("red.png", "?")], num_tokens=0))
    picture(tmp_path / "p/red.png", "red")
    compress_images(OtherModel(), [tmp_path / "p"], tmp_path / "other")
    with pytest.raises(InputError, match="cannot read a part of a row"):
        list(ask(OtherModel(), Store.open(tmp_path / "other"), [("red.png", "?")], num_tokens=2))


def test_caption_describes_from_rows_alone(store: Store) -> None:
    replies = list(caption(MODEL, store, [*store.names(), "missing"]))
    assert [reply.text for reply in replies] == ["a blue picture", "a green picture", "a red picture", None]


# Searching.


def test_search_finds_by_text_from_rows_alone(store: Store) -> None:
    found = search(MODEL, store, ["something blue", "", "red"], top=2)
    assert [one.query for one in found] == ["something blue", "", "red"]
    assert [[name for name, _ in one.results][:1] for one in found] == [["more/blue.png"], [], ["red.png"]]
    assert found[0].results[0][1] == pytest.approx(1, abs=0.01)  # the vector is kept in 4 bits a number
    assert len(found[0].results) == 2
    assert "The query is empty" in (found[1].error or "")


def test_search_like_finds_by_a_picture(store: Store, tmp_path: Path) -> None:
    found = search_like(MODEL, store, picture(tmp_path / "query.png", "green", "yellow"), top=1)
    assert found.results == [("more/both.png", pytest.approx(1, abs=0.01))]


def test_search_like_refuses_what_is_no_picture(store: Store, tmp_path: Path) -> None:
    (tmp_path / "query.png").touch()
    with pytest.raises(ImageError, match="is empty"):
        search_like(MODEL, store, tmp_path / "query.png")


def test_search_refuses_another_model(store: Store) -> None:
    with pytest.raises(StoreError, match="written by fake"):
        search(OtherModel(), store, ["red"])


def test_match_ranks_texts(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", "yellow")
    ranked = match(MODEL, path, ["blue", "yellow", "red", "yellow again"])
    assert [text for text, _ in ranked] == ["yellow", "yellow again", "red", "blue"]
    assert ranked[0][1] == pytest.approx(1)
    with pytest.raises(InputError, match="The text is empty"):
        match(MODEL, path, ["blue", " "])
    with pytest.raises(InputError, match="not 7"):
        match(MODEL, path, ["blue"], num_tokens=7)
