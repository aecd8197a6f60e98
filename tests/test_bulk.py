"""Compression by several workers: the steps, without Ray, give the store that `compress_images` gives."""

import builtins
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fake_model import FakeModel, Overflowing, picture

from fwd2bot import ingest
from fwd2bot.bulk import (
    Known,
    _Worker,
    compress_read,
    compress_with_ray,
    found_tables,
    read_files,
    write_rows,
)  # fmt: skip
from fwd2bot.engine import compress_images, open_or_create
from fwd2bot.errors import Fwd2BotError, InputError, ModelError
from fwd2bot.images import find_images
from fwd2bot.ingest import CompressReport
from fwd2bot.store import Store


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures, two of them alike, and two files that are none."""
    folder = tmp_path / "photos"
    for name, colour in (("red", "red"), ("more/blue", "blue"), ("more/again", "red"), ("white", "white")):
        picture(folder / f"{name}.png", colour)
    picture(folder / "more/both.png", "green", "yellow")
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no picture")
    return folder


def steps(model: FakeModel, photos: Path, path: Path, batch: int = 2) -> tuple[CompressReport, list[pa.Table]]:
    """What Ray does, in this process: the report, and what came from the workers."""
    store = open_or_create(model, path)
    known, made = store.hashes(), []
    for table in found_tables(find_images([photos])):
        for start in range(0, len(table), batch):
            read = read_files(table.slice(start, batch), known)
            made.append(compress_read(read, model, store.header.num_tokens))
    return write_rows(model, store, made, batch), made


def contents(path: Path) -> list[tuple[Any, ...]]:
    """All that a store holds, bit for bit."""
    store = Store.open(path)
    return [
        tuple(value.tobytes() if isinstance(value, np.ndarray) else value for value in vars(row).values())
        for row in store.get(store.names())
    ]


def test_steps_give_the_store_that_compress_gives(photos: Path, tmp_path: Path) -> None:
    one = compress_images(FakeModel(), [photos], tmp_path / "one")
    several, _ = steps(FakeModel(), photos, tmp_path / "several")
    assert contents(tmp_path / "several") == contents(tmp_path / "one")
    assert len(contents(tmp_path / "one")) == 5
    assert {**vars(several), "store": "", "seconds": 0} == {**vars(one), "store": "", "seconds": 0}
    assert (several.added, several.named, len(several.failed)) == (4, 1, 2)


def test_steps_again_compress_only_what_is_new(photos: Path, tmp_path: Path) -> None:
    steps(FakeModel(), photos, tmp_path / "s")
    picture(photos / "zebra.png", "black", "white")
    model = FakeModel()
    report, made = steps(model, photos, tmp_path / "s")
    assert (report.added, report.present) == (1, 5)
    assert model.batches == [1]
    assert sum(table["tokens"].null_count for table in made) == 7


def test_steps_stopped_keep_what_has_come(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "COMMIT_ROWS", 100)
    model = FakeModel()
    _, made = steps(model, photos, tmp_path / "whole")
    store = open_or_create(model, tmp_path / "s")

    def broken() -> Iterator[pa.Table]:
        yield made[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(model, store, broken(), 2)
    kept = Store.open(tmp_path / "s").names()
    assert kept == [row["name"] for row in made[0].to_pylist() if row["tokens"] is not None]
    assert kept


def test_steps_go_on_after_a_picture_without_finite_numbers(photos: Path, tmp_path: Path) -> None:
    report, _ = steps(Overflowing(), photos, tmp_path / "s")
    said = [name for name, reason in report.failed if "no finite numbers" in reason]
    assert said == ["more/again.png", "red.png"]
    assert (report.added, report.named, report.total) == (3, 0, 7)
    assert Store.open(tmp_path / "s").names() == ["more/blue.png", "more/both.png", "white.png"]


def test_rows_are_committed_as_they_come(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "COMMIT_ROWS", 2)
    model = FakeModel()
    _, made = steps(model, photos, tmp_path / "whole", batch=1)
    seen = []

    def watched() -> Iterator[pa.Table]:
        for table in made:
            yield table
            seen.append(len(Store.open(tmp_path / "s")))

    write_rows(model, open_or_create(model, tmp_path / "s"), watched(), 1)
    assert seen[-1] >= 3
    assert 0 in seen


def test_paths_that_are_no_text_travel_too(photos: Path, tmp_path: Path) -> None:
    folder = os.fsencode(photos)
    try:
        os.rename(folder + b"/red.png", folder + b"/\xff.png")  # noqa: PTH104 (bytes)
        os.rename(folder + b"/text.png", folder + b"/\xfe.png")  # noqa: PTH104
    except OSError:
        pytest.skip("needs a file system that takes any bytes as a name")
    one = compress_images(FakeModel(), [photos], tmp_path / "one")
    several, _ = steps(FakeModel(), photos, tmp_path / "several")
    assert contents(tmp_path / "several") == contents(tmp_path / "one")
    assert several.failed == one.failed


@pytest.mark.parametrize(("given", "says"), [("photos", "is no list of paths"), (["nowhere"], "is not there")])
def test_ray_is_not_asked_for_paths_that_are_none(tmp_path: Path, given: Any, says: str) -> None:
    with pytest.raises(Fwd2BotError, match=says):
        compress_with_ray("emoji-world", given, tmp_path / "s", workers=1)
    assert not (tmp_path / "s").exists()


def test_a_worker_with_another_model_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same path may hold another one on another machine."""
    monkeypatch.setattr("fwd2bot.model.load", lambda source, device: FakeModel())
    assert _Worker("models/mine", FakeModel.fingerprint, 4, False)
    with pytest.raises(ModelError, match="models/mine is another model on the machine of a worker"):
        _Worker("models/mine", "sha256:" + "0" * 64, 4, False)


