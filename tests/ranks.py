"""Runs of several processes: `outcomes` starts them, all forked from one, and gives what the first of each wrote."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from tiny_runs import config

from fwd2bot.training.config import TrainConfig
from fwd2bot.training.distributed import full
from fwd2bot.training.loop import Job, build_stage

STEPS = 20


def main(path: Path) -> None:
    """One group of processes after the other: its jobs' losses, gradients and weights, in double precision."""
    torch.set_num_threads(1)
    for number, (size, jobs) in enumerate(json.loads(path.read_text())):
        store = str(path.parent / f"store-{number}")
        ranks = [
            multiprocessing.get_context("fork").Process(target=work, args=(rank, size, store, jobs))
            for rank in range(size)
        ]
        for one in ranks:
            one.start()
        for one in ranks:
            one.join()
        if any(one.exitcode for one in ranks):
            raise SystemExit(1)


def work(rank: int, size: int, store: str, jobs: dict[str, dict[str, Any]]) -> None:
    """What one process of a group does."""
    os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(size)})
    dist.init_process_group("gloo", store=dist.FileStore(store, size), rank=rank, world_size=size)
    for name, job in jobs.items():
        out = Path(job["out"])
        out.mkdir(exist_ok=True)
        found = trained(config(job["what"], out, Path(job["base"]), steps=STEPS, **job["settings"]), job["until"])
        if rank == 0:
            save_file(found, Path(store).parent / f"{name}.safetensors")
    dist.destroy_process_group()


def trained(settings: TrainConfig, until: int) -> dict[str, torch.Tensor]:
    """Go on from the last checkpoint, if there is one, up to a step, and save the next."""
    stage = build_stage(settings)
    stage.module.double()
    job = Job(stage, settings)
    found: dict[str, torch.Tensor] = {}
    clip = torch.nn.utils.clip_grad_norm_

    def seen(parameters: Any, most: float) -> torch.Tensor:
        for name, parameter in job.named.items():
            if parameter.grad is not None:
                found[f"gradient.{step}.{name}"] = full(parameter.grad).clone()
        return clip(parameters, most)

    torch.nn.utils.clip_grad_norm_ = seen
    for step in range(job.resume()[0], until):
        for name, value in job.step(stage.batch(step), step).items():
            found[f"loss.{step}.{name}"] = torch.tensor(value, dtype=torch.float64)
    torch.nn.utils.clip_grad_norm_ = clip
    job.save(until, 0.0)
    return found | {f"weight.{name}": full(parameter.detach()).clone() for name, parameter in job.named.items()}


def job(what: str, base: Path, out: Path, *, until: int = STEPS, **settings: Any) -> dict[str, Any]:
    """A training for `outcomes`."""
    return {"what": what, "base": str(base), "out": str(out), "until": until, "settings": settings}


def outcomes(folder: Path, groups: list[tuple[int, dict[str, dict[str, Any]]]]) -> dict[str, dict[str, torch.Tensor]]:
    """What all jobs gave, by name; each group is a number of processes with its jobs, one group after the other."""
    (folder / "groups.json").write_text(json.dumps(groups))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, __file__, str(folder / "groups.json")], env=environment, check=True, timeout=300)
    return {name: load_file(folder / f"{name}.safetensors") for _, jobs in groups for name in jobs}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
