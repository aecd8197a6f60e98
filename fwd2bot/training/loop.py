"""The loop: every stage, one way. Killed at any moment, it goes on from its last checkpoint when started again.

Metrics go to `metrics.jsonl`, one object a line; what is known of a finished run to `done.json` and the model's card.
"""

import fcntl
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers.utils.logging import disable_progress_bar

from fwd2bot.errors import Fwd2BotError, InputError
from fwd2bot.provenance import provenance
from fwd2bot.training.card import last_figures, write_card
from fwd2bot.training.checkpoints import Progress, load_progress, save_progress
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.optimizers import build_optimizers, load_optimizer_tensors, optimizer_tensors, rate_at, set_rate
from fwd2bot.training.stage import Stage


def build_stage(config: TrainConfig) -> Stage:
    """The stage that a configuration names, its random weights those of the configuration's seed."""
    disable_progress_bar()
    torch.manual_seed(config.seed)
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
    """Train what a YAML file says, resuming where an earlier run was stopped; gives the folder of the result.

    Raises InputError for a configuration that cannot be used, ModelError for a base that cannot be read, Fwd2BotError
    where another run writes there, every checkpoint is damaged or another model's, or the loss is no number.
    """
    config = TrainConfig.load(Path(config_path))
    if (config.out / "done.json").exists():
        print(f"{config.out} is already trained; remove it to train anew.", file=sys.stderr)
        return config.out
    try:
        config.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out is {config.out}, which cannot be written: {error.strerror or error}.") from error
    with _alone(config.out):
        return train(build_stage(config), config)


def train(stage: Stage, config: TrainConfig) -> Path:
    """The loop itself; gives the folder of the result."""
    job = Job(stage, config)
    step, seconds = job.resume()
    clock = _Clock(seconds)
    window: dict[str, list[float]] = {}
    for batch in batches(stage, config, step):
        for name, value in job.step(batch, step).items():
            window.setdefault(name, []).append(value)
        step += 1
        last = step == config.steps
        if step % config.log_every == 0 or last:
            means = {name: sum(values) / len(values) for name, values in window.items()}
            rate = clock.lap(len(next(iter(window.values()))) * config.batch_size)
            _log(config, {"step": step, "seconds": clock.seconds(), "rate": rate, **means})
            window = {}
        if step % config.evaluate_every == 0 or last:
            _log(config, {"step": step, "seconds": clock.seconds(), **job.figures()})
        if step % config.checkpoint_every == 0 or last:
            job.save(step, clock.seconds())
    stage.module.eval()
    stage.save(config.out)
    done = {"steps": step, "seconds": round(clock.seconds()), **provenance(), "config": config.to_dict()}
    write_card(config.out, done, last_figures(config.out / "metrics.jsonl"))
    _replace(config.out / "done.json", json.dumps(done, indent=1) + "\n")
    return config.out


class Job:
    """A stage and the optimizers of what it trains: one step, one checkpoint."""

    def __init__(self, stage: Stage, config: TrainConfig) -> None:
        self.stage = stage
        self.config = config
        stage.module.to(stage.device)
        self.named = {name: p for name, p in stage.module.named_parameters() if p.requires_grad}
        self.optimizers = build_optimizers(config, self.named)

    def step(self, batch: Any, step: int) -> dict[str, float]:
        """Forward, backward, update; gives the losses. Raises Fwd2BotError when they are no number."""
        set_rate(self.optimizers, rate_at(step, self.config))
        batch = moved(batch, self.stage.device)
        with self.stage.autocast():
            losses = self.stage.losses(batch, step)
            total = torch.stack([loss.float() for loss in losses.values()]).sum()
        if not torch.isfinite(total):
            raise Fwd2BotError(
                f"The loss is {total.item()} at step {step}; lower the learning rate, remove {self.config.out} "
                "and train anew."
            )
        total.backward()
        nn.utils.clip_grad_norm_(list(self.named.values()), self.config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return {name: loss.item() for name, loss in losses.items()}

    def figures(self) -> dict[str, float]:
        """On validation scenes."""
        self.stage.module.eval()
        with torch.no_grad():
            figures = self.stage.evaluate()
        self.stage.module.train()
        return {f"val/{name}": value for name, value in figures.items()}

    def save(self, step: int, seconds: float) -> None:
        """A checkpoint. Raises Fwd2BotError where it cannot be written."""
        tensors: dict[str, Tensor] = {f"model.{name}": p for name, p in self.named.items()}
        tensors |= optimizer_tensors(self.optimizers)
        save_progress(self._folder, Progress(step=step, seconds=seconds, tensors=tensors))

    def resume(self) -> tuple[int, float]:
        """Step and seconds to go on from; (0, 0) at a new start. Raises Fwd2BotError for another model's checkpoint."""
        progress = load_progress(self._folder)
        if progress is None:
            return 0, 0.0
        found = {name: tensor.shape for name, tensor in progress.tensors.items() if name.startswith("model.")}
        if found != {f"model.{name}": parameter.shape for name, parameter in self.named.items()}:
            raise Fwd2BotError(
                f"The checkpoint in {self._folder} is of another model; remove {self.config.out} or take another `out`."
            )
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(progress.tensors[f"model.{name}"])
        load_optimizer_tensors(self.optimizers, progress.tensors)
        _forget_after(self.config.out / "metrics.jsonl", progress.step)
        print(f"Going on at step {progress.step} of {self.config.steps}.", file=sys.stderr)
        return progress.step, progress.seconds

    @property
    def _folder(self) -> Path:
        return self.config.out / "checkpoint"


class _Steps(Dataset[Any]):
    """Batches by number of the step."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __getitem__(self, step: int) -> Any:
        return self.stage.batch(step)


def batches(stage: Stage, config: TrainConfig, first: int) -> Iterator[Any]:
    """The batches from step `first` to the last; prepared by worker processes where there are any."""
    if not config.workers:
        return (stage.batch(step) for step in range(first, config.steps))
    loader = DataLoader(
        _Steps(stage),
        batch_size=None,
        sampler=range(first, config.steps),
        num_workers=config.workers,
        prefetch_factor=4,
        collate_fn=_unchanged,
    )
    return iter(loader)


def _unchanged(batch: Any) -> Any:
    return batch


class _Clock:
    """Seconds of training, those before a kill included."""

    def __init__(self, before: float) -> None:
        self.start = self.mark = time.monotonic()
        self.before = before

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start

    def lap(self, done: int) -> float:
        """How many a second since the last lap."""
        rate = done / max(1e-9, time.monotonic() - self.mark)
        self.mark = time.monotonic()
        return rate


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on a device."""
    if isinstance(batch, tuple):
        parts = [moved(part, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return batch.to(device) if hasattr(batch, "to") else batch


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Raises Fwd2BotError where another process trains into the folder; the system frees the lock of a dead one."""
    with (folder / "train.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Fwd2BotError(
                f"Another process is training into {folder}; wait for it or choose another `out`."
            ) from error
        yield


def _forget_after(metrics: Path, step: int) -> None:
    """Drop the lines of steps that are done again, and one that was cut off."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    _replace(metrics, "".join(kept))


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _log(config: TrainConfig, figures: dict[str, Any]) -> None:
    line = {name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}
    with (config.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    words = " ".join(f"{name} {value:.4g}" for name, value in line.items() if name != "step")
    print(f"step {line['step']}/{config.steps} {words}", file=sys.stderr, flush=True)
