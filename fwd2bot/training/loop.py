"""The loop: every stage, one way. Killed at any moment, it goes on from its last checkpoint when started again.

Metrics go to `metrics.jsonl`, one object a line; what is known of a finished run to `done.json` and the model's card.
"""

import fcntl
import json
import math
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
from fwd2bot.training import distributed
from fwd2bot.training.card import last_figures, write_card
from fwd2bot.training.checkpoints import Progress, load_progress, save_progress
from fwd2bot.training.config import AHEAD, TrainConfig
from fwd2bot.training.distributed import tell
from fwd2bot.training.optimizers import (
    begin_state,
    build_optimizers,
    load_optimizer_tensors,
    optimizer_tensors,
    rate_at,
    set_rate,
)
from fwd2bot.training.progress import Watch, replace
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
    where another run writes there, every checkpoint is damaged or another model's, the loss is no number, or another
    process of the run is gone.
    """
    config = TrainConfig.load(Path(config_path))
    if (config.out / "done.json").exists():
        tell(f"{config.out} is already trained; remove it to train anew.")
        return config.out
    distributed.check(config)
    try:
        config.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out is {config.out}, which cannot be written: {error.strerror or error}.") from error
    with _alone(config.out), distributed.together():
        distributed.start()
        return train(build_stage(config), config)


def train(stage: Stage, config: TrainConfig) -> Path:
    """The loop itself; gives the folder of the result."""
    job = Job(stage, config)
    step, seconds = job.resume()
    if config.autocast and not stage.in_bfloat16:
        tell("This processor has no instructions for bfloat16: matrix products are taken in float32.")
    watch = Watch(config, step, seconds)
    for batch in batches(stage, config, step):
        losses = job.step(batch, step)
        step += 1
        last = step == config.steps
        watch.step(step, losses, stage.rows(batch), stage.flops(batch) if distributed.leads() else None)
        if step % config.evaluate_every == 0 or last:
            watch.figures(step, *job.held_out())
        if step % config.checkpoint_every == 0 or last:
            job.save(step, watch.seconds())
            watch.resumed()
    watch.close()
    result = job.result()
    if distributed.leads():
        _finish(result, config, step, watch.seconds())
    distributed.wait()
    return config.out


def _finish(stage: Stage, config: TrainConfig, step: int, seconds: float) -> None:
    """The result with its card; last what says that the run is over."""
    stage.module.eval()
    stage.save(config.out)
    precision = "bfloat16" if stage.in_bfloat16 else "float32"
    made_with = {"precision": precision, **provenance(), "config": config.to_dict()}
    done = {"steps": step, "seconds": round(seconds), **made_with}
    write_card(config.out, done, last_figures(config.out / "metrics.jsonl"))
    replace(config.out / "done.json", json.dumps(done, indent=1) + "\n")


class Job:
    """A stage and the optimizers of what it trains: one step, one checkpoint."""

    def __init__(self, stage: Stage, config: TrainConfig) -> None:
        self.stage = stage
        self.config = config
        if config.sharded:
            self.losses: Any = distributed.shard(_Losses(stage), stage.layers, autocast=stage.in_bfloat16)
        else:
            self.losses = distributed.replicate(_Losses(stage).to(stage.device), varied=stage.varied)
        self.named = {name: p for name, p in stage.module.named_parameters() if p.requires_grad}
        self.optimizers = build_optimizers(config, self.named)

    def step(self, batch: Any, step: int) -> dict[str, float]:
        """Forward, backward, update; gives the losses. Raises Fwd2BotError when they are no number."""
        set_rate(self.optimizers, rate_at(step, self.config))
        batch = moved(batch, self.stage.device)
        with self.stage.autocast():
            losses: dict[str, Tensor] = self.losses(batch, step)
            total = torch.stack(list(losses.values())).sum()
        figures = distributed.means(losses)
        if not math.isfinite(sum(figures.values())):
            distributed.stop(
                Fwd2BotError(
                    f"The loss is {sum(figures.values())} at step {step}; lower the learning rate, remove "
                    f"{self.config.out} and train anew."
                )
            )
        total.backward()
        nn.utils.clip_grad_norm_(list(self.named.values()), self.config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return figures

    def held_out(self) -> tuple[dict[str, float], list[dict[str, str]]]:
        """Figures on validation scenes, and answers as they are now.

        No answers where the model is spread: its processes could differ about an answer's end.
        """
        self.stage.module.eval()
        with torch.no_grad(), distributed.gathered_outside(self.losses):
            figures = self.stage.evaluate()
            samples = [] if self.config.sharded else self.stage.answer_samples()
        self.stage.module.train()
        return {f"val/{name}": value for name, value in figures.items()}, samples

    def save(self, step: int, seconds: float) -> None:
        """A checkpoint. Raises Fwd2BotError where it cannot be written."""
        if self.config.sharded:
            from fwd2bot.training.sharded import save_shards

            save_shards(self._folder, step, seconds, self._tensors())
        elif distributed.leads():
            save_progress(self._folder, Progress(step=step, seconds=seconds, tensors=self._tensors()))

    def resume(self) -> tuple[int, float]:
        """Step and seconds to go on from; (0, 0) at a new start. Raises Fwd2BotError for another model's checkpoint."""
        step, seconds = self._resume_sharded() if self.config.sharded else self._resume()
        distributed.agree(step, f"steps in {self._folder}")
        if step:
            tell(f"Going on at step {step} of {self.config.steps}.")
        return step, seconds

    def result(self) -> Stage:
        """The stage, trained and whole; every process calls it."""
        if not self.config.sharded:
            return self.stage
        trained: dict[str, Tensor] = {}
        for name, parameter in self.named.items():
            full = distributed.full(parameter.detach())
            if distributed.leads():
                trained[name] = full.cpu()
        if not distributed.leads():
            return self.stage
        whole = self.stage.anew()
        with torch.no_grad():
            for name, parameter in whole.module.named_parameters():
                if name in trained:
                    parameter.copy_(trained[name])
        return whole

    def _tensors(self) -> dict[str, Tensor]:
        """All that changes in training, as it is in memory."""
        weights: dict[str, Tensor] = {f"model.{name}": p for name, p in self.named.items()}
        return weights | optimizer_tensors(self.optimizers)

    def _resume_sharded(self) -> tuple[int, float]:
        from fwd2bot.training.sharded import load_shards

        begin_state(self.optimizers)
        tensors = self._tensors()
        with torch.no_grad():
            found = load_shards(self._folder, tensors)
        load_optimizer_tensors(self.optimizers, tensors if found else {})  # without the state that is not there yet
        return found or (0, 0.0)

    def _resume(self) -> tuple[int, float]:
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
        return progress.step, progress.seconds

    @property
    def _folder(self) -> Path:
        return self.config.out / "checkpoint"


