"""Pictures with captions from every file that circulates, SugarCrepe's pairs, and the world in the same layouts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fwd2bot.data.world import captions, make_scene, render
from fwd2bot.data.world.benchmark_captions import NEGATIVES, negative_pair, write_caption_benchmarks
from fwd2bot.data.world.scene import PLACES, near_duplicate
from fwd2bot.errors import InputError
from fwd2bot.evaluation import java_scorers
from fwd2bot.evaluation.base import read_predictions
from fwd2bot.evaluation.caption_files import Captioned, read_coco, read_flickr30k, read_nocaps, read_textcaps
from fwd2bot.evaluation.captions import PROMPT, CaptionBenchmark, CocoCaptions
from fwd2bot.evaluation.catalogue import CATALOGUE, folder_name, open_benchmark
from fwd2bot.evaluation.retrieval import CocoRetrieval
from fwd2bot.evaluation.sugarcrepe import KINDS, SugarCrepe

SCENES = [make_scene("test", number) for number in range(8)]
BUSES = ["A red bus.", "a bus, parked"]


def written(path: Path, content: Any) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path.parent


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("benchmarks")
    write_caption_benchmarks(out, SCENES)
    return out


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java_scorers, "why_not", lambda: "Java is not installed")


# Readers.

KARPATHY = {
    "images": [
        {"filepath": "val2014", "filename": "COCO_val2014_000000000042.jpg", "cocoid": 42, "split": "test",
         "sentences": [{"raw": text, "tokens": text.split()} for text in BUSES]},
        {"filepath": "train2014", "filename": "COCO_train2014_000000000007.jpg", "cocoid": 7, "split": "train",
         "sentences": [{"raw": "a cat"}]},
    ]
}  # fmt: skip
FORMAT = {
    "images": [{"id": 42, "file_name": "COCO_val2014_000000000042.jpg"}],
    "annotations": [{"id": n, "image_id": 42, "caption": text} for n, text in enumerate(BUSES)],
}


@pytest.mark.parametrize(
    "files",
    [
        {"dataset_coco.json": KARPATHY},
        {"coco_test_karpathy.json": FORMAT},
        {
            "coco_karpathy_test.json": [{"image": "val2014/COCO_val2014_000000000042.jpg", "caption": ["x"]}],
            "coco_karpathy_test_gt.json": {"images": [{"id": 42}], "annotations": FORMAT["annotations"]},
        },
    ],
)
def test_every_shape_of_coco_reads_alike(files: dict[str, Any], tmp_path: Path) -> None:
    for name, content in files.items():
        written(tmp_path / name, content)
    image = tmp_path / "val2014/COCO_val2014_000000000042.jpg"
    assert read_coco(tmp_path, "test") == [Captioned("42", image, tuple(BUSES))]


def test_flickr30k_in_both_shapes(tmp_path: Path) -> None:
    expected = [Captioned("12", tmp_path / "flickr30k-images/12.jpg", ("A man, smiling, waves .", "a man"))]
    lines = "image,caption\n12.jpg,A man, smiling, waves .\n12.jpg,a man\n\n"
    written(tmp_path / "flickr30k_test_karpathy.txt", lines)
    assert read_flickr30k(tmp_path, "test") == expected
    sentences = [{"raw": text} for text in expected[0].captions]
    rows = {"images": [{"filename": "12.jpg", "split": "test", "sentences": sentences}]}
    written(tmp_path / "dataset_flickr30k.json", rows)
    assert read_flickr30k(tmp_path, "test") == expected


def test_nocaps_and_textcaps(tmp_path: Path) -> None:
    rows = {
        "images": [{"id": 0, "file_name": "0013ea.jpg"}],
        "annotations": [{"image_id": 0, "caption": "a bus"}],
    }
    written(tmp_path / "nocaps_val_4500_captions.json", rows)
    assert read_nocaps(tmp_path, "val") == [Captioned("0", tmp_path / "val/0013ea.jpg", ("a bus",))]
    texts = [{"image_id": "ab", "image_name": "ab", "caption_str": text} for text in BUSES]
    written(tmp_path / "TextCaps_0.1_val.json", {"data": texts})
    assert read_textcaps(tmp_path, "val") == [Captioned("ab", tmp_path / "train_images/ab.jpg", tuple(BUSES))]


def without(name: str) -> dict[str, Any]:
    return {"images": [{key: value for key, value in KARPATHY["images"][0].items() if key != name}]}


@pytest.mark.parametrize(
    ("reader", "name", "content", "told"),
    [
        (read_coco, "other.json", {}, "no dataset_coco.json or coco_karpathy_test.json or coco_test_karpathy.json"),
        (read_coco, "dataset_coco.json", "{", "dataset_coco.json is not whole JSON"),
        (read_coco, "dataset_coco.json", [], "dataset_coco.json is"),
        (read_coco, "dataset_coco.json", {"images": 3}, "field 'images' is 3"),
        (read_coco, "dataset_coco.json", {"images": [3]}, r"images\[0\] is 3"),
        (read_coco, "dataset_coco.json", without("filename"), r"images\[0\] has no field 'filename'"),
        (read_coco, "dataset_coco.json", without("split"), r"images\[0\] has no field 'split'"),
        (read_coco, "dataset_coco.json", without("sentences"), r"images\[0\] has no field 'sentences'"),
        (read_coco, "dataset_coco.json", {"images": []}, r"field 'images' is \[\], not a list of objects"),
        (
            read_coco,
            "dataset_coco.json",
            {"images": [{**KARPATHY["images"][0], "split": "val"}]},
            "no picture of the split 'test'",
        ),
        (read_coco, "dataset_coco.json", {"images": KARPATHY["images"][:1] * 2}, "has the picture 42 twice"),
        (read_coco, "coco_test_karpathy.json", {"images": []}, "no field 'annotations'"),
        (
            read_coco,
            "coco_test_karpathy.json",
            {**FORMAT, "annotations": [{"image_id": 9, "caption": "x"}]},
            "COCO_val2014_0+42.jpg has no caption",
        ),
        (read_coco, "coco_karpathy_test.json", [], "coco_karpathy_test_gt.json is not there"),
        (read_flickr30k, "flickr30k_test_karpathy.txt", "head\n", "flickr30k_test_karpathy.txt has no picture"),
        (read_flickr30k, "flickr30k_test_karpathy.txt", "head\nno picture\n", "line 2 is no picture and caption"),
        (read_nocaps, "nocaps_val_4500_captions.json", {**FORMAT, "images": [{"id": "4"}]}, "field 'id' is \"4\""),
        (read_textcaps, "TextCaps_0.1_val.json", {"data": [{"image_id": "a"}]}, "has no field 'image_name'"),
    ],
)
def test_files_that_are_not_what_they_should_be(
    reader: Callable[[Path, str], list[Captioned]], name: str, content: Any, told: str, tmp_path: Path
) -> None:
    written(tmp_path / name, content)
    with pytest.raises(InputError, match=told) as caught:
        reader(tmp_path, "val" if reader in (read_nocaps, read_textcaps) else "test")
    assert str(tmp_path) in str(caught.value)


# Captions.


@pytest.mark.parametrize("name", [name for name in CATALOGUE if "captions" in name or name == "textcaps"])
def test_perfect_captions_reach_the_most(name: str, world: Path) -> None:
    benchmark = open_benchmark(name, world / folder_name(name))
    assert isinstance(benchmark, CaptionBenchmark)
    samples = benchmark.samples()
    assert len(samples) == 2 * len(SCENES)
    assert {sample.text for sample in samples} == {PROMPT}
    assert all(isinstance(sample.image, Path) and sample.image.exists() for sample in samples)
    said = {one.key: one.captions[0] for one in benchmark.captioned}
    found = benchmark.score(said)
    assert found["BLEU-4"] == pytest.approx(100.0)
    assert found["ROUGE-L"] == pytest.approx(100.0)
    keys = list(said)
    wrong = benchmark.score(dict(zip(keys, [said[key] for key in keys[1:] + keys[:1]], strict=True)))
    assert all(wrong[figure] < found[figure] for figure in found)


def test_cider_of_the_only_references_is_a_thousand(world: Path) -> None:
    benchmark = CocoCaptions(world / "coco")
    scenes = benchmark.captioned[::2]  # no near duplicates, whose captions may be the same
    benchmark.captioned = [replace(one, captions=one.captions[:1]) for one in scenes]
    assert benchmark.score({one.key: one.captions[0] for one in scenes})["CIDEr"] == pytest.approx(1000.0)


def test_missing_caption_is_told(world: Path) -> None:
    with pytest.raises(InputError, match=r"15 samples have no prediction .the first is '2'"):
        CocoCaptions(world / "coco").score({"1": "a bus"})


def test_prompt_is_configurable_and_the_tokeniser_told(world: Path) -> None:
    benchmark = CocoCaptions(world / "coco")
    benchmark.prompt = "Describe the image briefly."
    assert {sample.text for sample in benchmark.samples()} == {"Describe the image briefly."}
    told = benchmark.settings()
    assert told == {"tokeniser": "fwd2bot.evaluation.ptb", "METEOR": "not computed: Java is not installed"}


# Retrieval.


@pytest.mark.parametrize("name", [name for name in CATALOGUE if "retrieval" in name])
def test_perfect_vectors_find_everything(name: str, world: Path) -> None:
    benchmark = open_benchmark(name, world / folder_name(name))
    count = 2 * len(SCENES)
    assert (len(benchmark.images()), len(benchmark.texts())) == (count, 5 * count)
    images = np.eye(count, dtype=np.float32)
    assert set(benchmark.score(images, images.repeat(5, axis=0)).values()) == {100.0}
    assert benchmark.texts()[5:10] == captions(near_duplicate(SCENES[0]))


def test_captions_are_mapped_to_images_where_they_are_not_five_each(tmp_path: Path) -> None:
    rows = [
        {"filepath": "", "filename": f"{number}.jpg", "split": "test", "sentences": [{"raw": "x"}] * count}
        for number, count in enumerate((1, 3))
    ]
    benchmark = CocoRetrieval(written(tmp_path / "dataset_coco.json", {"images": rows}))
    images = np.eye(2, dtype=np.float32)
    assert set(benchmark.score(images, images[[0, 1, 1, 1]]).values()) == {100.0}


# What a server scores, and how lines of predictions may name a picture.


def test_captions_of_test_go_to_the_server_in_cocos_format(tmp_path: Path) -> None:
    """nocaps writes its ids as numbers, TextCaps as texts; neither file has captions."""
    written(tmp_path / "nocaps_test_image_info.json", {"images": [{"id": 42, "file_name": "0a.jpg"}]})
    written(tmp_path / "TextCaps_0.1_test.json", {"data": [{"image_id": "0042", "image_name": "0042"}]})
    for name, image, official in (("nocaps_captions", "test/0a.jpg", 42), ("textcaps", "test_images/0042.jpg", "0042")):
        benchmark = open_benchmark(name, tmp_path, "test")
        assert isinstance(benchmark, CaptionBenchmark)
        (sample,) = benchmark.samples()
        assert sample.image == tmp_path / image
        file, content = benchmark.submission({sample.key: "a bus"}) or ("", b"")
        assert (file, json.loads(content)) == (f"{name}_test.json", [{"image_id": official, "caption": "a bus"}])
        with pytest.raises(InputError, match=f"Only {name}'s server has the answers of test"):
            benchmark.score({sample.key: "a bus"})
        with pytest.raises(InputError, match="1 samples have no prediction"):
            benchmark.submission({})


BUS = "COCO_val2014_000000000042.jpg"


@pytest.mark.parametrize("row", [{"question_id": 42}, {"image_id": 42}, {"image": BUS}, {"image": f"val2014/{BUS}"}])
def test_a_caption_is_named_by_id_or_file(row: dict[str, Any], tmp_path: Path) -> None:
    written(tmp_path / "dataset_coco.json", KARPATHY)
    benchmark = CocoCaptions(tmp_path)
    assert benchmark.submission({"42": "a bus"}) is None
    written(tmp_path / "said.jsonl", json.dumps({**row, "text": "a red bus"}))
    assert read_predictions(benchmark, tmp_path / "said.jsonl") == {"42": "a red bus"}
    written(tmp_path / "said.jsonl", json.dumps({**row, **dict.fromkeys(row, "7.jpg"), "text": "a red bus"}))
    with pytest.raises(InputError, match=r"is about '7\.jpg', which is no sample of coco_captions"):
        read_predictions(benchmark, tmp_path / "said.jsonl")


# SugarCrepe.


def sugarcrepe(folder: Path, **files: Any) -> SugarCrepe:
    row = {"filename": "a.jpg", "caption": "A dog on a mat.", "negative_caption": "A mat on a dog."}
    for kind in KINDS:
        written(folder / f"{kind}.json", files.get(kind, {"0": row}))
    return SugarCrepe(folder)


def test_sugarcrepe_by_hand(tmp_path: Path) -> None:
    """swap_obj has three pairs, number 1 is missing: one right, one wrong, one equal, which is wrong."""
    rows = {
        key: {"filename": name, "caption": "c", "negative_caption": "n"}
        for key, name in {"0": "a", "2": "b", "3": "a"}.items()
    }
    benchmark = sugarcrepe(tmp_path, swap_obj=rows)
    assert benchmark.images() == [tmp_path / "val2017/a.jpg", tmp_path / "val2017/a", tmp_path / "val2017/b"]
    images = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    texts = np.array([[1, 0], [0, 1]] * 9, dtype=np.float32)
    at = 2 * [pair.kind for pair in benchmark.pairs].index("swap_obj")
    texts[at + 4 : at + 6] = [0.6, 0.8]
    found = benchmark.score(images, texts)
    assert list(found) == list(KINDS)
    assert found["swap_obj"] == pytest.approx(100 / 3)
    assert {found[kind] for kind in KINDS if kind != "swap_obj"} == {100.0}


def test_sugarcrepe_of_a_picture_without_a_vector_is_wrong(tmp_path: Path) -> None:
    benchmark = sugarcrepe(tmp_path)
    assert set(benchmark.score(np.full((1, 2), np.nan, np.float32), np.ones((14, 2), np.float32)).values()) == {0.0}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "add_att.json is empty"),
        ([], "add_att.json is"),
        ({"4": {"filename": "a.jpg", "caption": "a"}}, "add_att.json, 4 has no field 'negative_caption'"),
        ({"4": {"filename": 3}}, "add_att.json, 4: field 'filename' is 3"),
    ],
)
def test_sugarcrepe_of_another_layout_is_told(content: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        sugarcrepe(tmp_path, add_att=content)


def test_pairs_of_the_world_are_true_and_false(world: Path) -> None:
    """A caption names exactly what stands in the picture; its negative is another text about the same picture."""
    benchmark = SugarCrepe(world / "sugarcrepe")
    assert {pair.kind for pair in benchmark.pairs} == set(KINDS) == set(NEGATIVES)
    for pair in benchmark.pairs:
        scene = [one for scene in SCENES for one in (scene, near_duplicate(scene))][int(pair.filename[:12]) - 1]
        assert pair.caption.count(" at the ") == len(scene.things)
        assert all(thing.name in pair.caption and PLACES[thing.place] in pair.caption for thing in scene.things)
        assert pair.negative != pair.caption


@pytest.mark.parametrize("kind", ["swap_obj", "swap_att"])
def test_swapped_captions_have_the_same_words(kind: str) -> None:
    pairs = [pair for scene in SCENES if (pair := negative_pair(scene, kind))]
    assert pairs
    for caption, negative in pairs:
        assert sorted(negative.replace(",", "").split()) == sorted(caption.replace(",", "").split())


def test_pictures_of_the_world_are_those_of_the_records(world: Path) -> None:
    with Image.open(world / "nocaps/val/000000000003.jpg") as picture:
        np.testing.assert_array_equal(np.asarray(picture), render(SCENES[1], size=192))


def test_unknown_benchmark_and_split_are_told(world: Path) -> None:
    with pytest.raises(InputError, match="There is no benchmark 'coco'; the benchmarks are gqa, "):
        open_benchmark("coco", world)
    with pytest.raises(InputError, match="nocaps_captions has no split 'dev'; its splits are val, test"):
        open_benchmark("nocaps_captions", world / "nocaps", "dev")
