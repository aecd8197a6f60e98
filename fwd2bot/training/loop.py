"""The loop: every stage, one way. Killed at any moment, it goes on from its last checkpoint when started again.

A checkpoint is one safetensors file (parameters, optimizer state, step), written to one side and renamed. Metrics go
to `metrics.jsonl`, one object a line.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fwd2bot.errors import Fwd2BotError
from fwd2bot.provenance import provenance
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.optimizers import (
    build_optimizers,
    load_optimizer_tensors,
    optimizer_tensors,
    rate_at,
    set_rate,
)
from fwd2bot.training.stage import Stage


def build_stage(config: TrainConfig) -> Stage:
    """The stage that a configuration names."""
    if config.stage == "tower":
        from fwd2bot.training.tower import TowerStage

        return TowerStage(config)
    if config.stage == "language":
        from fwd2bot.training.language import LanguageStage

        return LanguageStage(config)
    if config.stage == "projector":
        from fwd2bot.training.projector import ProjectorStage

        return ProjectorStage(config)
    from fwd2bot.training.compressor import CompressorStage

    return CompressorStage(config)


def run(config_path: Path | str) -> Path:
    """Train what a YAML file says, resuming where an earlier run was stopped; gives the folder of the result."""
    config = TrainConfig.load(Path(config_path))
    if (config.out / "done.json").exists():
        print(f"{config.out} is already trained; remove it to train anew.", file=sys.stderr)
        return config.out
    config.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    stage = build_stage(config)
    return train(stage, config)


def train(stage: Stage, config: TrainConfig) -> Path:
    """The loop itself."""
    named = {name: p for name, p in stage.module.named_parameters() if p.requires_grad}
    optimizers = build_optimizers(config, named)
    step, seconds = _resume(config, named, optimizers)
    started = last = time.monotonic()
    window: dict[str, list[float]] = {}
    while step < config.steps:
        set_rate(optimizers, rate_at(step, config))
        for name, value in _step(stage, step, named, optimizers, config).items():
            window.setdefault(name, []).append(value)
        step += 1
        now = seconds + time.monotonic() - started
        if step % config.log_every == 0 or step == config.steps:
            speed = config.log_every * config.batch_size / (time.monotonic() - last)
            last = time.monotonic()
            _log(config, {"step": step, "seconds": now, "rate": speed, **{k: sum(v) / len(v) for k, v in window.items()}})
            window = {}
        if step % config.evaluate_every == 0 or step == config.steps:
            stage.module.eval()
            with torch.no_grad():
                _log(config, {"step": step, "seconds": now, **{f"val/{k}": v for k, v in stage.evaluate().items()}})
            stage.module.train()
        if step % config.checkpoint_every == 0 or step == config.steps:
            _save(config, step, seconds + time.monotonic() - started, named, optimizers)
    stage.module.eval()
    stage.save(config.out)
    done = {"steps": step, "seconds": round(seconds + time.monotonic() - started), **provenance()}
    (config.out / "done.json").write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    return config.out


def _step(
    stage: Stage,
    step: int,
    named: dict[str, nn.Parameter],
    optimizers: list[torch.optim.Optimizer],
    config: TrainConfig,
) -> dict[str, float]:
    """Forward, backward, update; gives the losses."""
    batch = stage.batch(step)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.autocast):
        losses = stage.losses(batch, step)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
    if not torch.isfinite(total):
        raise Fwd2BotError(f"The loss is {total.item()} at step {step}: lower the learning rate; the last checkpoint is kept.")
    total.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(list(named.values()), config.clip)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {name: loss.item() for name, loss in losses.items()}


def _save(
    config: TrainConfig,
    step: int,
    seconds: float,
    named: dict[str, nn.Parameter],
    optimizers: list[torch.optim.Optimizer],
) -> None:
    tensors: dict[str, Tensor] = {f"model.{name}": p.detach() for name, p in named.items()}
    tensors |= optimizer_tensors(optimizers)
    folder = config.out / "checkpoint"
    folder.mkdir(exist_ok=True)
    beside = folder / "new.safetensors"
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, beside, metadata={"step": str(step), "seconds": str(seconds)})
    beside.replace(folder / "last.safetensors")


def _resume(
    config: TrainConfig, named: dict[str, nn.Parameter], optimizers: list[torch.optim.Optimizer]
) -> tuple[int, float]:
    """Step and seconds to go on from; (0, 0) at a new start."""
    path = config.out / "checkpoint" / "last.safetensors"
    if not path.exists():
        return 0, 0.0
    try:
        with safe_open(path, "pt") as file:
            found: dict[str, str] = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise Fwd2BotError(f"The checkpoint {path} is damaged ({error}); remove it to start anew.") from error
    expected = {f"model.{name}" for name in named}
    if expected != {name for name in tensors if name.startswith("model.")}:
        raise Fwd2BotError(f"The checkpoint {path} is of another model; remove {config.out} or choose another `out`.")
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(tensors[f"model.{name}"])
    load_optimizer_tensors(optimizers, tensors)
    print(f"Going on at step {found['step']} of {config.steps}.", file=sys.stderr)
    return int(found["step"]), float(found["seconds"])


def _log(config: TrainConfig, figures: dict[str, Any]) -> None:
    line = {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
    with (config.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    words = " ".join(f"{name} {value:.4g}" for name, value in line.items() if name != "step")
    print(f"step {line['step']}/{config.steps} {words}", file=sys.stderr, flush=True)
