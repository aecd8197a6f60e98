"""The benchmark of speed runs on a tiny model and tells sound figures."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny import script

from fwd2bot.checkpoint import load_model


@pytest.fixture(scope="module")
def speed() -> ModuleType:
    return script("benchmarks/speed.py")


def test_figures_of_a_tiny_model(
    speed: ModuleType, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results/speed.json"
    assert speed.main(["--model", str(folder), "--images", "2", "--rounds", "1", "--out", str(out)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert result == json.loads(out.read_text())
    assert result["compress"]["ratio"] == pytest.approx(
        result["compress"]["compress_images_per_s"] / result["compress"]["plain_forward_images_per_s"]
    )
    assert [(one["from"], one["tokens"], one["batch"]) for one in result["answer"]] == [
        ("visual tokens", 16, 1), ("a row", 4, 1), ("visual tokens", 16, 2), ("a row", 4, 2),
    ]  # fmt: skip
    assert result["answer"][0]["positions"] - result["answer"][1]["positions"] == 12
    assert all(one["first_token_s"] > 0 and one["tokens_per_s"] > 0 for one in result["answer"])
    assert result["ceiling_gflops"] > 0
    assert {"commit", "machine", "date", "fingerprint", "dtype"} <= set(result)
    # 4 tokens of 32 numbers in 2 bits with a norm of 2 bytes each, and a vector in 8 bits with a scale of 4 bytes
    assert result["bytes"] == {"jpeg": result["bytes"]["jpeg"], "row_4": 4 * (32 * 2 // 8 + 2) + 32 + 4}
    assert result["bytes"]["jpeg"] > 1000
    if sys.platform == "linux":
        assert {"plain_forward", "compress", "answer_all", "answer_4"} == set(result["memory_mb"])
    assert "goal 0.8" in lines[1]


def test_jobs_take_turns_and_the_first_round_does_not_count(speed: ModuleType) -> None:
    order: list[str] = []
    taken = speed.medians({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3
    assert set(taken) == {"a", "b"}


def test_answers_have_the_length_asked_for(speed: ModuleType, folder: Path) -> None:
    compressor = load_model(folder)
    rows = speed.asked(compressor, torch.zeros(3, 4, 32), 1.0)
    assert [len(ids) for ids in speed.answer(compressor.llava, rows, "generate", 5)] == [5, 5, 5]
    assert compressor.llava.stop_ids


@pytest.mark.parametrize(("arguments", "code"), [(["--images", "0"], 2), (["--model", "nowhere"], 4)])
def test_mistakes_are_told(
    speed: ModuleType, folder: Path, arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert speed.main(["--model", str(folder), *arguments]) == code
    assert capsys.readouterr().err.startswith("fwd2bot: ")