def test_pixels_travel_unchanged(tmp_path: Path) -> None:
    picture(tmp_path / "p/both.png", "green", "yellow")
    model = FakeModel()
    (table,) = found_tables(find_images([tmp_path / "p"]))
    store = open_or_create(model, tmp_path / "s")
    read = read_files(table, store.hashes())
    assert (read["columns"].to_pylist(), read["rows"].to_pylist()) == ([16], [16])
    half = bytes([0, 255, 0]) * 8 + bytes([255, 255, 0]) * 8
    assert read["pixels"][0].as_py() == half * 16


def test_known_contents_are_found_and_no_others(photos: Path, tmp_path: Path) -> None:
    compress_images(FakeModel(), [photos], tmp_path / "s")
    store = Store.open(tmp_path / "s")
    known = Known(store.hashes())
    hashes = {row.hash for row in store.listing()}
    assert len(hashes) == 4
    assert all(key in known for key in hashes)
    assert not any(key in known for key in ("", "0" * 64, "f" * 64, max(hashes)[:-1]))


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray (the extra ray)")
@pytest.mark.filterwarnings("default")
def test_ray_gives_the_rows_of_compress(tmp_path: Path) -> None:
    import ray

    from fwd2bot.model import BUNDLED, load

    album = tmp_path / "album"
    album.mkdir()
    for name in ("crown", "camera", "sun"):
        shutil.copy(BUNDLED / f"album/{name}.png", album)
    compress_images(load("emoji-world", device="cpu"), [album], tmp_path / "one")
    report = compress_with_ray("emoji-world", [album], tmp_path / "several", workers=1)
    ray.shutdown()
    assert report.added == 3
    assert contents(tmp_path / "several") == contents(tmp_path / "one")


# Mistakes.


def test_without_ray_it_says_how_to_get_it(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = builtins.__import__

    def missing(name: str, *more: Any, **others: Any) -> Any:
        if name.partition(".")[0] == "ray":
            raise ImportError(name)
        return there(name, *more, **others)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match=r"needs Ray: pip install 'fwd2bot\[ray\]'"):
        compress_with_ray("emoji-world", [photos], tmp_path / "s", workers=2)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("workers", "batch"), [(0, 32), (2, 0)])
def test_no_worker_and_an_empty_batch_are_told(photos: Path, tmp_path: Path, workers: int, batch: int) -> None:
    with pytest.raises(InputError, match=f"must be at least 1, not {workers} and {batch}"):
        compress_with_ray("emoji-world", [photos], tmp_path / "s", workers=workers, batch_size=batch)
