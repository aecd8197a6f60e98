"""What one watches while a run trains: a line on the screen, `metrics.jsonl`, `samples.jsonl`, and what `report` names.

Of several processes the one that leads writes; the others only keep time.
"""

import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from fwd2bot.errors import InputError
from fwd2bot.training import distributed
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.distributed import tell
from fwd2bot.wording import duration

_UNITS = {"autoregressive": "L_AR", "contrastive": "L_disc"}


class Watch:
    """Collects the losses of the steps and tells them every `log_every` steps.

    Time for figures and checkpoints is part of `seconds`, not of the rate. A rate is rows a second over all processes,
    utilisation the share of the rate of large products that this device was measured to have: FLOPs of the model's
    products, what is computed again for gradient checkpointing not counted.
    """

    def __init__(self, config: TrainConfig, step: int, seconds: float) -> None:
        self.config = config
        self.before, self.first_step, self.start = seconds, step, time.monotonic()
        self.peak: float | None = None
        self.reports = [_REPORTS[name](config, step) for name in config.report] if distributed.leads() else []
        if distributed.leads():
            _forget_after(config.out / "metrics.jsonl", step)
            _forget_after(config.out / "samples.jsonl", step)
        self.mark, self.busy, self.rows = self.start, 0.0, 0
        self.flops: float | None = 0.0
        self.losses: dict[str, list[float]] = {}

    def seconds(self) -> float:
        """Of training, those before a kill included."""
        return self.before + time.monotonic() - self.start

    def step(self, step: int, losses: Mapping[str, float], rows: int, flops: float | None) -> None:
        """One step is done: number of steps so far, its losses, rows and FLOPs (None: unknown) over all processes."""
        self.busy += time.monotonic() - self.mark
        self.rows += rows
        self.flops = None if flops is None or self.flops is None else self.flops + flops
        for name, value in losses.items():
            self.losses.setdefault(name, []).append(value)
        if step % self.config.log_every == 0 or step == self.config.steps:
            self._tell(step)
            self.busy, self.rows, self.flops, self.losses = 0.0, 0, 0.0, {}
        self.mark = time.monotonic()

    def figures(self, step: int, figures: Mapping[str, float], samples: Sequence[Mapping[str, str]]) -> None:
        """Figures on what is held out, and answers with their truth."""
        line = {"step": step, "seconds": round(self.seconds(), 1)} | _rounded(figures)
        words = [f"{name.removeprefix('val/')} {value:.1f}" for name, value in figures.items()]
        self._write("metrics.jsonl", [line])
        self._write("samples.jsonl", [{"step": step, **sample} for sample in samples])
        tell(f"step {step}/{self.config.steps}  " + "  ".join(words))
        for report in self.reports:
            report.figures(step, figures)
            report.samples(step, samples)
        self.mark = time.monotonic()

    def resumed(self) -> None:
        """The next step begins now: what came before was not training."""
        self.mark = time.monotonic()

    def close(self) -> None:
        """Nothing comes any more."""
        for report in self.reports:
            report.close()

    def _tell(self, step: int) -> None:
        means = {name: sum(values) / len(values) for name, values in self.losses.items()}
        figures = {**means, "rate": self.rows / max(1e-9, self.busy)}
        if self.flops is not None:
            self.peak = self.peak or matmul_rate(distributed.device())
            figures["utilisation"] = self.flops / max(1e-9, self.busy) / (self.peak * distributed.count())
        self._write("metrics.jsonl", [{"step": step, "seconds": round(self.seconds(), 1)} | _rounded(figures)])
        for report in self.reports:
            report.figures(step, figures)
        words = [f"{_UNITS.get(name, name)} {value:.4g}" for name, value in means.items()]
        words.append(f"{figures['rate']:.1f} rows/s")
        if "utilisation" in figures:
            words.append(f"{figures['utilisation']:.0%} of the product rate")
        done = step - self.first_step
        left = (self.config.steps - step) * (time.monotonic() - self.start) / done
        tell(f"step {step}/{self.config.steps}  " + "  ".join(words) + f"  {duration(left)} left")

    def _write(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows and distributed.leads():
            with (self.config.out / name).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)


class Report(ABC):
    """Another place that figures go to."""

    @abstractmethod
    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Numbers by name."""

    @abstractmethod
    def samples(self, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        """Questions, answers and truths."""

    @abstractmethod
    def close(self) -> None:
        """Nothing comes any more."""


class _TensorBoard(Report):
    """Event files in `tensorboard/` below the run's folder; what is done again takes the place of what was."""

    def __init__(self, config: TrainConfig, step: int) -> None:
        _wanted("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(config.out / "tensorboard", purge_step=step + 1)

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def samples(self, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        lines = ["| " + " | ".join(sample.values()) + " |" for sample in samples]
        if samples:
            titles = list(samples[0])
            head = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
            self.writer.add_text("samples", "\n".join(head + lines), step)

    def close(self) -> None:
        self.writer.close()


class _WeightsAndBiases(Report):
    """A run of the project "fwd2bot", called as the folder; resumed, it goes on.

    Which one it is stands in `wandb-id`: others may have a folder of that name, too.
    """

    def __init__(self, config: TrainConfig, step: int) -> None:
        _wanted("wandb")
        kept = config.out / "wandb-id"
        if not step or not kept.exists():
            kept.write_text(uuid.uuid4().hex, encoding="utf-8")
        told = {"name": config.out.name, "id": kept.read_text("utf-8"), "resume": "allow", "dir": config.out}
        self.library: Any = import_module("wandb")
        self.run: Any = self.library.init(project="fwd2bot", **told, config=config.to_dict())

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        self.run.log(dict(figures), step=step)

    def samples(self, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        if samples:
            rows = [list(sample.values()) for sample in samples]
            self.run.log({"samples": self.library.Table(columns=list(samples[0]), data=rows)}, step=step)

    def close(self) -> None:
        self.run.finish()


_REPORTS: dict[str, type[Any]] = {"tensorboard": _TensorBoard, "wandb": _WeightsAndBiases}


def matmul_rate(device: torch.device) -> float:
    """FLOPs a second of a large product on this device, in bfloat16 where it has that, the best of some."""
    side = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if distributed.multiplies_bfloat16(device) else torch.float32
    left = torch.randn(side, side, device=device, dtype=dtype)
    best = 0.0
    for _ in range(6):
        start = time.monotonic()
        product = left @ left
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * side**3 / (time.monotonic() - start))
    assert product.shape == left.shape
    return best


def replace(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _wanted(library: str) -> None:
    if find_spec(library) is None:
        raise InputError(f"report names {library}, which is not installed; run pip install {library}, or leave it out.")


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that are done again, and one that was cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    replace(path, "".join(kept))
