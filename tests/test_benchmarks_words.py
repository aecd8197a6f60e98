"""GQA, VQAv2, VizWiz and TextVQA on official files written by hand: what they ask, and figures worked by hand."""

import json
from importlib import import_module
from pathlib import Path

import pytest
from official_files import WORD, gqa_entry, people, texts, textvqa, vizwiz_row, vqav2, write

from fwd2bot.errors import InputError
from fwd2bot.evaluation.base import Benchmark, read_predictions
from fwd2bot.evaluation.catalogue import CATALOGUE, open_benchmark


def test_catalogue_names_are_the_classes_own(tmp_path: Path) -> None:
    for name, place in CATALOGUE.items():
        module, _, kind = place.partition(":")
        assert getattr(import_module(module), kind).name == name
    with pytest.raises(InputError, match="no benchmark 'gqq'; the benchmarks are gqa, vqav2"):
        open_benchmark("gqq", tmp_path)
    with pytest.raises(InputError, match="gqa has no split 'dev'; its splits are testdev_balanced,"):
        open_benchmark("gqa", tmp_path, "dev")


# GQA.


def test_gqa_compares_lower_case_without_trailing_stops(tmp_path: Path) -> None:
    entries = {
        "01": gqa_entry("no", "verify", "attr"),
        "02": gqa_entry("cup", "query", "obj"),
        "03": gqa_entry("cup", "query", "attr"),
        "04": gqa_entry("cup", "choose", "obj", balanced=False),
    }
    write(tmp_path / "testdev_balanced_questions.json", entries)
    gqa = open_benchmark("gqa", tmp_path)
    (first, *_) = gqa.samples()
    assert (first.key, first.image, first.text) == ("01", tmp_path / "images/n7.jpg", "Is it Red?" + WORD)
    said = {"01": "No..", "02": "Cup", "03": "the cup"}
    assert gqa.score(said) == pytest.approx({
        "accuracy": 200 / 3, "binary": 100, "open": 50, "semantic/attr": 50, "semantic/obj": 100,
        "structural/query": 50, "structural/verify": 100,
    })  # fmt: skip
    with pytest.raises(InputError, match="1 samples have no prediction"):
        gqa.submission(said)
    name, content = gqa.submission({**said, "04": "cup"}) or ("", b"")
    assert name == "testdev_balanced_predictions.json"
    assert json.loads(content)[0] == {"questionId": "01", "prediction": "no"}
    with pytest.raises(InputError, match="1 samples have no prediction"):
        gqa.score({"01": "no", "02": "cup", "04": "cup"})


def test_gqa_test_is_for_the_server(tmp_path: Path) -> None:
    entries = {"1": {"question": "what?", "imageId": "n1", "isBalanced": True}}
    write(tmp_path / "questions1.2/submission_all_questions.json", entries)
    gqa = open_benchmark("gqa", tmp_path, "submission_all")
    assert texts(gqa) == {"1": "what?" + WORD}
    with pytest.raises(InputError, match="Only gqa's server has the answers of submission_all"):
        gqa.score({"1": "x"})


# VQAv2.


def test_vqav2_asks_as_llava_does(tmp_path: Path) -> None:
    (sample,) = vqav2(tmp_path, {91: people(*["no"] * 10)}).samples()
    assert sample.image == tmp_path / "val2014/COCO_val2014_000000000009.jpg"
    assert (sample.key, sample.text) == ("91", "What is It?" + WORD)


@pytest.mark.parametrize(
    ("answers", "said", "score"),
    [
        (["red"] * 10, "red", 100),
        (["red"] * 10, "Red", 0),  # all alike: nothing is normalised, not even case
        (["red"] * 10, "red\n", 100),  # but lines are joined and ends cut
        (["red"] * 9 + ["blue"], "The Red.", 100),
        (["2"] * 2 + ["two"] + ["three"] * 7, "Two", 90),  # 3 of 10 say it
        (["red"] + ["blue"] * 9, "red", 30),
        (["it's"] * 5 + ["no"] * 5, "it 's", 0),  # what EvalAI's processor would have made of it
    ],
)
def test_vqav2_score(tmp_path: Path, answers: list[str], said: str, score: float) -> None:
    assert vqav2(tmp_path, {1: people(*answers)}).score({"1": said})["overall"] == pytest.approx(score)


