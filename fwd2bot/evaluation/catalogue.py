"""The benchmarks by name, a line each. A class is imported when it is asked for."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from fwd2bot.errors import InputError

if TYPE_CHECKING:
    from fwd2bot.evaluation.base import Benchmark, VectorBenchmark

CATALOGUE = {
    "coco_captions": "fwd2bot.evaluation.captions:CocoCaptions",
    "flickr30k_captions": "fwd2bot.evaluation.captions:Flickr30kCaptions",
    "nocaps_captions": "fwd2bot.evaluation.captions:NocapsCaptions",
    "textcaps": "fwd2bot.evaluation.captions:TextCaps",
    "coco_retrieval": "fwd2bot.evaluation.retrieval:CocoRetrieval",
    "flickr30k_retrieval": "fwd2bot.evaluation.retrieval:Flickr30kRetrieval",
    "nocaps_retrieval": "fwd2bot.evaluation.retrieval:NocapsRetrieval",
    "sugarcrepe": "fwd2bot.evaluation.sugarcrepe:SugarCrepe",
}


def make_benchmark(name: str, folder: Path, split: str | None = None) -> "Benchmark | VectorBenchmark":
    """Opens a benchmark on its folder. Raises InputError for an unknown name or split."""
    if name not in CATALOGUE:
        raise InputError(f"There is no benchmark {name!r}; the benchmarks are {', '.join(CATALOGUE)}.")
    module, _, kind = CATALOGUE[name].partition(":")
    benchmark: Benchmark | VectorBenchmark = getattr(import_module(module), kind)(folder, split)
    return benchmark


def folder_name(name: str) -> str:
    """The folder of a benchmark below that of all: captions and retrieval share one, coco_captions' is coco."""
    return name.removesuffix("_captions").removesuffix("_retrieval")
