"""A training run as one YAML file, checked before any work is done."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from fwd2bot.errors import InputError

_TOKENIZER = {"vocabulary": 1024, "tokenizer_scenes": 20_000}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "tower": {
        "model": {**_TOKENIZER, "image": 96, "patch": 8, "width": 192, "layers": 6, "text_layers": 3},
        "data": {"temperature": 0.05, "text_length": 72},
    },
    "language": {
        "model": {**_TOKENIZER, "width": 256, "layers": 6, "heads": 4, "hidden": 704, "context": 1024},
        "data": {"length": 240, "turns": 16, "captioning": 0.2, "listing": 1.0, "patches": 40, "finding": 0.12},
    },
    "projector": {"model": {}, "data": {}},
    "compressor": {
        "model": {},
        "data": {"length": 144, "turns": 8, "captioning": 0.3, "listing": 0.2, "sources": [], "broken": 0.01},
    },
}
"""What `model` and `data` hold for each stage, with what they are when the file does not say."""
SOURCES: dict[str, dict[str, Any]] = {
    "conversations": {"path": ..., "images": ..., "captions": None, "captions_held_out": None, "weight": 1.0},
    "captions": {"path": ..., "images": None, "weight": 1.0},
    "triplets": {"path": ...},
}
"""What an entry of `data.sources` holds beside its `kind`, with what it is when the file does not say (...: it must).