def test_vqav2_others_are_the_entries_that_differ(tmp_path: Path) -> None:
    """Without ids, two who say the same are one: none of them is the other's other."""
    alike = [{"answer": "red"}] * 5 + [{"answer": "blue"}] * 5
    assert vqav2(tmp_path, {1: alike}).score({"1": "red"})["overall"] == pytest.approx(50)


def test_vqav2_rounds_and_tells_types(tmp_path: Path) -> None:
    ten = people("a1", *["b1"] * 9)
    benchmark = vqav2(tmp_path, {1: ten, 2: ten, 3: ten}, types=("yes/no", "number", "number"))
    assert benchmark.score({"1": "b1", "2": "a1", "3": "c1"}) == {
        "overall": 43.33, "answer_type/yes/no": 100.0, "answer_type/number": 15.0, "question_type/what is": 43.33,
    }  # fmt: skip
    assert benchmark.submission({}) is None
    with pytest.raises(InputError, match="2 samples have no prediction"):
        benchmark.score({"1": "x"})


def test_vqav2_submission_has_every_test_question(tmp_path: Path) -> None:
    for subset, ids in (("test-dev2015", [2]), ("test2015", [1, 2])):
        asked = [{"question_id": key, "image_id": 9, "question": "what?"} for key in ids]
        write(tmp_path / f"v2_OpenEnded_mscoco_{subset}_questions.json", {"questions": asked})
    benchmark = open_benchmark("vqav2", tmp_path, "test-dev")
    (sample,) = benchmark.samples()
    assert sample.image == tmp_path / "test2015/COCO_test2015_000000000009.jpg"
    name, content = benchmark.submission({"2": "It's Two."}) or ("", b"")
    assert name == "vqav2_test-dev.json"
    assert json.loads(content) == [{"question_id": 1, "answer": ""}, {"question_id": 2, "answer": "it 's 2"}]


@pytest.mark.parametrize(("split", "lacks"), [("val", "v2_mscoco_val2014_annotations"), ("test-dev", "test2015_quest")])
def test_vqav2_tells_what_its_end_will_need_before_it_begins(tmp_path: Path, split: str, lacks: str) -> None:
    for subset in ("val2014", "test-dev2015"):
        asked = [{"question_id": 1, "image_id": 9, "question": "what?"}]
        write(tmp_path / f"v2_OpenEnded_mscoco_{subset}_questions.json", {"questions": asked})
    with pytest.raises(InputError, match=f"{lacks}.* is not there"):
        open_benchmark("vqav2", tmp_path, split)


# VizWiz.


def test_vizwiz_normalises_the_prediction_alone(tmp_path: Path) -> None:
    rows = [vizwiz_row("a.jpg", ["Mug"] * 9 + ["mug"], "other"), vizwiz_row("b.jpg", ["2"] * 10, "number")]
    write(tmp_path / "Annotations/val.json", rows)
    benchmark = open_benchmark("vizwiz", tmp_path)
    (first, _) = benchmark.samples()
    assert (first.key, first.image) == ("a.jpg", tmp_path / "val/a.jpg")
    unsure = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    assert first.text == "What is this? tell" + unsure + WORD
    figures = benchmark.score({"a.jpg": "Mug", "b.jpg": "Two."})
    assert figures == pytest.approx({"overall": 65, "answer_type/other": 30, "answer_type/number": 100})


@pytest.mark.parametrize(
    ("said", "people", "score"),
    [
        ("dont know", "don't know", 0),  # becomes don’t know
        ("dont know", "don’t know", 100),
        ("cant", "can't", 100),  # one of eight that stayed as they were
        ("don't know", "don't know", 100),
        ("hadn'tve", "hadn’t’ve", 100),
    ],
)
def test_vizwiz_has_a_table_of_contractions_of_its_own(tmp_path: Path, said: str, people: str, score: float) -> None:
    write(tmp_path / "Annotations/val.json", [vizwiz_row("a.jpg", [people] * 10, "other")])
    assert open_benchmark("vizwiz", tmp_path).score({"a.jpg": said})["overall"] == score


