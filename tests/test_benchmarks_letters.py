"""ScienceQA, POPE, MME and MMBench on official files written by hand: what they ask, and figures worked by hand."""

import json
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree
from zipfile import ZipFile

import pytest
from official_files import HEAD, LETTER, ROWS, WORD, mmbench, mme, pope, scienceqa, texts, write

from fwd2bot.errors import InputError
from fwd2bot.evaluation.base import read_predictions
from fwd2bot.evaluation.catalogue import open_benchmark

# ScienceQA.


def test_scienceqa_asks_with_hint_and_options(tmp_path: Path) -> None:
    benchmark = scienceqa(tmp_path)
    asked = texts(benchmark)
    assert list(asked) == list("1234")
    assert asked["1"] == "Which is\nsoft?\nA. rock\nB. wool" + LETTER
    assert asked["2"] == "Context: Look.\nWhich is\nsoft?\nA. rock\nB. wool" + LETTER
    assert benchmark.samples()[0].image == tmp_path / "images/test/1/image.png"


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("B", True), ("B. wool", True), ("The answer is B.", True), ("So. The answer is B, not A", True),
        ("b", False), ("B.", False), ("B.wool", False), ("The answer is B", False), ("A", False), ("E", False),
        ("The answer is B. No. The answer is B.", False), ("", False), ("AB", False), ("The answer is Z.", False),
    ],
)  # fmt: skip
def test_scienceqa_reads_a_letter(tmp_path: Path, said: str, right: bool) -> None:
    assert scienceqa(tmp_path).score({"1": said})["image"] == 100 * right


def test_scienceqa_counts_what_is_missing_in_all_alone(tmp_path: Path) -> None:
    benchmark = scienceqa(tmp_path)
    assert benchmark.score({"1": "B", "2": "A"}) == {"image": 50, "subject/natural science": 50}
    assert benchmark.score({"1": "B", "2": "A", "5": "B"})["all"] == 40


# POPE.


@pytest.mark.parametrize(
    ("said", "yes"),
    [
        ("No", False), ("no, it is", False), ("It is not there", False), ("Yes. no", True), ("NO", True),
        ("no!", True), ("", True), ("nothing", True), ("none", True), ("Yes, no", False), ("no.", False),
    ],
)  # fmt: skip
def test_pope_takes_all_but_three_words_for_yes(tmp_path: Path, said: str, yes: bool) -> None:
    benchmark = pope(tmp_path)
    figures = benchmark.score(dict.fromkeys(texts(benchmark), said))
    assert figures["random/yes_ratio"] == 100 * yes


def test_pope_takes_the_plain_mean_of_three_f1(tmp_path: Path) -> None:
    benchmark = pope(tmp_path)
    keys = list(texts(benchmark))
    assert keys == [str(base + n) for base in (0, 10_000_000, 20_000_000) for n in (1, 2, 3, 4)]
    right = ["yes", "no", "yes", "no"]
    said = dict(zip(keys, [*right, *["yes"] * 4, "yes", "no", "no", "yes"], strict=True))
    figures = benchmark.score(said)
    assert figures["f1"] == pytest.approx((100 + 200 / 3 + 50) / 3)
    assert {name.removeprefix("random/"): value for name, value in figures.items() if "random/" in name} == {
        "f1": pytest.approx(200 / 3), "accuracy": 50, "precision": 50, "recall": 100, "yes_ratio": 100,
    }  # fmt: skip
    assert figures["popular/precision"] == figures["popular/recall"] == figures["popular/accuracy"] == 50
    assert benchmark.score(dict.fromkeys(keys, "no"))["f1"] == 0
    with pytest.raises(InputError, match="1 samples have no prediction"):
        benchmark.score(dict.fromkeys(keys[1:], "no"))


def test_pope_refuses_predictions_for_another_version_of_its_files(tmp_path: Path) -> None:
    benchmark = pope(tmp_path)
    assert benchmark.prediction_key({"question_id": 2, "prompt": "Is there a fork?" + WORD}) == "2"
    with pytest.raises(InputError, match=r"prediction for 10000002 answers 'Is there a car\?', but the question in"):
        benchmark.prediction_key({"question_id": 10000002, "prompt": "Is there a car?" + WORD})


# MME.


