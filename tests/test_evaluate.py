"""A model on benchmarks from end to end: answers and vectors on the disk, resumed, refused, scored, told."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import fwd2bot
from fwd2bot.cli import main
from fwd2bot.data.world import make_scene
from fwd2bot.data.world.benchmark_captions import write_caption_benchmarks
from fwd2bot.errors import InputError
from fwd2bot.evaluation import java_scorers
from fwd2bot.evaluation.base import Benchmark, Sample
from fwd2bot.evaluation.embedders import Embedder
from fwd2bot.evaluation.runner import run_benchmarks
from fwd2bot.model import Fwd2Bot

SCENES = [make_scene("test", number) for number in range(3)]
PICTURES = 2 * len(SCENES)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(java_scorers, "why_not", lambda: "Java is not installed")


@pytest.fixture
def model(folder: Path) -> Fwd2Bot:
    model = fwd2bot.load(folder, device="cpu")
    model.batch_size = 2
    return model


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_caption_benchmarks(tmp_path / "data", SCENES)
    return tmp_path / "data"


class Told:
    """What was told of the progress."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, int, int]] = []

    def __call__(self, what: str, unit: str) -> Any:
        return lambda done, total: self.lines.append((what, unit, done, total))


class Questions(Benchmark):
    """Two questions about each of three pictures, one of them held as bytes; every answer that is no text is wrong."""

    name = "questions"
    splits = ("val", "test")
    metric = "answered"
    served = ("test",)
    max_new_tokens = 3

    def samples(self) -> Sequence[Sample]:
        pictures: list[Path | bytes] = [
            self.folder / "1.png",
            (self.folder / "2.png").read_bytes(),
            self.folder / "3.png",
        ]
        asked = ("what is there ?", "how many ?")
        return [
            Sample(f"{number}/{at}", picture, text)
            for at, text in enumerate(asked)
            for number, picture in enumerate(pictures)
        ]

    def score(self, predictions: Any) -> dict[str, float]:
        assert set(predictions) == self.keys()
        return {"answered": 100.0 * sum(text != "" for text in predictions.values()) / len(predictions)}

    def submission(self, predictions: Any) -> tuple[str, bytes] | None:
        return ("send.json", json.dumps(predictions).encode()) if self.split == "test" else None


