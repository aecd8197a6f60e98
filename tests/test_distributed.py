"""Two and four processes take the very steps of one: losses, gradients, weights, for each stage and kind of batch."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import STEPS, job, outcomes
from test_feeds import files, sources
from tiny_runs import config, settings, written

from fwd2bot.checkpoint import load_model
from fwd2bot.errors import InputError
from fwd2bot.training import distributed, run
from fwd2bot.training.loop import build_stage

__all__ = ["files"]
pytestmark = pytest.mark.xdist_group("distributed")  # `found` is made once
STAGES = ("tower", "language", "projector", "identity", "fwd2bot")
EXACT = {"rtol": 1e-9, "atol": 1e-12}
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # the weights of their patches are summed in float32
TOLERANCES = {name: CLOSE if name in ("tower", "projector") else EXACT for name in (*STAGES, "files")}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, files: Path) -> dict[str, Any]:
    """What each job gave, alone and with several processes: every kind of batch is in `files`."""
    folder = tmp_path_factory.mktemp("ranks")
    of_files = {"data": {"sources": sources(files), "length": 96}, "contrastive_batch": 12}

    def gave(where: str, size: int, jobs: dict[str, dict[str, Any]]) -> dict[str, Any]:
        made = {
            name: job(more.pop("what", name), tiny_base, folder / more.pop("out", f"{where}-{name}"),
                      **{"batch_size": 4, "optimizer": "adamw", **more})
            for name, more in jobs.items()
        }  # fmt: skip
        return {f"{name} {where}": one for name, one in outcomes(folder / where, size, made).items()}

    jobs: dict[str, Any] = {name: {} for name in STAGES}
    spread = {"what": "fwd2bot", "sharded": True}
    alone = gave("alone", 1, {**jobs, "files": {"what": "fwd2bot", **of_files}})
    two = gave(
        "two", 2,
        {
            **{name: {} for name in STAGES}, "files": {"what": "fwd2bot", **of_files},
            "sharded": {**spread, **of_files}, "begun": {**spread, "out": "moved", "until": 8},
        },
    )  # fmt: skip
    four = gave("four", 4, {"files": {"what": "fwd2bot", **of_files}, "ended": {**spread, "out": "moved"}})
    return alone | two | four


def assert_same(together: dict[str, torch.Tensor], alone: dict[str, torch.Tensor], tolerance: dict[str, float]) -> None:
    for key, expected in alone.items():
        torch.testing.assert_close(together[key], expected, **tolerance, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", [*STAGES, "files"])
def test_two_processes_train_as_one(found: dict[str, Any], name: str) -> None:
    assert found[f"{name} two"].keys() == found[f"{name} alone"].keys()
    assert_same(found[f"{name} two"], found[f"{name} alone"], TOLERANCES[name])


def test_four_processes_train_as_one(found: dict[str, Any]) -> None:
    assert_same(found["files four"], found["files alone"], EXACT)


def test_a_model_spread_over_processes_trains_as_one(found: dict[str, Any]) -> None:
    assert_same(found["sharded two"], found["files alone"], EXACT)


def test_a_spread_checkpoint_goes_on_with_another_number_of_processes(found: dict[str, Any]) -> None:
    begun, ended, alone = found["begun two"], found["ended four"], found["fwd2bot alone"]
    steps = {int(key.split(".")[1]) for key in ended if key.startswith("loss")}
    assert steps == set(range(8, STEPS))
    assert_same({**begun, **ended}, alone, EXACT)


def test_every_kind_of_batch_was_among_them(found: dict[str, Any]) -> None:
    keys = found["files two"].keys()

    def trained(step: int, adapter: str) -> bool:
        return any(key.startswith(f"gradient.{step}.") and f"lora.{adapter}" in key for key in keys)

    kinds = {
        (f"loss.{step}.autoregressive" in keys, f"loss.{step}.contrastive" in keys, trained(step, "compress"))
        for step in range(STEPS)
    }
    # Both losses; a conversation; text alone, which has no pass 1; pairs.
    assert kinds == {(True, True, True), (True, False, True), (True, False, False), (False, True, True)}


def torchrun(program: list[str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("sharded", [False, True])
def test_torchrun_trains_and_writes_once(sharded: bool, tmp_path: Path, tiny_base: Path) -> None:
    path = written(tmp_path, settings("fwd2bot", tmp_path / "out", tiny_base, sharded=sharded))
    done = torchrun(["-m", "fwd2bot", "train", str(path)])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("step 6/6") == 2  # losses, figures
    assert len((tmp_path / "out/metrics.jsonl").read_text().splitlines()) == 8
    model = load_model(tmp_path / "out")
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert any(path.endswith("up") and parameter.any() for path, parameter in model.named_parameters())
    assert (tmp_path / "out/done.json").exists()


# What cannot be.

DIES = """
import sys, torch
from fwd2bot.cli import main
from fwd2bot.training import distributed, loop
step_of = loop.Job.step
def step(self, batch, number):
    if number == 4 and distributed.rank() == 1:
        sys.exit("power cut")
    return step_of(self, batch, number)
loop.Job.step = step
sys.exit(main(["train", sys.argv[1]]))
"""


def test_one_process_that_dies_stops_the_run_with_a_sentence(tmp_path: Path, tiny_base: Path) -> None:
    path = written(tmp_path, settings("fwd2bot", tmp_path / "out", tiny_base))
    (tmp_path / "dies.py").write_text(DIES)
    done = torchrun([str(tmp_path / "dies.py"), str(path)])
    assert done.returncode == 1
    assert "power cut" in done.stderr
    assert "Process 0 of 2 has lost another one" in done.stderr
    done = torchrun(["-m", "fwd2bot", "train", str(path)])
    assert done.returncode == 0, done.stderr
    assert "Going on at step 3 of 6." in done.stderr


def test_a_batch_that_cannot_be_split_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_base: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="batch_size is 8; it must be a multiple of the 3 processes that share it"):
        distributed.check(config("fwd2bot", tmp_path, tiny_base, batch_size=8))


def test_a_model_is_spread_by_torchrun_only(tmp_path: Path, tiny_base: Path) -> None:
    path = written(tmp_path, settings("fwd2bot", tmp_path / "out", tiny_base, sharded=True))
    with pytest.raises(InputError, match=r"sharded is true, .* start them with torchrun"):
        run(path)


def test_the_parts_of_a_batch_are_the_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_base: Path) -> None:
    stage = build_stage(config("fwd2bot", tmp_path, tiny_base, batch_size=6))
    whole = stage.batch(2).pixels
    monkeypatch.setenv("WORLD_SIZE", "3")
    parts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(stage.batch(2).pixels)
    assert torch.equal(torch.cat(parts), whole)
