"""A training run as one YAML file, checked before any work is done."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from fwd2bot.errors import InputError

STAGES = ("tower", "language", "projector", "compressor")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a run trains, on what, for how long.

    stage: "tower" (CLIP), "language" (text alone), "projector" or "compressor" (everything that answers from pictures; the
        compressor `identity` with adapters "full" is LLaVA's own training).
    out: folder of the result; its `checkpoint/` is where a killed run goes on.
    init: folders that the run starts from, by part.
    model, data, compressor: settings of the stage.
    warmup, cooldown: shares of the steps in which the learning rate rises, and falls to zero at the end.
    minutes: stop after that much training time, the cooldown fitted to it (None: after `steps`).

    Raises InputError for a name or value that cannot be used.
    """

    stage: str
    out: Path
    steps: int
    batch_size: int
    init: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    compressor: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=lambda: {"autoregressive": 1.0, "contrastive": 1.0})
    train_parts: tuple[str, ...] = ()
    optimizer: str = "muon"
    learning_rate: float = 0.01
    other_learning_rate: float = 0.003
    weight_decay: float = 0.01
    warmup: float = 0.02
    cooldown: float = 0.4
    clip: float = 1.0
    seed: int = 0
    autocast: bool = True
    compile: bool = True
    gradient_checkpointing: bool = False
    checkpoint_every: int = 500
    log_every: int = 50
    evaluate_every: int = 500

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise InputError(f"stage is {self.stage!r}; it must be one of {', '.join(STAGES)}.")
        if self.optimizer not in ("muon", "adamw"):
            raise InputError(f"optimizer is {self.optimizer!r}; it must be muon or adamw.")
        for name in ("steps", "batch_size", "checkpoint_every", "log_every", "evaluate_every"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be a whole number above 0.")

    @classmethod
    def load(cls, path: Path) -> "TrainConfig":
        """Read a YAML file. Raises InputError when it is missing, no YAML, or holds an unknown setting."""
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"The configuration {path} cannot be read: {error.strerror or error}.") from error
        except yaml.YAMLError as error:
            raise InputError(f"The configuration {path} is not YAML: {' '.join(str(error).split())}.") from error
        if not isinstance(values, dict):
            raise InputError(f"The configuration {path} must hold settings (name: value), one a line.")
        known = {one.name for one in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"{path}: {unknown[0]!r} is no setting; the settings are {', '.join(sorted(known))}.")
        if missing := [name for name in ("stage", "out", "steps", "batch_size") if name not in values]:
            raise InputError(f"{path} lacks the setting {missing[0]!r}.")
        values["out"] = Path(values["out"])
        values["train_parts"] = tuple(values.get("train_parts", ()))
        return cls(**values)