@pytest.fixture
def questions(tmp_path: Path) -> Questions:
    for number in (1, 2, 3):
        Image.new("RGB", (20, 20), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
    return Questions(tmp_path)


def take(model: Fwd2Bot | Embedder, benchmark: Any, out: Path, **more: Any) -> dict[str, Any]:
    (result,) = run_benchmarks(model, [benchmark], out, **{"progress": Told(), **more})
    return result


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def spoken(model: Fwd2Bot, monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[list[str]]:
    """The model answers with its question in capitals, and raises at call number `stop_at`; gives what it was asked."""
    calls: list[list[str]] = []

    def answer(tokens: Any, questions: Sequence[str], *, max_new_tokens: int) -> list[str]:
        assert len(tokens) == len(questions)
        assert max_new_tokens == 3
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append(list(questions))
        return [question.upper() for question in questions]

    monkeypatch.setattr(model, "answer", answer)
    return calls


# Answers.


def test_every_picture_is_compressed_once_and_every_answer_written(
    model: Fwd2Bot, questions: Questions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    compress = model.compress

    def counted(images: Sequence[Any], num_tokens: int | None = None) -> Any:
        seen.append(len(images))
        return compress(images, num_tokens)

    monkeypatch.setattr(model, "compress", counted)
    calls, told = spoken(model, monkeypatch), Told()
    result = take(model, questions, tmp_path / "out", num_tokens=2, progress=told)
    assert seen == [2, 1]
    assert sorted(map(len, calls)) == [2, 2, 2]
    rows = lines(tmp_path / "out/questions-val.jsonl")
    assert {row["question_id"]: row["text"] for row in rows} == {
        sample.key: sample.text.upper() for sample in questions.samples()
    }
    assert told.lines == [("answered", "questions", done, 6) for done in range(1, 7)]
    assert result == json.loads((tmp_path / "out/questions-val.json").read_text("utf-8"))
    assert (result["figures"], result["metric"]) == ({"answered": 100.0}, "answered")
    assert (result["model"], result["num_tokens"], result["samples"]) == ("tiny-fwd2bot", 2, 6)
    assert result["fingerprint"].startswith("sha256:")
    assert {"commit", "command", "machine", "seconds"} <= set(result)


def test_answers_are_about_their_own_pictures(
    model: Fwd2Bot, questions: Questions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model answers with its tokens: each line has those of its own picture, alone."""

    def answer(tokens: Any, questions: Sequence[str], *, max_new_tokens: int) -> list[str]:
        return [f"{float(row.abs().sum()):.2f}" for row in tokens]

    monkeypatch.setattr(model, "answer", answer)
    take(model, questions, tmp_path / "out")
    rows = lines(tmp_path / "out/questions-val.jsonl")
    assert len({row["text"] for row in rows}) == 3
    for row in rows:
        tokens = model.compress([tmp_path / f"{int(row['question_id'][0]) + 1}.png"])
        assert float(row["text"]) == pytest.approx(float(tokens.abs().sum()), abs=0.02)


def test_killed_run_goes_on_where_it_stopped(
    folder: Path, model: Fwd2Bot, questions: Questions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the third call, in the middle of writing a line; the second run asks only what is not written."""
    spoken(model, monkeypatch, stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        take(model, questions, tmp_path / "out")
    path = tmp_path / "out/questions-val.jsonl"
    assert len(lines(path)) == 4
    assert not (tmp_path / "out/questions-val.json").exists()
    with path.open("a") as file:
        file.write('{"question_id": "2/0", "te')
    calls = spoken(model, monkeypatch)
    told = Told()
    result = take(model, questions, tmp_path / "out", progress=told)
    assert sum(map(len, calls)) == 2
    assert told.lines[-1] == ("answered", "questions", 2, 2)
    assert sorted(row["question_id"] for row in lines(path)) == sorted(questions.keys())
    assert (result["figures"], result["answered_before"]) == ({"answered": 100.0}, 4)


def test_answers_in_the_middle_that_are_damaged_are_told(model: Fwd2Bot, questions: Questions, tmp_path: Path) -> None:
    take(model, questions, tmp_path / "out")
    path = tmp_path / "out/questions-val.jsonl"
    path.write_text("{\n" + path.read_text())
    with pytest.raises(InputError, match=r"Line 1 of .*questions-val\.jsonl is no JSON "):
        take(model, questions, tmp_path / "out")


def test_answers_of_another_run_are_refused(model: Fwd2Bot, questions: Questions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    take(model, questions, out, num_tokens=2)
    with pytest.raises(InputError, match=r"out has questions with num_tokens 2, and this run has 4: name another"):
        take(model, questions, out, num_tokens=4)
    path = out / "questions-val.run.json"
    path.write_text(path.read_text().replace("sha256:", "sha256:00"))
    with pytest.raises(InputError, match="with fingerprint 'sha256:00"):
        take(model, questions, out, num_tokens=2)
    path.unlink()
    with pytest.raises(InputError, match=r"questions-val\.jsonl is there, and .*run\.json, which says whose it is"):
        take(model, questions, out, num_tokens=2)


def test_pictures_that_cannot_be_read_are_listed_and_the_rest_goes_on(
    model: Fwd2Bot, questions: Questions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken(model, monkeypatch)
    (tmp_path / "1.png").write_text("no picture")
    (tmp_path / "3.png").unlink()
    result = take(model, questions, tmp_path / "out")
    first, second = result["failed"]
    assert first == {
        "error": f"{tmp_path}/1.png is not a picture of a kind that can be read (PNG, JPEG, WebP ...).",
        "samples": 2,
    }
    assert "3.png is not there" in second["error"]
    assert result["figures"] == {"answered": pytest.approx(100 / 3)}
    assert len(lines(tmp_path / "out/questions-val.jsonl")) == 2


def test_question_that_does_not_fit_is_listed(model: Fwd2Bot, questions: Questions, tmp_path: Path) -> None:
    samples = questions.samples()
    long = [Sample(one.key, one.image, one.text * (99 if one.key == "1/1" else 1)) for one in samples]
    questions.samples = lambda: long
    result = take(model, questions, tmp_path / "out")
    (failed,) = result["failed"]
    assert failed["error"].startswith("1/1: The question has ")
    assert failed["samples"] == 1
    assert len(lines(tmp_path / "out/questions-val.jsonl")) == 5


def test_content_that_is_no_picture_is_named_by_its_sample(
    model: Fwd2Bot, questions: Questions, tmp_path: Path
) -> None:
    (tmp_path / "2.png").write_text("no picture")
    (failed,) = take(model, questions, tmp_path / "out")["failed"]
    assert failed["error"].startswith("the picture of '1/0' is not a picture")


def test_split_of_a_server_is_written_for_it(model: Fwd2Bot, questions: Questions, tmp_path: Path) -> None:
    result = take(model, Questions(tmp_path, "test"), tmp_path / "out")
    assert (result["figures"], result["submission"]) == (None, "send.json")
    assert set(json.loads((tmp_path / "out/send.json").read_text())) == questions.keys()


# The command.


def command(*arguments: str | Path) -> int:
    return main(["evaluate", *map(str, arguments)])


def test_command_prints_a_table_and_writes_the_rest(
    folder: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("--benchmarks", "coco_captions,sugarcrepe", "--data", world, "--model", folder, "--tokens", "2")
    assert command(*names, "--prompt", "What is it?") == 0
    out = capsys.readouterr().out
    assert "coco_captions (test): tiny-fwd2bot, 2 tokens an image\n  CIDEr     " in out
    assert "  replace_obj  " in out
    assert re.search(r"^  tokeniser +(fwd2bot.evaluation.ptb|Stanford PTBTokenizer 3.4.1)$", out, re.MULTILINE)
    assert re.search(r"^  METEOR +(not computed: .*|1.5)$", out, re.MULTILINE)
    there = tmp_path / "evaluation/tiny-fwd2bot-2"
    assert json.loads((there / "coco_captions-test.run.json").read_text())["prompt"] == "What is it?"
    assert command(*names, "--prompt", "What is it?", "--json") == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["answered_before"], second["benchmark"]) == (PICTURES, "sugarcrepe")


def test_command_lists_what_it_could_not_read(
    folder: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (world / "sugarcrepe/val2017/000000000002.jpg").write_text("no picture")
    out = tmp_path / "out"
    assert command("--benchmarks", "sugarcrepe", "--data", world, "--model", folder, "--out", out) == 3
    said = capsys.readouterr().out
    assert "  1 sample counted as unanswered: " in said


def test_command_takes_the_figures_of_the_world(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command("--suite", "world", "--images", "1", "--model", folder, "--tokens", "1", "--out", out) == 0
    result = json.loads((out / "world.json").read_text())
    assert (result["images"], result["gallery"], result["num_tokens"]) == (1, 2, 1)
    said = capsys.readouterr().out
    assert said.startswith("world: tiny-fwd2bot, 1 token an image\n")
    assert "  retrieval text_to_image_R@1" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--benchmarks NAMES, or --suite world"),
        (["--suite", "world", "--benchmarks", "pope", "--data", "x"], "--benchmarks NAMES, or --suite world"),
        (["--benchmarks", "pope"], "--benchmarks and --data go together"),
        (["--suite", "world", "--data", "x"], "--benchmarks and --data go together"),
        (["--benchmarks", "poppe", "--data", "x"], "no benchmark 'poppe'"),
        (["--benchmarks", "coco_captions", "--data", "x"], "x/coco has no dataset_coco.json"),
        (["--benchmarks", "sugarcrepe", "--data", "{world}", "--prompt", "x"], "--prompt is for captions"),
        (["--benchmarks", "coco_captions", "--data", "{world}", "--prompt", " "], "--prompt is empty"),
        (["--benchmarks", "sugarcrepe", "--data", "{world}", "--images", "3"], "--images is for --suite world"),
        (["--suite", "world", "--prompt", "x"], "--prompt is for captions of --benchmarks"),
        (["--benchmarks", "sugarcrepe", "--data", "{world}", "--tokens", "3"], "1, 2, 4 tokens an image, not 3"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str], told: str, folder: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--model", folder, *(one.format(world=world) for one in arguments)) == 2
    assert told in capsys.readouterr().err
