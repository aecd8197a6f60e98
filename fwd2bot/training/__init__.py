"""Training: one loop for every stage (tower, language model, LLaVA, compressors), resumable, driven by a YAML file.

`run` is imported when it is first used: a plan (`fwd2bot train CONFIG.yaml --plan`) needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fwd2bot.training.loop import run

__all__ = ["run"]


def __getattr__(name: str) -> object:
    if name != "run":
        raise AttributeError(f"module 'fwd2bot.training' has no attribute {name!r}")
    return getattr(import_module("fwd2bot.training.loop"), name)