def test_vizwiz_rounds_to_two_decimals(tmp_path: Path) -> None:
    rows = [vizwiz_row(f"{place}.jpg", ["mug"] * 10, "other") for place in range(3)]
    write(tmp_path / "Annotations/val.json", rows)
    said = {"0.jpg": "mug", "1.jpg": "cup", "2.jpg": "cup"}
    assert open_benchmark("vizwiz", tmp_path).score(said)["overall"] == 33.33


def test_vizwiz_submission_is_normalised_as_evalai_does(tmp_path: Path) -> None:
    write(tmp_path / "test.json", [{"image": "VizWiz_test_00000000.jpg", "question": "what?"}])
    benchmark = open_benchmark("vizwiz", tmp_path, "test")
    _, content = benchmark.submission({"VizWiz_test_00000000.jpg": "A Cat's"}) or ("", b"")
    assert json.loads(content) == [{"image": "VizWiz_test_00000000.jpg", "answer": "cat 's"}]


def test_vizwiz_takes_the_place_in_the_file_for_a_name(tmp_path: Path) -> None:
    """LLaVA's own lines have no other."""
    names = [f"VizWiz_test_{number:08d}.jpg" for number in range(2)]
    write(tmp_path / "test.json", [{"image": name, "question": "what?"} for name in names])
    benchmark = open_benchmark("vizwiz", tmp_path, "test")
    write(tmp_path / "said.jsonl", '{"question_id": 1, "text": "b"}\n{"question_id": 0, "text": "a"}\n')
    assert read_predictions(benchmark, tmp_path / "said.jsonl") == {names[1]: "b", names[0]: "a"}
    write(tmp_path / "said.jsonl", '{"question_id": 2, "text": "b"}')
    with pytest.raises(InputError, match="is about '2', which is no sample of vizwiz"):
        read_predictions(benchmark, tmp_path / "said.jsonl")
    write(tmp_path / "said.jsonl", '{"question": "what?", "text": "b"}')
    with pytest.raises(InputError, match="has no 'image'"):
        read_predictions(benchmark, tmp_path / "said.jsonl")


# TextVQA.


def test_textvqa_asks_with_what_was_read(tmp_path: Path) -> None:
    assert list(texts(textvqa(tmp_path)).values()) == [
        "What brand?\nReference OCR token: ACME, Co" + WORD,
        "Which one?\nReference OCR token: ACME, Co" + WORD,
        "Which one?\nReference OCR token: " + WORD,
    ]
    assert textvqa(tmp_path).samples()[0].image == tmp_path / "train_images/ab12.jpg"
    assert next(iter(texts(textvqa(tmp_path, "textvqa_without_ocr")).values())) == "What brand?" + WORD


