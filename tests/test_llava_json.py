"""LLaVA's training files: their shapes, their quirks, every kind of broken file, and what `fwd2bot world` writes."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fwd2bot.data import llava_json
from fwd2bot.data.llava_json import LlavaJson
from fwd2bot.data.records import Kind, Record, of_kind
from fwd2bot.data.world import captions, make_scene, questions, render
from fwd2bot.data.world.writers import INSTRUCTIONS, PICTURE, write_world
from fwd2bot.errors import ImageError, InputError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def turn(speaker: str, text: str) -> dict[str, str]:
    return {"from": speaker, "value": text}


def entry(*texts: str, **more: Any) -> dict[str, Any]:
    """Texts that a person and the model say in turn."""
    speakers = ("human", "gpt")
    return {**more, "conversations": [turn(speakers[n % 2], text) for n, text in enumerate(texts)]}


MIX = [
    entry("<image>\nWhat is it?", "A fox.", "Where?", "Left.", id="000000033471", image="coco/train2017/33471.jpg"),
    entry("How old is it?\n<image>", "Two.", id="000000033471", image="coco/train2017/33471.jpg"),
    entry("Write <image> in HTML.", "<img>", id="Xw1", model=""),
    entry("<image>\nWho wrote this?", "Élodie 🦊", id=2345, image="ocr_vqa/images/99.jpg"),
]


def write(path: Path, content: Any, **how: Any) -> Path:
    path.write_text(json.dumps(content, **how), encoding="utf-8")
    return path


def picture(path: Path, colour: tuple[int, int, int] = RED, kind: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), colour).save(path, kind)


def read(tmp_path: Path, *entries: Any, **options: Any) -> LlavaJson:
    return LlavaJson(write(tmp_path / "mix.json", entries), tmp_path, **options)


def test_records_have_turns_without_placeholder(tmp_path: Path) -> None:
    source = read(tmp_path, *MIX)
    assert [source[index] for index in range(len(source))] == [
        Record(
            key="000000033471#0",
            image="coco/train2017/33471.jpg",
            turns=(("What is it?", "A fox."), ("Where?", "Left.")),
        ),
        Record(key="000000033471#1", image="coco/train2017/33471.jpg", turns=(("How old is it?", "Two."),)),
        Record(key="Xw1#2", turns=(("Write <image> in HTML.", "<img>"),)),
        Record(key="2345#3", image="ocr_vqa/images/99.jpg", turns=(("Who wrote this?", "Élodie 🦊"),)),
    ]
    assert source.name == "mix"
    assert source.order(0, 0) is None


def test_figures_are_those_of_the_records(tmp_path: Path) -> None:
    source = read(tmp_path, *MIX)
    assert source.text_lengths().tolist() == [11 + 6 + 6 + 5, 14 + 4, 22 + 5, 15 + 8]
    assert source.text_lengths().dtype == np.int32
    assert source.kinds().tolist() == [3, 3, 2, 3]
    assert of_kind(source, Kind.TURNS).tolist() == [2]


def test_index_beyond_the_records_is_an_index_error(tmp_path: Path) -> None:
    source = read(tmp_path, *MIX)
    assert source[-1] == source[3]
    with pytest.raises(IndexError):
        source[4]


@pytest.mark.parametrize("how", [{}, {"ensure_ascii": False}, {"indent": 2}, {"separators": (",", ":")}])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_records_are_the_same_however_the_file_is_written(tmp_path: Path, how: dict[str, Any], mark: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(mark + " \r\n" * 3 + json.dumps(MIX, **how) + "\n", encoding="utf-8")
    wanted, found = read(tmp_path, *MIX), LlavaJson(path, tmp_path)
    assert [found[n] for n in range(len(found))] == [wanted[n] for n in range(len(wanted))]
    assert found.text_lengths().tolist() == wanted.text_lengths().tolist()


@pytest.mark.parametrize("piece", [1, 2, 7, 64])
def test_records_are_the_same_however_the_file_is_cut(
    tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = read(tmp_path, *MIX)
    monkeypatch.setattr(llava_json, "PIECE", piece)
    found = LlavaJson(write(tmp_path / "cut.json", MIX, ensure_ascii=False), tmp_path)
    assert [found[n] for n in range(len(found))] == [wanted[n] for n in range(len(wanted))]


def test_conversation_begins_with_a_person_and_ends_with_the_model(tmp_path: Path) -> None:
    said = [turn("gpt", "Hello!"), turn("gpt", "There."), turn("human", "Why?"), turn("gpt", "So."), turn("human", "?")]
    source = read(tmp_path, {"id": 1, "conversations": said})
    assert source[0].turns == (("Why?", "So."),)


def test_entry_of_which_nothing_is_left_is_left_out_and_counted(tmp_path: Path) -> None:
    source = read(tmp_path, {"id": 1, "conversations": [turn("gpt", "Hello!")]}, entry("Why?"), entry("So?", "Yes."))
    assert (len(source), source.left_out, source[0].key) == (1, 2, "#2")


def test_half_of_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    source = read(tmp_path, entry("half \ud83d?", "\udc00 and whole \U0001f98a"))
    assert source[0].turns == (("half \ufffd?", "\ufffd and whole \U0001f98a"),)
    assert source.text_lengths().tolist() == [7 + 13]


def test_answers_are_captions_where_asked_for(tmp_path: Path) -> None:
    pairs = [entry("Describe it.\n<image>", "a fox", id="p1", image="p1.jpg"), entry("Why?", "So.", id="t")]
    source = read(tmp_path, *pairs, pairs=True)
    assert source[0] == Record(key="p1#0", image="p1.jpg", turns=(), caption="a fox")
    assert (len(source), source.left_out) == (1, 1)
    assert source.kinds().tolist() == [Kind.IMAGE | Kind.CAPTION]
    assert source.text_lengths().tolist() == [len("a fox")]
    assert read(tmp_path, *pairs)[0].caption is None


def test_an_empty_caption_is_none(tmp_path: Path) -> None:
    said = ("a fox", " ", "<image>")
    pairs = [entry("<image>", answer, id=str(number), image="1.jpg") for number, answer in enumerate(said)]
    source = read(tmp_path, *pairs, pairs=True)
    assert (len(source), source.left_out, source[0].caption) == (1, 2, "a fox")


def test_picture_is_read_below_the_folder(tmp_path: Path) -> None:
    picture(tmp_path / "coco/train2017/33471.jpg")
    source = read(tmp_path, *MIX)
    image = source.picture(source[0])
    assert (image.mode, image.size) == ("RGB", (6, 4))
    assert np.abs(np.asarray(image, dtype=int) - RED).max() < 9


@pytest.mark.parametrize("extension", [".png", ".gif", ".JPG", ".jpeg"])
def test_picture_is_found_under_another_extension(tmp_path: Path, extension: str) -> None:
    kind = {".png": "PNG", ".gif": "GIF"}.get(extension, "JPEG")
    picture(tmp_path / f"ocr_vqa/images/99{extension}", BLUE, kind)
    source = read(tmp_path, *MIX)
    assert np.abs(np.asarray(source.picture(source[3]), dtype=int) - BLUE).max() < 9


def test_picture_may_be_of_another_kind_than_its_name_says(tmp_path: Path) -> None:
    picture(tmp_path / "ocr_vqa/images/99.jpg", BLUE, "GIF")
    picture(tmp_path / "ocr_vqa/images/99.png", RED)
    source = read(tmp_path, *MIX)
    assert source.picture(source[3]).getpixel((0, 0)) == BLUE


def test_picture_that_is_broken_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    picture(tmp_path / "ocr_vqa/images/99.png")
    (tmp_path / "ocr_vqa/images/99.jpg").write_bytes(b"<html>not found</html>")
    source = read(tmp_path, *MIX)
    with pytest.raises(ImageError, match=r"99.jpg is not a picture"):
        source.picture(source[3])


@pytest.mark.parametrize("name", ["gone/1.jpg", "..", "a\0b.jpg", "x" * 300 + ".jpg", "\ud83d.jpg"])
def test_picture_that_is_not_there_is_an_image_error(tmp_path: Path, name: str) -> None:
    source = read(tmp_path, entry("<image>\nWhat?", "A fox.", image=name))
    with pytest.raises(ImageError):
        source.picture(source[0])


def coco(path: Path, **texts: list[str]) -> Path:
    """captions_*.json with these captions of n33471.jpg and so on."""
    images = [{"id": 10 + n, "file_name": f"{name[1:]}.jpg", "height": 4} for n, name in enumerate(texts)]
    rows = [(10 + n, text) for n, captions in enumerate(texts.values()) for text in captions]
    annotations = [{"id": n, "image_id": image, "caption": text} for n, (image, text) in enumerate(rows)]
    return write(path, {"info": {}, "images": images, "annotations": annotations})


def test_attached_captions_are_found_by_the_pictures_file_name(tmp_path: Path) -> None:
    source = read(tmp_path, *MIX)
    path = coco(tmp_path / "captions.json", n5=["a cake"], n33471=["a red fox\n"])
    assert source.attach_captions(path) == 2
    assert [source[n].caption for n in range(4)] == ["a red fox", "a red fox", None, None]
    assert source.kinds().tolist() == [7, 7, 2, 3]
    assert of_kind(source, Kind.IMAGE | Kind.TURNS | Kind.CAPTION).tolist() == [0, 1]


def test_one_of_several_captions_is_taken_and_always_the_same(tmp_path: Path) -> None:
    many = [MIX[0]] * 300
    texts = ["one", "two", "three"]
    path = coco(tmp_path / "captions.json", n33471=texts)

    def taken(seed: int) -> list[str | None]:
        source = read(tmp_path, *many, seed=seed)
        source.attach_captions(path)
        return [source[n].caption for n in range(300)]

    assert taken(1) == taken(1) != taken(2)
    assert all(60 < taken(1).count(text) < 140 for text in texts)


def test_captions_of_two_splits_are_attached_one_after_the_other(tmp_path: Path) -> None:
    source = read(tmp_path, *MIX)
    assert source.attach_captions(coco(tmp_path / "train.json", n33471=["a fox"])) == 2
    assert source.attach_captions(coco(tmp_path / "val.json", n99=["a book"])) == 3
    assert [source[n].caption for n in (0, 3)] == ["a fox", "a book"]


def test_pictures_that_karpathys_split_keeps_for_figures_get_no_captions(tmp_path: Path) -> None:
    """train2017 has most of them."""
    source = read(tmp_path, *MIX)
    path = coco(tmp_path / "train.json", n33471=["a fox"], n99=["a book"])  # 10 and 11
    splits = [("val", 7), ("test", 10), ("restval", 11), ("train", 12)]
    held = write(tmp_path / "dataset_coco.json", {"images": [{"cocoid": n, "split": split} for split, n in splits]})
    assert source.attach_captions(path, held) == 1
    assert [source[n].caption for n in range(4)] == [None, None, None, "a book"]
    with pytest.raises(InputError, match=r"train.json has no images with cocoid and split: it must be Karpathy's"):
        source.attach_captions(path, path)


def test_captions_of_other_pictures_are_an_input_error(tmp_path: Path) -> None:
    source = read(tmp_path, *MIX)
    path = coco(tmp_path / "captions.json", n7=["a cake"])
    with pytest.raises(InputError, match=r"captions for no picture of .*mix.json .*it has 7.jpg, for one\): attach"):
        source.attach_captions(path)
    assert source[0].caption is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[]", "has no images with a file name and annotations with a caption"),
        ('{"images": []}', "has no 'annotations' where one is needed"),
        ('{"images": [{"id": 1}], "annotations": []}', "has no 'file_name' where one is needed"),
        ('{"images": [], "annotations": [{"image_id": 4, "caption": "a"}]}', "has no 4 where one is needed"),
        ('{"images": [], "annotations": [{"image_id": 4, "caption": 7}]}', "has no images with a file name"),
        ('{"images": [', "is not whole JSON"),
    ],
)
def test_captions_of_another_layout_are_an_input_error(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(InputError, match=f"captions.json {sentence}"):
        read(tmp_path, *MIX).attach_captions(tmp_path / "captions.json")


def test_captions_that_are_not_there_are_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"captions.json cannot be read: No such file or directory; check the path"):
        read(tmp_path, *MIX).attach_captions(tmp_path / "captions.json")


GOOD = entry("Why?", "So.")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("text", "entry 1 (the first is 0): it begins with '\"', not as an object does"),
        ({}, "entry 1 (the first is 0), field conversations: it is not there, not a list of turns"),
        ({"conversations": "a"}, "field conversations: it is \"a\", not a list of turns"),
        ({"conversations": ["a"]}, "field conversations[0]: it is \"a\"; a turn has 'from' and 'value', a text"),
        ({"conversations": [turn("human", "a"), {"from": "gpt"}]}, "conversations[1]: it is {\"from\": \"gpt\"};"),
        ({"conversations": [{"from": "gpt", "value": None}]}, "field conversations[0]: it is"),
        ({"conversations": [turn("system", "a")]}, "conversations[0].from: it is \"system\", not 'human' or 'gpt'"),
        ({"conversations": [turn("human", "a")] * 2}, "conversations[1].from: 'human' speaks twice; the two take"),
        (entry("a", "b", image=["1.jpg", "2.jpg"]), "field image: it is [\"1.jpg\", \"2.jpg\"]; give one path below"),
        (entry("a", "b", image=" "), "field image: it is \" \"; give one path"),
    ],
)  # fmt: skip
def test_entry_of_another_layout_is_an_input_error(tmp_path: Path, wrong: Any, sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        read(tmp_path, GOOD, wrong, GOOD)
    assert sentence in str(raised.value)
    assert str(raised.value).startswith(f"{tmp_path / 'mix.json'}, entry 1 ")
    assert str(raised.value).endswith("Mend the entry, or fetch the file again.")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not a list in JSON (it begins with '')"),
        (b'{"id": 1}', "is not a list in JSON (it begins with '{')"),
        (b"[]", "has no conversation with an answer in it"),
        (b"[G", "entry 0 (the first is 0): it begins with 'G', not as an object does"),
        (b"[G,", "entry 1 (the first is 0): it begins with '', not as an object does"),
        (b"[GOOD", "entry 0 (the first is 0): the file ends there, where a comma or the end of the list must stand"),
        (b"[GOOD GOOD]", "entry 0 (the first is 0): '{' follows, where a comma"),
        (b"[GOOD, {\"id\": 3, \"conver", "entry 1 (the first is 0): it is not whole JSON"),
        (b"[GOOD, {\"id\": nothing}, GOOD]", "entry 1 (the first is 0): it is not whole JSON"),
        (b"[GOOD, {\"id\": \"\xff\xfe\"}, GOOD]", "entry 1 (the first is 0): it is not UTF-8"),
        (b"[GOOD] GOOD", "goes on behind the end of its list"),
        (b"[" * 100_000, "entry 0 (the first is 0): it begins with '['"),
        (b'[{"a":' + b"[" * 100_000, "entry 0 (the first is 0): it is not whole JSON"),
    ],
)  # fmt: skip
def test_broken_file_is_an_input_error(tmp_path: Path, content: bytes, sentence: str) -> None:
    content = content.replace(b"GOOD", json.dumps(GOOD).encode()).replace(
        b"[G,", b"[" + json.dumps(GOOD).encode() + b","
    )
    (tmp_path / "mix.json").write_bytes(content)
    with pytest.raises(InputError) as raised:
        LlavaJson(tmp_path / "mix.json", tmp_path)
    assert sentence in str(raised.value)
    assert len(str(raised.value)) < 500


def test_entry_without_end_is_not_searched_for_to_the_files_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llava_json, "PIECE", 100)
    monkeypatch.setattr(llava_json, "LONGEST", 1000)
    path = tmp_path / "mix.json"
    path.write_text('[{"id": "' + "x" * 100_000 + '"}]')
    with pytest.raises(InputError, match=r"entry 0 .* it is not whole JSON"):
        LlavaJson(path, tmp_path)


@pytest.mark.parametrize(("name", "reason"), [("gone.json", "No such file or directory"), (".", "Is a directory")])
def test_file_that_is_not_there_is_an_input_error(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"cannot be read: {reason}; check the path"):
        LlavaJson(tmp_path / name, tmp_path)


@pytest.mark.parametrize("change", ["gone", "shorter", "other"])
def test_file_that_changes_while_it_is_read_is_an_input_error(tmp_path: Path, change: str) -> None:
    source = read(tmp_path, *MIX)
    path = tmp_path / "mix.json"
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100] if change == "shorter" else b"x" * 5000)
    with pytest.raises(InputError, match=r"mix.json is no longer the file that it was .*start again"):
        source[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"), 12, "val")


def test_conversations_of_the_world_are_read_back_whole(world: Path) -> None:
    source = LlavaJson(world / "llava_conversations.json", world / "images")
    assert (len(source), source.left_out) == (12, 0)
    for index in range(12):
        scene, record = make_scene("val", index), source[index]
        assert (record.key, record.image) == (f"{Path(scene.name).stem}#{index}", scene.name)
        assert record.turns == tuple((question.text, question.answer) for question in questions(scene))
        assert np.array_equal(np.asarray(source.picture(record)), render(scene, size=PICTURE))


def test_pairs_of_the_world_are_read_back_whole(world: Path) -> None:
    source = LlavaJson(world / "cc3m_pairs.json", world / "images", pairs=True)
    asked = LlavaJson(world / "cc3m_pairs.json", world / "images")
    for index in range(12):
        scene, record = make_scene("val", index), source[index]
        ((question, answer),) = asked[index].turns
        assert record.caption == answer == captions(scene)[0]
        assert question in INSTRUCTIONS
        assert record.paired
        assert not record.turns
    assert len(source) == 12


def test_a_record_takes_few_bytes_however_long_it_is(tmp_path: Path) -> None:
    """29 bytes a record stay, beside some 50 kB that do not depend on the file."""
    long = entry("<image>\n" + "What is it? " * 50, "It is a fox. " * 50, id="1", image="1.jpg")
    path = write(tmp_path / "mix.json", [long] * 1000)
    tracemalloc.start()
    try:
        source = LlavaJson(path, tmp_path)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(source) == 1000
    assert held < path.stat().st_size / 10