class _Losses(nn.Module):
    """A step's losses as a module: what torch's engines for several processes take."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.trained = stage.module

    def forward(self, batch: Any, step: int) -> dict[str, Tensor]:
        return self.stage.losses(batch, step)


class _Steps(Dataset[Any]):
    """Batches by number of the step."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __getitem__(self, step: int) -> Any:
        """The batch, or the user's mistake that was met: torch would raise it with a traceback in its sentence."""
        try:
            return self.stage.batch(step)
        except Fwd2BotError as error:
            return error


def batches(stage: Stage, config: TrainConfig, first: int) -> Iterator[Any]:
    """The batches from step `first` to the last; prepared by worker processes where there are any.

    These are forked: they share the stage as it is, which another process would have to be sent.
    """
    if not config.workers:
        yield from (stage.batch(step) for step in range(first, config.steps))
        return
    loader = DataLoader(
        _Steps(stage),
        batch_size=None,
        sampler=range(first, config.steps),
        num_workers=config.workers,
        prefetch_factor=AHEAD,
        collate_fn=_unchanged,
        multiprocessing_context="fork",
    )
    try:
        for batch in loader:
            if isinstance(batch, Fwd2BotError):
                raise batch
            yield batch
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise Fwd2BotError(
            f"A process that prepares batches was killed, for want of memory it seems: of shared memory (/dev/shm; "
            f"docker run --shm-size), where each of {config.workers} keeps {AHEAD} batches, or of any. Give it more, "
            "or lower workers."
        ) from error


def _unchanged(batch: Any) -> Any:
    return batch


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on a device."""
    if isinstance(batch, tuple):
        parts = [moved(part, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return batch.to(device) if hasattr(batch, "to") else batch


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Raises Fwd2BotError where another run trains into the folder; the system frees the lock of a dead one.

    The lock is the process's own (POSIX): workers that outlive a killed run do not hold it. It would be given up with
    any handle of the file, so nothing else opens that.
    """
    if not distributed.leads():
        yield
        return
    with (folder / "train.lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Fwd2BotError(
                f"Another process is training into {folder}; wait for it or choose another `out`."
            ) from error
        yield
