"""Training runs of a second: configurations, and a chain of tiny untrained models that they start from."""

from pathlib import Path
from typing import Any

import torch
import yaml

from fwd2bot.checkpoint import load_model, save_model
from fwd2bot.compressors.catalogue import make_compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.training.compressor import assemble_llava
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.loop import build_stage

TOKENIZER = {"vocabulary": 400, "tokenizer_scenes": 50}
QUICK = {"steps": 6, "batch_size": 2, "validation": 4, "log_every": 1, "evaluate_every": 3, "checkpoint_every": 3}
MODEL = {
    "tower": {**TOKENIZER, "image": 32, "patch": 8, "width": 64, "layers": 2, "text_layers": 1},
    "language": {**TOKENIZER, "width": 32, "layers": 2, "heads": 2, "hidden": 48, "context": 384},
}
COMPRESSOR = {
    "identity": {"compressor": "identity", "adapters": "full", "num_tokens": 16, "template": "short"},
    "average_pool": {"compressor": "average_pool", "num_tokens": 4, "rank": 2, "alpha": 4.0, "template": "short"},
    "fwd2bot": {
        "compressor": "fwd2bot", "num_tokens": 4, "token_counts": [1, 2, 4], "rank": 2, "alpha": 4.0,
        "template": "short",
    },
    "e5v": {"compressor": "e5v", "rank": 2, "alpha": 4.0, "template": "short"},
    "vlm2vec": {"compressor": "vlm2vec", "rank": 2, "alpha": 4.0, "template": "short", "temperature": 0.02},
}  # fmt: skip


def settings(what: str, out: Path, base: Path, **more: Any) -> dict[str, Any]:
    """The settings of a run: a stage, or a compressor by its name on the tiny `base`."""
    values: dict[str, Any] = {"out": str(out), "compile": False, "autocast": False, **QUICK}
    if what in MODEL:
        values |= {"stage": what, "model": MODEL[what]}
    elif what == "projector":
        values |= {"stage": what, "init": {part: str(base.parent / part) for part in MODEL}}
    else:
        values |= {"stage": "compressor", "init": {"base": str(base)}, "compressor": COMPRESSOR[what]}
        values |= {"data": {"turns": 4}, "train_parts": ["projector"] if what == "identity" else []}
        values |= {} if what == "identity" else {"optimizer": "adamw", "learning_rate": 0.003, "weight_decay": 0.0}
    return {**values, **more}


def config(what: str, out: Path, base: Path, **more: Any) -> TrainConfig:
    """The same, checked."""
    values = settings(what, out, base, **more)
    return TrainConfig(**{**values, "out": out, "train_parts": tuple(values.get("train_parts", ()))})


def written(folder: Path, values: dict[str, Any]) -> Path:
    """A YAML file of the settings."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def untrained_base(folder: Path) -> Path:
    """A tower, a language model and the LLaVA of both below `folder`, as drawn at random; gives the LLaVA's folder."""
    torch.manual_seed(0)
    for part in MODEL:
        (folder / part).mkdir(parents=True)
        build_stage(config(part, folder / part, folder / "base")).save(folder / part)
    llava = assemble_llava({part: str(folder / part) for part in MODEL})
    save_model(folder / "base", make_compressor(llava, CompressorConfig.from_dict(COMPRESSOR["identity"])))
    return folder / "base"


def saved_fwd2bot(folder: Path, base: Path) -> Path:
    """A Fwd2Bot of random weights, the same every time, on the LLaVA in `base`; gives the folder."""
    torch.manual_seed(1)
    compressor = make_compressor(load_model(base).llava, CompressorConfig.from_dict(COMPRESSOR["fwd2bot"]))
    save_model(folder, compressor)
    return folder