conversations: a file in the layout of LLaVA-665k, the folder of its images, a file of COCO captions for them, and
Karpathy's dataset_coco.json, whose test pictures are to get none.
captions: tar files of images with captions, {00000..00331} stands for a row of them; or a JSON file in the layout of
CC3M-595K's, with the folder of its images. weight: of its steps. triplets: of texts, for methods that learn from text
alone: a CSV file with the columns sent0, sent1 and hard_neg, as SimCSE's of NLI.
"""
AHEAD = 2
"""Batches that each of `workers` keeps ready."""
STAGES = tuple(SETTINGS)
LOSSES = ("autoregressive", "contrastive")
REPORTS = ("tensorboard", "wandb")
_LISTS = {"train_parts": "projector", "report": "tensorboard"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a run trains, on what, for how long.

    stage: "tower" (CLIP), "language" (text alone), "projector" or "compressor" (everything that answers from pictures;
        the compressor `identity` with adapters "full" is LLaVA's own training).
    out: folder of the result; its `checkpoint/` is where a killed run goes on.
    init: folders that the run starts from: `base`, or `tower` and `language`.
    model, data: settings of the stage, see `SETTINGS`. compressor: those of `CompressorConfig`.
    losses: weights of L_AR ("autoregressive") and L_disc ("contrastive"); one that is missing is off.
    contrastive_batch: pairs in one L_disc in steps of pairs alone, over all GPUs, by gradient caching; 0: batch_size.
    train_parts: parts of the base that are trained, too: "vision", "projector", "language".
    learning_rate: of Muon for the weight matrices, and `other_learning_rate` of AdamW for the rest; with the optimizer
        "adamw" the first is that of all. beta2: of AdamW; its first is 0.9.
    steps, batch_size: of the run, whatever the number of processes that share a batch.
    warmup, cooldown: shares of the steps in which the learning rate rises, and falls to zero at the end.
    clip: the most that the gradient's norm may be. validation: scenes that figures in between are taken on.
    report: where figures go beside `metrics.jsonl`: "tensorboard", "wandb".
    sharded: spread weights, gradients and optimizer state over the processes of torchrun (FSDP2) in place of a copy in
        each (DDP); with adamw, and without compile.
    workers: processes that prepare batches, where the device is faster than one core (0: in between, in this one).

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
    losses: dict[str, float] = field(default_factory=lambda: dict.fromkeys(LOSSES, 1.0))
    contrastive_batch: int = 0
    train_parts: tuple[str, ...] = ()
    optimizer: str = "muon"
    learning_rate: float = 0.004
    other_learning_rate: float = 0.001
    beta2: float = 0.98
    weight_decay: float = 0.01
    warmup: float = 0.02
    cooldown: float = 0.4
    clip: float = 1.0
    seed: int = 0
    autocast: bool = True
    compile: bool = True
    gradient_checkpointing: bool = False
    sharded: bool = False
    checkpoint_every: int = 500
    log_every: int = 50
    evaluate_every: int = 500
    validation: int = 256
    report: tuple[str, ...] = ()
    workers: int = 0

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise InputError(f"stage is {self.stage!r}; it must be one of {', '.join(STAGES)}.")
        if self.optimizer not in ("muon", "adamw"):
            raise InputError(f"optimizer is {self.optimizer!r}; it must be muon or adamw.")
        for name in ("steps", "batch_size", "checkpoint_every", "log_every", "evaluate_every", "validation"):
            _whole(name, getattr(self, name), least=1)
        _whole("seed", self.seed, least=0)
        if self.seed >= 2**63:
            raise InputError(f"seed is {self.seed}; it must be below 2 to the 63rd.")
        _whole("workers", self.workers, least=0)
        for name in ("learning_rate", "other_learning_rate", "beta2", "clip"):
            object.__setattr__(self, name, _number(name, getattr(self, name), above=0.0))
        for name in ("weight_decay", "warmup", "cooldown"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        if self.beta2 >= 1.0:
            raise InputError(f"beta2 is {self.beta2:g}; it must be less than 1.")
        for name in ("autocast", "compile", "gradient_checkpointing", "sharded"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be true or false.")
        if self.warmup + self.cooldown > 1.0:
            raise InputError(
                f"warmup and cooldown are {self.warmup + self.cooldown:g} of the steps; at most 1 is there."
            )
        _whole("contrastive_batch", self.contrastive_batch, least=0)
        if self.contrastive_batch % self.batch_size:
            raise InputError(
                f"contrastive_batch is {self.contrastive_batch}; it must be 0 or a multiple of batch_size, "
                f"which is {self.batch_size}."
            )
        if self.contrastive_batch and self.stage != "compressor":
            raise InputError(f"contrastive_batch is of stage compressor; stage {self.stage} has none.")
        if self.sharded and (self.optimizer != "adamw" or self.compile or self.stage != "compressor"):
            raise InputError("sharded: true goes with stage: compressor, optimizer: adamw and compile: false only.")
        self._check_parts()
        kinds = [source["kind"] for source in self.data.get("sources", [])]
        if "triplets" in kinds and len(kinds) > 1:
            raise InputError("data.sources: triplets stand alone; leave the other sources out.")
        if self.contrastive_batch and not self.data["sources"]:
            raise InputError(
                f"contrastive_batch is {self.contrastive_batch}, but data.sources names no pairs; the generated "
                "world has both losses in every batch, so leave it out."
            )

    def _check_parts(self) -> None:
        for name in ("model", "data"):
            given, defaults = _mapping(name, getattr(self, name)), SETTINGS[self.stage][name]
            checked = {one: _like(f"{name}.{one}", value, defaults) for one, value in given.items()}
            object.__setattr__(self, name, {**defaults, **checked})
        for name in _mapping("losses", self.losses):
            if name not in LOSSES:
                raise InputError(f"losses.{name} is no loss; the losses are {', '.join(LOSSES)}.")
        losses = {name: _number(f"losses.{name}", value) for name, value in self.losses.items()}
        object.__setattr__(self, "losses", losses)
        _mapping("compressor", self.compressor)
        for part, folder in _mapping("init", self.init).items():
            if part not in ("base", "tower", "language") or not isinstance(folder, str):
                raise InputError(f"init.{part} is {folder!r}; init names folders: base, or tower and language.")
        needed = {"projector": [{"tower", "language"}], "compressor": [{"base"}, {"tower", "language"}]}
        if self.stage in needed and set(self.init) not in needed[self.stage]:
            ways = " or ".join(" and ".join(sorted(way, reverse=True)) for way in needed[self.stage])
            raise InputError(f"A {self.stage} starts from other models: init must name {ways}.")
        for name, example in _LISTS.items():
            listed: Any = getattr(self, name)
            if not isinstance(listed, tuple) or not all(isinstance(one, str) for one in listed):
                raise InputError(f"{name} is {listed!r}; it must be a list, such as [{example}].")
        if unknown := sorted(set(self.report) - set(REPORTS)):
            raise InputError(f"report names {unknown[0]}; there are {' and '.join(REPORTS)}.")

    @property
    def writes_base(self) -> bool:
        """The result holds a base of its own: a part of it was trained, or it was put together."""
        return bool(self.train_parts) or self.compressor.get("adapters") == "full" or "base" not in self.init

    @property
    def halves_base(self) -> bool:
        """The matrices of the base, which never change, are kept in the bfloat16 that autocast would make of them."""
        return self.autocast and not self.writes_base

    def to_dict(self) -> dict[str, Any]:
        """As the YAML file could say it."""
        lists = {"train_parts": list(self.train_parts), "report": list(self.report)}
        return {**asdict(self), "out": str(self.out), **lists}

    @classmethod
    def load(cls, path: Path) -> "TrainConfig":
        """Read a YAML file. Raises InputError when it is missing, no YAML, or holds an unknown setting."""
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"The configuration {path} cannot be read: {error.strerror or error}.") from error
        except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a day that is none
            raise InputError(f"The configuration {path} is not YAML: {' '.join(str(error).split())}.") from error
        if not isinstance(values, dict):
            raise InputError(f"The configuration {path} must hold settings (name: value), one a line.")
        known = {one.name: one.default is MISSING and one.default_factory is MISSING for one in fields(cls)}
        if unknown := sorted(str(name) for name in values if name not in known):
            raise InputError(f"{path}: {unknown[0]!r} is no setting; the settings are {', '.join(sorted(known))}.")
        if missing := [name for name, required in known.items() if required and name not in values]:
            raise InputError(f"{path} lacks the setting {missing[0]!r}.")
        if not isinstance(values["out"], str) or not values["out"].strip():
            raise InputError(f"{path}: out is {values['out']!r}; it must be a folder's name.")
        values |= {"out": Path(values["out"])}
        values |= {name: tuple(values[name]) for name in _LISTS if isinstance(values.get(name), list)}
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{name} is {value!r}; it must hold settings, such as {{name: value}}.")
    return value


def _whole(name: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} is {value!r}; it must be a whole number from {least} up.")
    return value


def _number(name: str, value: Any, above: float | None = None) -> float:
    """Also what YAML takes for a string, as 1e-3. Zero is the least, or more than `above`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if isinstance(value, bool) or not (number >= 0.0 if above is None else number > above) or number == float("inf"):
        raise InputError(f"{name} is {value!r}; it must be a number {'from 0 up' if above is None else 'above 0'}.")
    return number


