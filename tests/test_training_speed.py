"""The benchmark of training runs on tiny models and tells sound figures."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny import script
from tiny_runs import settings, written
from transformers import AutoTokenizer

from fwd2bot.training.shapes import BUNDLED, Language, Tower, read_base


@pytest.fixture(scope="module")
def training() -> ModuleType:
    return script("benchmarks/training.py")


@pytest.mark.parametrize("what", ["fwd2bot", "average_pool"])
def test_shares_are_parts_of_the_machine_and_of_the_time(
    what: str, training: ModuleType, tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = written(tmp_path, settings(what, tmp_path / "out", tiny_base)), tmp_path / "results/training.json"
    assert training.main([str(path), "--steps", "2", "--rows", "3", "--out", str(out)]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads(out.read_text())
    assert result["rows"] == 3
    assert all(0 < result[part]["share"] < 1 for part in ("training", "compress"))
    assert sum(result["training"]["time"].values()) == pytest.approx(1)
    assert result["training"]["rows_per_s"] == pytest.approx(3 / result["training"]["seconds"])
    assert result["training"]["time"]["products"] > 0
    assert not (tmp_path / "out").exists()


def test_random_weights_have_the_shapes_of_the_base(training: ModuleType) -> None:
    bundled = read_base({"base": "emoji-world"})
    llava = training.random_llava(bundled, torch.device("cpu"))
    for part, count in bundled.parameters.items():
        assert sum({id(p): p.numel() for p in llava.part(part)}.values()) == count
    assert llava.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(BUNDLED / "emoji-world/base").get_vocab()


def test_what_cannot_be_measured_is_one_sentence(
    training: ModuleType, tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tower = written(tmp_path, settings("tower", tmp_path / "out", tiny_base))
    assert training.main([str(tower)]) == 2
    assert training.main([str(tower), "--rows", "0"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].endswith("is a run of stage tower; one of stage compressor is needed.")
    assert told[1] == "fwd2bot: --steps and --rows must be at least 1."
    small = training.replace(read_base({"base": "emoji-world"}), tower=Tower(), language=Language(vocabulary=9))
    with pytest.raises(training.InputError, match=r"has 9 tokens; random weights need \d+\."):
        training.random_llava(small, torch.device("cpu"))
