"""The benchmarks by name, a line each. A class is imported when it is asked for."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from fwd2bot.errors import InputError

if TYPE_CHECKING:
    from fwd2bot.evaluation.base import Benchmark

CATALOGUE = {
    "gqa": "fwd2bot.evaluation.gqa:GQA",
    "vqav2": "fwd2bot.evaluation.vqa:VQAv2",
    "vizwiz": "fwd2bot.evaluation.vqa:VizWiz",
    "textvqa": "fwd2bot.evaluation.vqa:TextVQA",
    "textvqa_without_ocr": "fwd2bot.evaluation.vqa:TextVQAWithoutOCR",
    "scienceqa": "fwd2bot.evaluation.choice:ScienceQA",
    "pope": "fwd2bot.evaluation.yes_no:POPE",
    "mme": "fwd2bot.evaluation.yes_no:MME",
    "mmbench": "fwd2bot.evaluation.choice:MMBench",
}


def open_benchmark(name: str, folder: Path, split: str | None = None) -> "Benchmark":
    """A benchmark on the folder that holds its files. Raises InputError for an unknown name, and as `Benchmark`."""
    if name not in CATALOGUE:
        raise InputError(f"There is no benchmark {name!r}; the benchmarks are {', '.join(CATALOGUE)}.")
    module, _, kind = CATALOGUE[name].partition(":")
    benchmark: Benchmark = getattr(import_module(module), kind)(folder, split)
    return benchmark