def test_textvqa_takes_llavas_own_list_where_it_is_there(tmp_path: Path) -> None:
    lines = [
        {"question_id": image, "text": f"Q?\nReference OCR token: {read}" + WORD}
        for image, read in (("ab12", "MINE, too"), ("cd34", ""))
    ]
    write(tmp_path / "llava_textvqa_val_v051_ocr.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    (first, _, last) = texts(textvqa(tmp_path)).values()
    assert first == "What brand?\nReference OCR token: MINE, too" + WORD
    assert last == "Which one?\nReference OCR token: " + WORD


def test_textvqa_joins_by_picture_and_question_and_leaves_out_what_is_missing(tmp_path: Path) -> None:
    benchmark = textvqa(tmp_path)
    rows = [
        {"question_id": "ab12", "prompt": "What brand?\nReference OCR token: Z" + WORD, "text": "ACME's"},
        {"question_id": "ab12", "prompt": "Which ONE?" + WORD, "text": "One."},
    ]
    write(tmp_path / "said.jsonl", "\n".join(map(json.dumps, rows)))
    said = read_predictions(benchmark, tmp_path / "said.jsonl")
    assert benchmark.score(said) == pytest.approx({"accuracy": (60 + 100) / 2})


@pytest.mark.parametrize(
    ("number", "prompt"),
    [
        ("ab12", "Reference OCR token: ACME, Co\nWhich one?\nAnswer the question using a single word or phrase."),
        ("ab12", "OCR tokens: ACME, Co. Question: Which one? Short answer:"),
        (6, "What is it that you see?"),  # the official number, whatever was asked
        ("6", "Which one?" + WORD),
    ],
)
def test_textvqa_reads_every_prompt_that_llavas_script_reads(tmp_path: Path, number: object, prompt: str) -> None:
    row = {"question_id": number, "prompt": prompt, "text": "1"}
    write(tmp_path / "said.jsonl", json.dumps(row))
    assert read_predictions(textvqa(tmp_path), tmp_path / "said.jsonl") == {"ab12\nwhich one?": "1"}


def test_textvqa_asks_once_what_stands_twice_and_scores_both(tmp_path: Path) -> None:
    benchmark = asked_anew(tmp_path, "What brand?", "1")
    samples = benchmark.samples()
    assert [sample.key for sample in samples] == ["ab12\nwhat brand?", "cd34\nwhich one?"]
    write(tmp_path / "said.jsonl", "\n".join(json.dumps(benchmark.prediction_row(one, "acme")) for one in samples))
    said = read_predictions(benchmark, tmp_path / "said.jsonl")
    assert benchmark.score(said) == pytest.approx({"accuracy": (100 + 0 + 0) / 3})


def test_textvqa_question_may_have_lines(tmp_path: Path) -> None:
    """Also where two of one picture begin alike, in whatever way they were asked."""
    for name in ("textvqa", "textvqa_without_ocr"):
        benchmark = asked_anew(tmp_path, "What brand?\nIs it new?\n", "1", name)
        samples = benchmark.samples()
        lines = [json.dumps(benchmark.prediction_row(sample, sample.key)) for sample in samples]
        lines[2] = json.dumps({"question_id": "cd34", "prompt": "WHICH one?\nSay it.", "text": samples[2].key})
        write(tmp_path / "said.jsonl", "\n".join(lines))
        assert read_predictions(benchmark, tmp_path / "said.jsonl") == {one.key: one.key for one in samples}
        assert len(samples) == 3


def asked_anew(folder: Path, question: str, answer: str, name: str = "textvqa") -> Benchmark:
    """TextVQA with another second question about its first picture."""
    textvqa(folder)
    path = folder / "TextVQA_0.5.1_val.json"
    content = json.loads(path.read_text())
    content["data"][1] |= {"question": question, "answers": [answer] * 10}
    write(path, content)
    return open_benchmark(name, folder)


def test_textvqa_takes_the_official_number_where_there_is_no_prompt(tmp_path: Path) -> None:
    benchmark = textvqa(tmp_path)
    write(tmp_path / "said.jsonl", '{"question_id": 6, "text": "One."}\n{"question_id": "7", "text": "y"}')
    assert benchmark.score(read_predictions(benchmark, tmp_path / "said.jsonl")) == {"accuracy": (100 + 0) / 2}
    write(tmp_path / "said.jsonl", '{"question_id": "ab12", "text": "One."}')
    with pytest.raises(InputError, match="is about 'ab12', which is no sample of textvqa"):
        read_predictions(benchmark, tmp_path / "said.jsonl")


def test_textvqa_submission_has_the_official_ids(tmp_path: Path) -> None:
    textvqa(tmp_path)
    for name in ("TextVQA_0.5.1", "TextVQA_Rosetta_OCR_v0.2"):
        (tmp_path / f"{name}_val.json").rename(tmp_path / f"{name}_test.json")
    benchmark = open_benchmark("textvqa", tmp_path, "test")
    _, content = benchmark.submission(dict.fromkeys(texts(benchmark), "A b")) or ("", b"")
    assert json.loads(content) == [{"question_id": key, "answer": "A b"} for key in (5, 6, 7)]
