"""Compress each image into a handful of tokens once; answer, caption and search from those tokens ever after.

    model = fwd2bot.load("emoji-world")
    tokens = model.compress(["fox.png"])
    model.answer(tokens, ["what is at the top left ?"])

The names below are imported when they are first used: `import fwd2bot` alone loads neither torch nor Lance.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fwd2bot.model import Fwd2Bot, load
    from fwd2bot.store import Store

__version__ = "0.1.0"
__all__ = ["Fwd2Bot", "Store", "__version__", "load"]

_HOMES = {"Fwd2Bot": "fwd2bot.model", "Store": "fwd2bot.store", "load": "fwd2bot.model"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'fwd2bot' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