def test_mme_asks_without_its_own_sentence(tmp_path: Path) -> None:
    samples = mme(tmp_path).samples()
    assert len({sample.key for sample in samples}) == 14 * 2 * 2
    assert {sample.text for sample in samples} == {f"Is it {name}?" + WORD for name in "abc"}
    assert samples[0].image == tmp_path / "existence/a.png"
    assert tmp_path / "scene/images/b.png" in [sample.image for sample in samples]


def test_mme_adds_both_right_to_right(tmp_path: Path) -> None:
    benchmark = mme(tmp_path)
    said = {key: "no" if key.endswith("c?") else "yes" for key in texts(benchmark)}
    assert benchmark.score(said)["perception"] == 2000
    assert benchmark.score(said)["cognition"] == 800
    wrong = {
        **said,
        "count/a\nIs it c?": "yes",
        "code_reasoning/a\nIs it a?": "no",
        "code_reasoning/b\nIs it c?": "maybe",
    }
    figures = benchmark.score(wrong)
    assert (figures["count/acc"], figures["count/acc+"], figures["count"]) == (75, 50, 125)
    assert (figures["perception"], figures["cognition"]) == (1925, 650)
    with pytest.raises(InputError, match="1 samples have no prediction"):
        benchmark.score({key: text for key, text in said.items() if key != "OCR/a\nIs it a?"})


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("YES", "yes"), ("Yes, it is", "yes"), ("ayes", "yes"), ("know", "no"), ("none", "no"), ("no yes", "no"),
        ("It is no", "other"), ("a yes", "other"), ("", "other"),
    ],
)  # fmt: skip
def test_mme_reads_four_characters(tmp_path: Path, said: str, meant: str) -> None:
    benchmark = mme(tmp_path)
    truth = {key: "no" if key.endswith("c?") else "yes" for key in texts(benchmark)}
    of_yes = benchmark.score({**truth, "existence/a\nIs it a?": said})["existence/acc"]
    of_no = benchmark.score({**truth, "existence/a\nIs it c?": said})["existence/acc"]
    assert (of_yes, of_no) == (100 if meant == "yes" else 75, 100 if meant == "no" else 75)


def test_mme_finds_the_question_in_llavas_answers(tmp_path: Path) -> None:
    benchmark = mme(tmp_path)
    row = {"question_id": "scene/images/a.jpg", "prompt": "Is it c?" + WORD}
    assert benchmark.prediction_key(row) == "scene/a\nIs it c?"
    assert benchmark.prediction_key({**row, "prompt": "Is it c?  Please answer yes or no."}) == "scene/a\nIs it c?"


def test_mme_takes_answers_without_questions_in_the_files_order(tmp_path: Path) -> None:
    benchmark = mme(tmp_path / "mme")
    lines = [{"question_id": f"count/{name}.png", "text": text} for name, text in zip("aabb", "1234", strict=True)]
    file = tmp_path / "said.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_predictions(benchmark, file) == {
        "count/a\nIs it a?": "1", "count/a\nIs it c?": "2", "count/b\nIs it b?": "3", "count/b\nIs it c?": "4",
    }  # fmt: skip
    file.write_text("".join(json.dumps(line) + "\n" for line in [*lines, lines[0]]))
    with pytest.raises(InputError, match=r"Line 5 of .* is about 'count/a\\nIs it c\?', which came before"):
        read_predictions(benchmark, file)
    file.write_text(json.dumps({**lines[0], "question_id": "count/c.png"}))
    with pytest.raises(InputError, match=r"is about 'count/c\.png', which is no sample of mme"):
        read_predictions(benchmark, file)


# MMBench.


def test_mmbench_asks_each_row(tmp_path: Path) -> None:
    benchmark = mmbench(tmp_path, *ROWS)
    assert texts(benchmark) == {
        "3": "What?\nA. cat\nB. dog" + LETTER,
        "1000003": "What?\nA. dog\nB. cat" + LETTER,
        "5": "Look.\nWhy\nso?\nA. red car\nB. blue car\nC. green car" + LETTER,
        "1000005": "Why?\nA. green car\nB. red car\nC. blue car" + LETTER,
    }
    assert benchmark.samples()[0].image == b"PNG" * 40


