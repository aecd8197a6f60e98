"""Two and four processes take the very steps of one: losses, gradients, weights, for each stage and kind of batch."""

import os
import socket
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
from fwd2bot.training.checkpoints import load_progress
from fwd2bot.training.loop import build_stage

__all__ = ["files"]
STAGES = ("tower", "language", "projector", "identity", "fwd2bot")
EXACT = {"rtol": 1e-9, "atol": 1e-12}
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # the weights of their patches are summed in float32
TOLERANCES = {name: CLOSE if name in ("tower", "projector") else EXACT for name in (*STAGES, "files")}


def test_several_processes_train_as_one(tmp_path: Path, tiny_base: Path, files: Path) -> None:
    """One test, for it takes long to start them: all stages alone and with two, every kind of batch with four, too."""
    of_files = {"data": {"sources": sources(files), "length": 96}, "contrastive_batch": 12}

    def one(what: str, where: str, **more: Any) -> dict[str, Any]:
        return job(what, tiny_base, tmp_path / where, batch_size=4, optimizer="adamw", **more)

    def every(where: str) -> dict[str, Any]:
        jobs = {f"{name} {where}": one(name, f"{name} {where}") for name in STAGES}
        return {**jobs, f"files {where}": one("fwd2bot", f"files {where}", **of_files)}

    spread = {
        "files spread over two": one("fwd2bot", "spread", sharded=True, **of_files),
        "fwd2bot begun by two": one("fwd2bot", "moved", sharded=True, until=8),
    }
    four = {
        "files four": one("fwd2bot", "files four", **of_files),
        "fwd2bot ended by four": one("fwd2bot", "moved", sharded=True),
    }
    found = outcomes(tmp_path, [(1, every("alone")), (2, {**every("two"), **spread}), (4, four)])
    assert kinds_of_batches(found["files two"]) == {
        (True, True, True),  # both losses
        (True, False, True),  # a conversation
        (True, False, False),  # text alone: no pass 1
        (False, True, True),  # pairs
    }
    for name in (*STAGES, "files"):
        assert found[f"{name} two"].keys() == found[f"{name} alone"].keys()
        assert_same(f"{name} two", found[f"{name} two"], found[f"{name} alone"], TOLERANCES[name])
    for name in ("files four", "files spread over two"):
        assert_same(name, found[name], found["files alone"], EXACT)
    begun, ended = found["fwd2bot begun by two"], found["fwd2bot ended by four"]
    assert {int(key.split(".")[1]) for key in ended if key.startswith("loss")} == set(range(8, STEPS))
    assert_same("moved from two to four", {**begun, **ended}, found["fwd2bot alone"], EXACT)


def test_a_spread_model_goes_on_where_some_weights_have_no_gradient(tmp_path: Path, tiny_base: Path) -> None:
    """Those of pass 2, which L_disc has none of, and of CLIP's last layer, which is never read."""

    def one(where: str, until: int) -> dict[str, Any]:
        more = {"sharded": True, "losses": {"contrastive": 1.0}, "train_parts": ["vision"]}
        return job("fwd2bot", tiny_base, tmp_path / where, until=until, **more)

    jobs = {"whole": one("alone", 6), "begun": one("stopped", 3), "ended": one("stopped", 6)}
    found = outcomes(tmp_path, [(2, jobs)])
    begun, ended = found["begun"], found["ended"]
    assert {int(key.split(".")[1]) for key in ended if key.startswith("loss")} == {3, 4, 5}
    assert_same("stopped and resumed", {**begun, **ended}, found["whole"], EXACT)


def assert_same(
    what: str, together: dict[str, torch.Tensor], alone: dict[str, torch.Tensor], tolerance: dict[str, float]
) -> None:
    for key, expected in alone.items():
        torch.testing.assert_close(
            together[key], expected, **tolerance, msg=lambda text, key=key: f"{what}, {key}: {text}"
        )


def kinds_of_batches(found: dict[str, torch.Tensor]) -> set[tuple[bool, bool, bool]]:
    """Of each step whether it had L_AR, L_disc, and a gradient of pass 1."""

    def trained(step: int, adapter: str) -> bool:
        return any(key.startswith(f"gradient.{step}.") and f"lora.{adapter}" in key for key in found)

    return {
        (f"loss.{step}.autoregressive" in found, f"loss.{step}.contrastive" in found, trained(step, "compress"))
        for step in range(STEPS)
    }


def torchrun(program: list[str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


def two_alone(program: list[str]) -> list[tuple[int, str]]:
    """The exit status and words of two processes that nobody watches: torchrun may end one before it has spoken."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    group = {**environment(), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, *program],
            env={**group, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    words = [one.communicate(timeout=300)[1] for one in started]
    return [(one.returncode, said) for one, said in zip(started, words, strict=True)]


@pytest.mark.parametrize("sharded", [False, True])
def test_torchrun_trains_and_writes_once(sharded: bool, tmp_path: Path, tiny_base: Path) -> None:
    path = written(tmp_path, settings("fwd2bot", tmp_path / "out", tiny_base, sharded=sharded, autocast=sharded))
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
    left, died = two_alone([str(tmp_path / "dies.py"), str(path)])
    assert died == (1, "power cut\n")
    assert left[0] == 1
    assert "Process 0 of 2 has lost another one" in left[1]
    done = torchrun(["-m", "fwd2bot", "train", str(path)])
    assert done.returncode == 0, done.stderr
    assert "Going on at step 3 of 6." in done.stderr


NO_NUMBER = """
import sys, time
from fwd2bot.cli import main
from fwd2bot.training import distributed
from fwd2bot.training.compressor import CompressorStage
losses_of = CompressorStage.losses
def losses(self, batch, step):
    factor = float("nan") if (step, distributed.rank()) == (4, 1) else 1.0
    return {name: factor * loss for name, loss in losses_of(self, batch, step).items()}
CompressorStage.losses = losses
tell = distributed.tell
def late(words):  # the other process must not be gone before
    time.sleep(2 if distributed.leads() else 0)
    tell(words)
distributed.tell = late
sys.exit(main(["train", sys.argv[1]]))
"""


def test_a_loss_that_is_no_number_in_one_process_stops_all_with_one_sentence(tmp_path: Path, tiny_base: Path) -> None:
    path = written(tmp_path, settings("fwd2bot", tmp_path / "out", tiny_base))
    (tmp_path / "no_number.py").write_text(NO_NUMBER)
    done = torchrun([str(tmp_path / "no_number.py"), str(path)])
    assert done.returncode == 1
    assert done.stderr.count("The loss is nan at step 4; lower the learning rate") == 1
    progress = load_progress(tmp_path / "out/checkpoint")
    assert progress is not None
    assert progress.step == 3


NOT_SHARED = """
import sys
from fwd2bot.cli import main
from fwd2bot.training import distributed, loop
load = loop.load_progress
loop.load_progress = lambda folder: load(folder) if distributed.leads() else None
sys.exit(main(["train", sys.argv[1]]))
"""


def test_processes_that_do_not_share_their_folder_are_told(tmp_path: Path, tiny_base: Path) -> None:
    path = written(tmp_path, settings("fwd2bot", tmp_path / "out", tiny_base))
    (run(path) / "done.json").unlink()
    (tmp_path / "not_shared.py").write_text(NOT_SHARED)
    done = torchrun([str(tmp_path / "not_shared.py"), str(path)])
    assert done.returncode == 1
    assert done.stderr.count("The processes have found different steps") == 1
    assert "0 to 6. `out` must be a folder that all of them share" in done.stderr


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