def _like(name: str, value: Any, defaults: Mapping[str, Any]) -> Any:
    """A setting of `model` or `data`, of its default's type."""
    short = name.partition(".")[2]
    if short not in defaults:
        known = f"those are {', '.join(defaults)}" if defaults else "this stage has none"
        raise InputError(f"{name} is no setting of this stage; {known}.")
    if isinstance(defaults[short], int):
        return _whole(name, value, least=1)
    if short == "sources":
        return _sources(name, value)
    if short == "broken" and _number(name, value) > 1.0:
        raise InputError(f"{name} is {value!r}; it is a share, at most 1.")
    return _number(name, value) if isinstance(defaults[short], float) else value


def _sources(name: str, value: Any) -> list[dict[str, Any]]:
    """`data.sources`, each entry with all of its settings."""
    if not isinstance(value, list):
        raise InputError(f"{name} is {value!r}; it must be a list of sources, such as {{kind: captions, path: a.tar}}.")
    return [_source(f"{name}[{number}]", one) for number, one in enumerate(value)]


def _source(name: str, value: Any) -> dict[str, Any]:
    given = dict(_mapping(name, value))
    kind = given.pop("kind", None)
    if kind not in SOURCES:
        raise InputError(f"{name}.kind is {kind!r}; it must be one of {', '.join(SOURCES)}.")
    defaults = SOURCES[kind]
    if unknown := [one for one in given if one not in defaults]:
        raise InputError(f"{name}.{unknown[0]} is no setting of {kind}; those are kind, {', '.join(defaults)}.")
    if missing := [one for one, default in defaults.items() if default is ... and one not in given]:
        raise InputError(f"{name} lacks the setting {missing[0]!r}.")
    source = {"kind": kind, **defaults, **given}
    for one, default in defaults.items():
        if one == "weight":
            source[one] = _number(f"{name}.weight", source[one], above=0.0)
        elif not (isinstance(source[one], str) and source[one]) and source[one] is not default:
            raise InputError(f"{name}.{one} is {source[one]!r}; it must be a file or folder, as text.")
    return source
