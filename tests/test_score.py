"""`fwd2bot score`: the table, the JSON, the file for a server, and what a mistake looks like."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_run import Run
from official_files import gqa_entry, mmbench, scienceqa, textvqa, write

from fwd2bot.evaluation import java_scorers

GQA = ["score", "gqa", "--data", ".", "--predictions", "said.jsonl"]


@pytest.fixture
def gqa(tmp_path: Path) -> Path:
    entries = {"1": gqa_entry("no", "verify", "attr"), "2": gqa_entry("cup", "query", "obj")}
    write(tmp_path / "testdev_balanced_questions.json", entries)
    write(tmp_path / "said.jsonl", '{"question_id": "1", "text": "No."}\n{"question_id": "2", "text": "a cup"}\n')
    return tmp_path


def test_score_prints_a_table_with_the_quoted_figure_first(run: Run, gqa: Path) -> None:
    ran = run(*GQA)
    assert (ran.code, ran.err) == (0, "")
    first, second, *rest = ran.out.splitlines()
    assert first == "gqa testdev_balanced, 2 predictions"
    assert second.split() == ["accuracy", "50.00"]
    assert ["open", "0.00"] in [line.split() for line in rest]


def test_score_as_json(run: Run, gqa: Path) -> None:
    said = json.loads(run(*GQA, "--json").out)
    assert list(said) == ["benchmark", "split", "metric", "value", "figures", "predictions", "missing"]
    assert said["figures"].pop("binary") == 100
    assert (said["benchmark"], said["split"], said["metric"], said["value"]) == (
        "gqa",
        "testdev_balanced",
        "accuracy",
        50,
    )
    assert (said["predictions"], said["missing"]) == (2, 0)


def test_score_tells_what_the_official_scorer_does_with_missing_ones(run: Run, tmp_path: Path) -> None:
    mmbench(tmp_path, "3\tWhat?\t\tcat\tdog\t\t\tB", "4\tWhat?\t\tcat\tdog\t\t\tB")
    write(tmp_path / "said.jsonl", '{"question_id": 3, "text": "B"}')
    ran = run("score", "mmbench", "--data", ".", "--predictions", "said.jsonl", "--json")
    assert ran.err == "fwd2bot: 1 sample without a prediction; the official scorer counts them as wrong\n"
    assert (json.loads(ran.out)["value"], json.loads(ran.out)["missing"]) == (50, 1)
    textvqa(tmp_path)
    write(tmp_path / "said.jsonl", '{"question_id": "ab12", "prompt": "Which one?", "text": "one"}')
    ran = run("score", "textvqa", "--data", ".", "--predictions", "said.jsonl", "--json")
    assert ran.err == "fwd2bot: 2 samples without a prediction; the official scorer leaves them out of the mean\n"
    assert json.loads(ran.out)["value"] == 100


def test_score_writes_the_file_for_a_server(run: Run, gqa: Path) -> None:
    ran = run(*GQA, "--submission", "up/load")
    assert (ran.code, ran.out) == (0, "up/load/testdev_balanced_predictions.json\n")
    assert len(json.loads((gqa / ran.out.strip()).read_text())) == 2
    told = json.loads(run(*GQA, "--submission", "up/load", "--json").out)
    path = "up/load/testdev_balanced_predictions.json"
    assert told == {
        "benchmark": "gqa", "split": "testdev_balanced", "submission": path, "predictions": 2, "missing": 0,
    }  # fmt: skip


def test_score_tells_how_many_answers_in_the_file_for_a_server_are_empty(run: Run, tmp_path: Path) -> None:
    asked = [{"question_id": key, "image_id": 9, "question": "what?"} for key in range(4)]
    for subset, part in (("test-dev2015", asked[1:]), ("test2015", asked)):
        write(tmp_path / f"v2_OpenEnded_mscoco_{subset}_questions.json", {"questions": part})
    write(tmp_path / "said.jsonl", '{"question_id": 2, "text": "two"}')
    ran = run(
        "score", "vqav2", "--data", ".", "--split", "test-dev", "--predictions", "said.jsonl", "--submission", "up"
    )
    assert (ran.code, ran.out) == (0, "up/vqav2_test-dev.json\n")
    assert ran.err == "fwd2bot: 2 samples without a prediction; the answer in the file is empty\n"


def test_score_needs_no_more_of_the_files_than_it_compares(run: Run, tmp_path: Path) -> None:
    """What was read in the pictures, and the pictures themselves, are for asking."""
    textvqa(tmp_path)
    (tmp_path / "TextVQA_Rosetta_OCR_v0.2_val.json").unlink()
    write(tmp_path / "said.jsonl", '{"question_id": 7, "text": "x"}')
    command = ["--data", ".", "--predictions", "said.jsonl", "--json"]
    assert json.loads(run("score", "textvqa", *command).out)["value"] == 100
    columns = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\tl2-category\n"
    write(tmp_path / "mmbench_dev_20230712.tsv", columns + "3\tWhat?\t\tcat\tdog\t\t\tB\tk\tsee\n")
    write(tmp_path / "said.jsonl", '{"question_id": 3, "text": "B"}')
    assert json.loads(run("score", "mmbench", *command).out)["value"] == 100


def test_score_says_what_cut_the_captions(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java_scorers, "why_not", lambda: "Java is not installed")
    content = {
        "images": [{"id": 4, "file_name": "a.jpg"}, {"id": 5, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 4, "caption": "A red bus."}, {"image_id": 5, "caption": "Two dogs."}],
    }
    write(tmp_path / "nocaps_val_4500_captions.json", content)
    write(tmp_path / "said.jsonl", '{"image_id": 4, "text": "a red bus"}\n{"image_id": 5, "text": "two dogs"}\n')
    command = ["score", "nocaps_captions", "--data", ".", "--predictions", "said.jsonl"]
    told = json.loads(run(*command, "--json").out)
    assert told["tokeniser"] == "fwd2bot.evaluation.ptb"
    assert told["METEOR"] == "not computed: Java is not installed"
    assert "METEOR: not computed: Java is not installed" in run(*command).out.splitlines()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("gqa", "gqq"), "There is no benchmark 'gqq'"),
        ((".", "none"), "is not there: docs/benchmarks.md says what to download into which folder."),
        (("said.jsonl", "none.jsonl"), "none.jsonl cannot be read: No such file or directory."),
        (
            ("said.jsonl", "half.jsonl"),
            "1 samples have no prediction (the first is '2'): the official scorer wants all.",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run: Run, gqa: Path, change: tuple[str, str], sentence: str) -> None:
    write(gqa / "half.jsonl", '{"question_id": "1", "text": "No."}')
    ran = run(*[change[1] if word == change[0] else word for word in GQA])
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert sentence in ran.err


def test_more_mistakes(run: Run, gqa: Path) -> None:
    assert "gqa has no split 'x'; its splits are" in run(*GQA, "--split", "x").err
    write(gqa / "taken", "")
    assert "cannot be written" in run(*GQA, "--submission", "taken").err
    scienceqa(gqa)
    arguments = ["score", "scienceqa", "--data", ".", "--predictions", "five.jsonl"]
    write(gqa / "five.jsonl", '{"question_id": "5", "text": "B"}')
    assert "No prediction in five.jsonl counts for scienceqa's image" in run(*arguments).err
    assert "scienceqa test goes to no server: leave out --submission" in run(*arguments, "--submission", "x").err


def test_score_loads_nothing_heavy(gqa: Path) -> None:
    root = Path(__file__).parent.parent
    code = f"import sys; from fwd2bot.cli import main; assert main({GQA!r}) == 0; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=gqa, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(root)})
    assert not {"torch", "transformers", "PIL", "lance", "pyarrow"} & set(ran.stdout.split())
