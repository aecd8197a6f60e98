"""What `fwd2bot world` writes: every file in its shape, every picture where a row says it is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from world_reader import answer, read_full_caption

from fwd2bot.cli import main
from fwd2bot.data.world import KINDS, captions, make_scene, render
from fwd2bot.data.world.scene import SIGN
from fwd2bot.data.world.sprites import object_names
from fwd2bot.data.world.writers import PICTURE, write_album, write_world
from fwd2bot.errors import InputError

IMAGES = 30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"), IMAGES, "val")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_folder_holds_pictures_and_every_annotation(world: Path) -> None:
    assert {path.name for path in world.iterdir()} == {
        "images", "questions.jsonl", "captions.jsonl", "scenes.jsonl", "llava_conversations.json", "cc3m_pairs.json",
    }  # fmt: skip
    pictures = sorted((world / "images").iterdir())
    assert [path.name for path in pictures] == [make_scene("val", index).name for index in range(IMAGES)]


def test_pictures_are_rendered_without_loss(world: Path) -> None:
    with Image.open(world / "images" / "val-0000007.png") as picture:
        assert picture.mode == "RGB"
        assert np.array_equal(np.asarray(picture), render(make_scene("val", 7), size=PICTURE))


def test_every_row_names_a_picture_that_is_there(world: Path) -> None:
    listed = [*lines(world / "questions.jsonl"), *lines(world / "captions.jsonl")]
    for name in ("llava_conversations.json", "cc3m_pairs.json"):
        listed += json.loads((world / name).read_text(encoding="utf-8"))
    assert {row["image"] for row in listed} == {path.name for path in (world / "images").iterdir()}


def test_questions_have_four_fields_and_true_answers(world: Path) -> None:
    rows = lines(world / "questions.jsonl")
    known = {*object_names(), SIGN}
    assert {row["kind"] for row in rows} == set(KINDS)
    for row in rows:
        assert list(row) == ["image", "question", "answer", "kind"]
        scene = make_scene("val", int(Path(row["image"]).stem.split("-")[1]))
        assert answer(row["question"], scene, known) == row["answer"]


def test_captions_are_five_and_the_first_is_complete(world: Path) -> None:
    for index, row in enumerate(lines(world / "captions.jsonl")):
        assert list(row) == ["image", "captions"]
        assert len(row["captions"]) == 5
        assert read_full_caption(row["captions"][0])[0].total() == len(make_scene("val", index).things)


def test_records_give_the_scenes(world: Path) -> None:
    for index, row in enumerate(lines(world / "scenes.jsonl")):
        scene = make_scene("val", index)
        assert (row["split"], row["index"], row["colour"], row["pattern"]) == (
            "val",
            index,
            scene.colour,
            scene.pattern,
        )
        assert [thing["name"] for thing in row["things"]] == [thing.name for thing in scene.things]


def test_llava_conversations_have_the_shape_of_llava_665k(world: Path) -> None:
    entries = json.loads((world / "llava_conversations.json").read_text(encoding="utf-8"))
    assert len({entry["id"] for entry in entries}) == len(entries) == IMAGES
    asked = {(row["image"], row["question"], row["answer"]) for row in lines(world / "questions.jsonl")}
    for entry in entries:
        assert set(entry) == {"id", "image", "conversations"}
        assert isinstance(entry["id"], str)
        turns = entry["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert all(set(turn) == {"from", "value"} and turn["value"] for turn in turns)
        placeholders = [turn["value"].count("<image>") for turn in turns]
        assert placeholders == [1] + [0] * (len(turns) - 1)
        assert turns[0]["value"].startswith("<image>\n")
        for human, gpt in zip(turns[::2], turns[1::2], strict=True):
            assert (entry["image"], human["value"].removeprefix("<image>\n"), gpt["value"]) in asked


def test_cc3m_pairs_have_the_shape_of_cc3m_595k(world: Path) -> None:
    entries = json.loads((world / "cc3m_pairs.json").read_text(encoding="utf-8"))
    prompts = set()
    for index, entry in enumerate(entries):
        assert set(entry) == {"id", "image", "conversations"}
        assert "/" not in entry["image"]
        human, gpt = entry["conversations"]
        assert (human["from"], gpt["from"]) == ("human", "gpt")
        assert human["value"].startswith("<image>\n") != human["value"].endswith("\n<image>")
        assert gpt["value"] == captions(make_scene("val", index))[0]
        prompts.add(human["value"])
    assert len(prompts) > 4
    assert {prompt.startswith("<image>") for prompt in prompts} == {True, False}


def test_seeds_write_other_scenes(tmp_path: Path) -> None:
    write_world(tmp_path, 2, "test", seed=3)
    assert [row["index"] for row in lines(tmp_path / "scenes.jsonl")] == [3_000_000, 3_000_001]


def test_written_again_it_is_the_same(tmp_path: Path, world: Path) -> None:
    again = write_world(tmp_path, IMAGES, "val")
    for path in world.rglob("*.*"):
        assert path.read_bytes() == (again / path.relative_to(world)).read_bytes()


def test_progress_is_told_a_picture_at_a_time(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write_world(tmp_path, 3, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_command_writes_a_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", "--out", str(tmp_path / "w"), "--images", "2", "--split", "composition"]) == 0
    assert len(list((tmp_path / "w/images").glob("composition-*.png"))) == 2
    assert "2 images" in capsys.readouterr().out


def test_album_pictures_are_named_by_what_they_show(tmp_path: Path) -> None:
    write_album(tmp_path, 4)
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert len(pictures) == 4
    rows = lines(tmp_path / "questions.jsonl")
    assert {row["image"] for row in rows} == set(pictures)
    assert {row["image"] for row in lines(tmp_path / "captions.jsonl")} == set(pictures)
    for row in lines(tmp_path / "captions.jsonl"):
        assert f" {Path(row['image']).stem} " in f" {row['captions'][1]} "


@pytest.mark.parametrize(
    ("images", "split", "sentence"),
    [
        (0, "test", "number of images is 0; it must be at least 1"),
        (-3, "test", "number of images is -3; it must be at least 1"),
        (1, "dev", "no split 'dev': choose one of train, val, test, composition"),
    ],
)
def test_wrong_number_or_split_is_an_input_error(images: int, split: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        write_world(tmp_path / "w", images, split)
    assert not (tmp_path / "w").exists()


def test_folder_that_is_a_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match=r"taken cannot be written: (File exists|Not a directory)\."):
        write_world(tmp_path / "taken", 1)
