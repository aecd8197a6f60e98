"""`fwd2bot train --plan`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import settings, written

from fwd2bot.cli import main
from fwd2bot.errors import InputError
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.plan import make_plan
from fwd2bot.training.plan_text import plan_text


def test_command_prints_a_plan_and_trains_nothing(
    tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, settings("fwd2bot", tmp_path / "out", tiny_base))
    assert main(["train", str(path), "--plan", "--gpus", "2", "--gpu", "l40s", "--mfu", "0.2"]) == 0
    printed = capsys.readouterr().out
    plan = make_plan(TrainConfig.load(path), gpus=2, gpu="l40s", mfu=0.2)
    assert printed == plan_text(plan) + "\n"
    assert "on 2 l40s" in printed
    assert "fits into the 48.0 GB of one l40s" in printed
    assert "\n  2 of them on one machine  " in printed
    assert max(map(len, printed.splitlines())) <= 79
    assert main(["train", str(path), "--plan", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["memory"]["total"] == make_plan(TrainConfig.load(path)).memory.total
    assert told["memory"]["host"] == make_plan(TrainConfig.load(path)).host
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--gpus=2", "--gpu=h100", "--mfu=0.4", "--text-tokens=7", "--json"])
def test_options_of_a_plan_want_a_plan(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "run.yaml"), option]) == InputError.exit_code
    assert f"{option.partition('=')[0]} is for a plan: add --plan" in capsys.readouterr().err


def test_planning_needs_neither_torch_nor_numpy() -> None:
    code = "import sys, fwd2bot.training.plan; print({'numpy', 'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
