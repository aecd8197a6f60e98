"""Runs of several processes: `main` is what each does; `outcomes` starts them and gives what the first wrote.

python tests/ranks.py JOBS.json      # with RANK, WORLD_SIZE and STORE in the environment
"""

import json
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
    """Every job: losses and gradients of each step, and the weights at the end, in double precision."""
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.FileStore(os.environ["STORE"], size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    jobs = json.loads(path.read_text())
    for name, job in jobs.items():
        out = Path(job["out"])
        out.mkdir(exist_ok=True)
        found = trained(config(job["what"], out, Path(job["base"]), steps=STEPS, **job["settings"]), job["until"])
        if rank == 0:
            save_file(found, path.parent / f"{name}.safetensors")
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


def outcomes(folder: Path, size: int, jobs: dict[str, dict[str, Any]]) -> dict[str, dict[str, torch.Tensor]]:
    """What the jobs gave, worked off by `size` processes."""
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps(jobs))
    shared = {"PYTHONPATH": os.pathsep.join(sys.path), "WORLD_SIZE": str(size), "STORE": str(folder / "store")}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder / "jobs.json")], env={**os.environ, **shared, "RANK": str(rank)}
        )
        for rank in range(size)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0] * size
    return {name: load_file(folder / f"{name}.safetensors") for name in jobs}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
