"""Official files and predictions that are not as they should be: one sentence that names the file and the field."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from official_files import (
    HEAD,
    QUESTIONS,
    gqa_entry,
    mmbench,
    mme,
    people,
    pope,
    scienceqa,
    textvqa,
    vizwiz_row,
    vqav2,
    write,
)

from fwd2bot.errors import InputError
from fwd2bot.evaluation.base import read_predictions
from fwd2bot.evaluation.catalogue import open_benchmark


def fill(folder: Path) -> None:
    """Whole files of every benchmark, a folder each."""
    write(folder / "gqa/testdev_balanced_questions.json", {"1": gqa_entry("no", "verify", "attr")})
    vqav2(folder / "vqav2", {1: people(*["no"] * 10)})
    write(folder / "vizwiz/val.json", [vizwiz_row("a.jpg", ["mug"] * 10, "other")])
    textvqa(folder / "textvqa")
    scienceqa(folder / "scienceqa")
    pope(folder / "pope")
    mme(folder / "mme")
    mmbench(folder / "mmbench", "3\tWhat?\t\tcat\tdog\t\t\tB")


def use(name: str, folder: Path) -> None:
    """All that is done with a benchmark."""
    benchmark = open_benchmark(name, folder / name)
    benchmark.score(dict.fromkeys((sample.key for sample in benchmark.samples()), "yes"))


Change = Callable[[Any], Any]


def without(*path: str | int) -> Change:
    def change(content: Any) -> Any:
        place = content
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]
        return content

    return change


def with_(value: Any, *path: str | int) -> Change:
    def change(content: Any) -> Any:
        place = content
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        return content

    return change


def test_whole_files_are_accepted(tmp_path: Path) -> None:
    fill(tmp_path)
    for name in set(QUESTIONS) - {"textvqa_without_ocr"}:
        use(name, tmp_path)


@pytest.mark.parametrize("name", QUESTIONS)
def test_empty_folder_is_told_with_the_file_that_it_lacks(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        InputError, match=r"(is not there|holds no questions): docs/benchmarks.md says what to download"
    ):
        open_benchmark(name, tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("gqa/testdev_balanced_questions.json", without("1", "answer"), "json, 1 has no field 'answer'"),
        ("gqa/testdev_balanced_questions.json", with_(1, "1", "isBalanced"), "'isBalanced' is 1, not true or false"),
        ("gqa/testdev_balanced_questions.json", with_("x", "1", "types"), "'types' is \"x\", not an object"),
        ("gqa/testdev_balanced_questions.json", lambda _: [], r"questions.json is \[\], not an object"),
        ("vqav2/v2_OpenEnded_mscoco_val2014_questions.json", without("questions"), "has no field 'questions'"),
        ("vqav2/v2_OpenEnded_mscoco_val2014_questions.json", with_({}, "questions"), "'questions' is {}, not a list"),
        (
            "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
            with_("9", "questions", 0, "image_id"),
            r"questions\[0\]: field 'image_id' is \"9\", not a whole number",
        ),
        (
            "vqav2/v2_mscoco_val2014_annotations.json",
            with_(None, "annotations", 0, "answers", 3, "answer"),
            r"annotations\[0\], answers\[3\]: field 'answer' is null, not a text",
        ),
        (
            "vqav2/v2_mscoco_val2014_annotations.json",
            with_([], "annotations", 0, "answers"),
            r"annotations\[0\]: field 'answers' is \[\], not a list of objects",
        ),
        ("vizwiz/val.json", lambda _: {}, "holds {}, not a list"),
        ("vizwiz/val.json", lambda _: [], r"holds \[\], not a list of objects"),
        ("vizwiz/val.json", with_([], 0, "answers"), r"field 'answers' is \[\], not a list of objects"),
        ("vizwiz/val.json", lambda rows: rows * 2, "entry 1 is about 'a.jpg', as .*entry 0 is"),
        ("gqa/testdev_balanced_questions.json", lambda _: {}, "questions.json is empty"),
        (
            "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
            lambda content: {"questions": content["questions"] * 2},
            r"questions\[1\] is about '1', as .*questions\[0\] is",
        ),
        (
            "textvqa/TextVQA_0.5.1_val.json",
            lambda content: {"data": content["data"] * 2},
            r"data\[3\] is about '5', as .*data\[0\] is",
        ),
        ("scienceqa/pid_splits.json", with_(["5"], "test"), "has no problem with a picture in the split test"),
        ("vizwiz/val.json", without(0, "question"), "val.json, entry 0 has no field 'question'"),
        ("textvqa/TextVQA_0.5.1_val.json", with_(["x"] * 9, "data", 0, "answers"), "'answers' has 9 answers, not 10"),
        ("textvqa/TextVQA_0.5.1_val.json", with_("x", "data", 0, "answers"), "'answers' is \"x\", not a list of texts"),
        ("textvqa/TextVQA_Rosetta_OCR_v0.2_val.json", with_([], "data"), r"'data' is \[\], not a list of objects"),
        (
            "textvqa/TextVQA_Rosetta_OCR_v0.2_val.json",
            with_([{"image_id": "z", "ocr_tokens": []}], "data"),
            "has no picture of the val split",
        ),
        ("scienceqa/problems.json", without("3"), "problems.json has no field '3'"),
        ("scienceqa/problems.json", with_(2, "3", "answer"), "field 'answer' is 2, which is no choice"),
        ("scienceqa/pid_splits.json", without("test"), "pid_splits.json has no field 'test'"),
    ],
)
def test_field_that_is_wrong_is_named(tmp_path: Path, file: str, change: Change, sentence: str) -> None:
    fill(tmp_path)
    path = tmp_path / file
    write(path, change(json.loads(path.read_text())))
    with pytest.raises(InputError, match=sentence):
        use(file.split("/")[0], tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("pope/coco_pope_random.json", '"yes"}', '"Yes"}', "random.json, line 1: field 'label' is 'Yes', not 'yes' or"),
        ("pope/coco_pope_random.json", "{", "", "random.json, line 1 is not whole JSON"),
        ("pope/coco_pope_random.json", '_id": 2', '_id": 1', "line 2 is about '1', as .* line 1 is"),
        ("mmbench/mmbench_dev_20230712.tsv", "UE5H", "ÜE5H", "field 'image' is not base64"),
        ("mmbench/mmbench_dev_20230712.tsv", "UE5H", "U*E5H", "field 'image' is not base64"),
        ("mme/count/a.txt", "\tYes", "", "a.txt is not two lines of a question, a tab, and Yes or No"),
        ("mme/count/a.txt", "Yes", "yes", "a.txt is not two lines of a question, a tab, and Yes or No"),
        ("mmbench/mmbench_dev_20230712.tsv", "question", "frage", "row 0 has no field 'question'"),
        ("mmbench/mmbench_dev_20230712.tsv", "3\tWhat", "x\tWhat", "field 'index' is 'x', not a whole number"),
        ("mmbench/mmbench_dev_20230712.tsv", "3\tWhat", "1000003\tWhat", "has copies of row 3, but not that row"),
        ("mmbench/mmbench_dev_20230712.tsv", "UE5H", "UE5", "field 'image' is not base64"),
        ("mmbench/mmbench_dev_20230712.tsv", "\t\tdev", "", "row 0 has other fields than the head"),
        ("vizwiz/val.json", "[", "", "val.json is not whole JSON"),
    ],
)
def test_text_that_is_wrong_is_named(tmp_path: Path, file: str, old: str, new: str, sentence: str) -> None:
    fill(tmp_path)
    path = tmp_path / file
    write(path, path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=sentence):
        use(file.split("/")[0], tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("pope/coco_pope_random.json", "\n", "random.json is empty"),
        ("mmbench/mmbench_dev_20230712.tsv", HEAD, "mmbench_dev_20230712.tsv has no rows"),
    ],
)
def test_file_without_a_row_is_named(tmp_path: Path, file: str, content: str, sentence: str) -> None:
    fill(tmp_path)
    write(tmp_path / file, content)
    with pytest.raises(InputError, match=sentence):
        use(file.split("/")[0], tmp_path)


def test_file_that_is_no_text_or_a_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "testdev_balanced_questions.json"
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match=r"questions\.json is not text in UTF-8"):
        open_benchmark("gqa", tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=r"questions.json cannot be read: Is a directory\."):
        open_benchmark("gqa", tmp_path)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["x"], r"Line 1 of .* is no JSON \(Expecting value"),
        (['{"question_id": "1", "text": "a"}', "[]"], "Line 2 of .* is no JSON object"),
        (['{"text": "a"}'], "Line 1 of .* has no 'question_id'"),
        (['{"question_id": "1"}'], "Line 1 of .* has no 'text'"),
        (['{"question_id": "1", "text": 3}'], "text is 3; it must be a text"),
        (['{"question_id": "2", "text": "a"}'], "is about '2', which is no sample of gqa"),
        (['{"question_id": "1", "text": "a"}'] * 2, "Line 2 of .* is about '1', which came before"),
        ([""], "holds no prediction"),
    ],
)
def test_prediction_that_is_wrong_is_named(tmp_path: Path, lines: list[str], sentence: str) -> None:
    fill(tmp_path)
    write(tmp_path / "said.jsonl", "\n".join(lines))
    with pytest.raises(InputError, match=sentence):
        read_predictions(open_benchmark("gqa", tmp_path / "gqa"), tmp_path / "said.jsonl")


def test_predictions_may_hold_any_character_of_unicode(tmp_path: Path) -> None:
    fill(tmp_path)
    write(tmp_path / "said.jsonl", '{"question_id": "1", "text": "a\u2028b\x85c"}\n')
    assert read_predictions(open_benchmark("gqa", tmp_path / "gqa"), tmp_path / "said.jsonl") == {"1": "a\u2028b\x85c"}


def test_predictions_may_begin_with_a_mark_of_their_encoding(tmp_path: Path) -> None:
    """As some editors write it."""
    fill(tmp_path)
    write(tmp_path / "said.jsonl", '\ufeff{"question_id": "1", "text": "no"}\r\n')
    assert read_predictions(open_benchmark("gqa", tmp_path / "gqa"), tmp_path / "said.jsonl") == {"1": "no"}


def test_predictions_that_are_not_there_are_told(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(InputError, match=r"said.jsonl cannot be read: No such file or directory"):
        read_predictions(open_benchmark("gqa", tmp_path / "gqa"), tmp_path / "said.jsonl")


@pytest.mark.parametrize("name", sorted(set(QUESTIONS) - {"textvqa_without_ocr"}))
def test_line_of_predictions_leads_back_to_its_sample(tmp_path: Path, name: str) -> None:
    fill(tmp_path)
    benchmark = open_benchmark(name, tmp_path / name)
    samples = benchmark.samples()
    lines = [json.dumps(benchmark.prediction_row(sample, sample.key)) for sample in samples]
    write(tmp_path / "said.jsonl", "\n".join(lines))
    assert read_predictions(benchmark, tmp_path / "said.jsonl") == {sample.key: sample.key for sample in samples}
    assert len(samples) >= 1