@pytest.mark.parametrize(
    ("text", "nothing"),
    [
        ("", True), ("NA", True), ("null", True), ("NULL", True), ("n/a", True), ("-NaN", True), ("nAn", True),
        ("NONE", True), ("Na", False), ("Null", False), ("N/a", False), ("-NAN", False), ("<na>", False),
    ],
)  # fmt: skip
def test_mmbench_hint_and_option_are_nothing_to_the_letter(tmp_path: Path, text: str, nothing: bool) -> None:
    asked = texts(mmbench(tmp_path, f"3\tWhat?\t{text}\tK\t{text}\tFe\t\tA"))["3"]
    assert asked == ("What?\nA. K" if nothing else f"{text}\nWhat?\nA. K\nB. {text}\nC. Fe") + LETTER


def test_mmbench_picture_may_stand_in_another_row(tmp_path: Path) -> None:
    mmbench(tmp_path, *ROWS[:2])
    path = tmp_path / "mmbench_dev_20230712.tsv"
    first, second, third = path.read_text().splitlines()
    cells = third.split("\t")
    write(path, "\n".join([first, second, "\t".join([*cells[:9], "3", *cells[10:]])]))
    assert [sample.image for sample in open_benchmark("mmbench", tmp_path).samples()] == [b"PNG" * 40] * 2


def test_mmbench_wants_every_copy_right(tmp_path: Path) -> None:
    benchmark = mmbench(tmp_path, *ROWS)
    said = {"3": "B", "1000003": "A", "5": "C", "1000005": "C"}
    assert benchmark.score(said) == {
        "accuracy": 50, "first_rows": 100, "category/k": 50, "l2/see": 50,
    }  # fmt: skip
    assert benchmark.score({"3": "B", "5": "C", "1000005": "A"})["accuracy"] == 50  # missing: wrong


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("C", True), ("C. green car", True), ("(C)", True), ("It is the green car", True), ("c", False),
        ("C because of the colour that it has", False),  # the letter is too far from the end
        ("A or C", False), ("I think the answer is C since it is not B or so they say", True),
        ("The Green Car", True), ("red car or green car", False), ("", False), ("D", False),
        ("Cannot determine the answer, green car", False),
        ("the green car " + "that stands over there " * 4, False),  # longer than twice all options
        ("The correct answer is **C**. Here is why: it is as green as grass", True),
        ("The answer is\nC, since there is no other that is green", True),
        ("THE ANSWER IS C because of the colour that it has", True),
        ("the answer is crimson, as far as I can see it here", True),  # no end of a word is asked for
        ("the answer is definitely not clear to me", False),  # D, which is no option
        ("C is what I see, and that is C", False),  # of a letter the first place counts
        ("Z, and the green car", False),
    ],
)  # fmt: skip
def test_mmbench_reads_a_letter(tmp_path: Path, said: str, right: bool) -> None:
    assert mmbench(tmp_path, *ROWS).score({"5": said})["first_rows"] == 50 * right


def test_mmbench_submission_is_a_sheet_of_llavas_columns(tmp_path: Path) -> None:
    name, content = mmbench(tmp_path, *ROWS).submission({"3": "B & <C>\x00\n"}) or ("", b"")
    assert name == "mmbench_dev.xlsx"
    space = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    with ZipFile(BytesIO(content)) as archive:
        assert archive.testzip() is None
        for part in archive.namelist():
            ElementTree.fromstring(archive.read(part))
        sheet = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))
    cells = [["".join(cell.itertext()) for cell in row.iter(f"{space}c")] for row in sheet.iter(f"{space}row")]
    assert cells[0] == ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"]
    assert cells[1] == ["3", "What?", "cat", "dog", "None", "cow", "B & <C>\ufffd\n", "B", "dev"]
    assert cells[3][:3] == ["5", "Why\nso?", "red car"]
    assert [len(row) for row in cells] == [9] * 5


def test_mmbench_test_has_no_answers(tmp_path: Path) -> None:
    write(
        tmp_path / "MMBench_TEST_EN.tsv",
        HEAD.replace("answer\t", "") + "3\tQ?\t\tcat\tdog\t\t\tc\taGk=\ts\tl\t\ttest\n",
    )
    benchmark = open_benchmark("mmbench", tmp_path, "test_en")
    with pytest.raises(InputError, match="Only mmbench's server has the answers of test_en"):
        benchmark.score({"3": "A"})
    assert (benchmark.submission({"3": "A"}) or ("", b""))[0] == "mmbench_test_en.xlsx"
