"""A folder of answers and vectors is gone on with by the same run alone: same questions, texts, pictures and dtype."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from official_files import textvqa, write

from fwd2bot.cli import main
from fwd2bot.data.world import make_scene
from fwd2bot.data.world.benchmark_captions import write_caption_benchmarks
from fwd2bot.evaluation import java_scorers


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(java_scorers, "why_not", lambda: "Java is not installed")


class Command:
    """`fwd2bot evaluate` with one model into one folder."""

    def __init__(self, model: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.model, self.out, self.capsys = model, out, capsys

    def __call__(self, name: str, data: Path | str, *more: str) -> tuple[int, str]:
        arguments = ["--benchmarks", name, "--data", data, "--model", self.model, "--out", self.out, "--json", *more]
        code = main(["evaluate", *map(str, arguments)])
        told = self.capsys.readouterr()
        return code, told.err if code == 2 else told.out

    def kept(self) -> dict[str, Any]:
        return {path.name: path.read_bytes() for path in self.out.iterdir()}


@pytest.fixture
def evaluate(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(folder, tmp_path / "out", capsys)


def world(folder: Path, first: int = 0) -> Path:
    write_caption_benchmarks(folder, [make_scene("test", number) for number in (first, first + 1)])
    return folder


@pytest.mark.parametrize("name", ["coco_captions", "coco_retrieval", "sugarcrepe"])
def test_another_world_is_refused(name: str, evaluate: Command, tmp_path: Path) -> None:
    """Its pictures have the same names and keys, and captions are asked for by the same words."""
    assert evaluate(name, world(tmp_path / "one"))[0] == 0
    kept = evaluate.kept()
    code, told = evaluate(name, world(tmp_path / "two", 50))
    assert code == 2
    assert f"out has {name} with data 'sha256:" in told
    assert told.endswith("': name another folder with --out.\n")
    assert evaluate.kept() == kept


@pytest.mark.parametrize("name", ["coco_captions", "coco_retrieval"])
def test_a_folder_that_was_moved_is_gone_on_with(
    name: str, evaluate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate(name, world(tmp_path / "one"))[0] == 0
    (tmp_path / "one").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    for spelt in ("moved", "./moved/../moved/", tmp_path / "moved"):
        code, told = evaluate(name, spelt)
        assert code == 0
        assert json.loads(told)[0].get("answered_before") in (4, None)


def test_one_other_picture_is_refused(evaluate: Command, tmp_path: Path) -> None:
    data = world(tmp_path / "one")
    assert evaluate("coco_captions", data)[0] == 0
    pictures = sorted((data / "coco").rglob("*.jpg"))
    pictures[-1].write_bytes(pictures[0].read_bytes())
    code, told = evaluate("coco_captions", data)
    assert (code, "with data" in told) == (2, True)


def test_other_words_around_a_question_are_refused(evaluate: Command, tmp_path: Path) -> None:
    textvqa(tmp_path / "textvqa")
    assert evaluate("textvqa", tmp_path)[0] == 3  # there are no pictures
    assert evaluate("textvqa", tmp_path)[0] == 3
    line = {"question_id": "ab12", "text": "Q?\nReference OCR token: MINE\nSay it."}
    write(tmp_path / "textvqa/llava_textvqa_val_v051_ocr.jsonl", json.dumps(line))
    code, told = evaluate("textvqa", tmp_path)
    assert (code, "out has textvqa with data" in told) == (2, True)


def test_another_dtype_is_refused(evaluate: Command, tmp_path: Path) -> None:
    data = world(tmp_path / "one")
    assert evaluate("coco_captions", data)[0] == 0
    assert evaluate("coco_captions", data, "--dtype", "float32")[0] == 0  # what it was
    code, told = evaluate("coco_captions", data, "--dtype", "bfloat16")
    assert code == 2
    assert "out has coco_captions with dtype 'float32', and this run has 'bfloat16': name another" in told


@pytest.mark.parametrize("lacking", ["data", "dtype"])
def test_a_run_from_before_something_was_written_down_is_refused(
    lacking: str, evaluate: Command, tmp_path: Path
) -> None:
    data = world(tmp_path / "one")
    assert evaluate("coco_captions", data)[0] == 0
    path = tmp_path / "out/coco_captions-test.run.json"
    content = json.loads(path.read_text())
    del content[lacking]
    write(path, content)
    code, told = evaluate("coco_captions", data)
    assert code == 2
    assert f"out has coco_captions from before {lacking} was written down, and this run has '" in told


def test_nothing_is_claimed_where_the_files_cannot_be_read(evaluate: Command, tmp_path: Path) -> None:
    textvqa(tmp_path / "textvqa")
    (tmp_path / "textvqa/TextVQA_Rosetta_OCR_v0.2_val.json").unlink()
    assert evaluate("textvqa", tmp_path)[0] == 2
    assert not evaluate.out.exists()
