"""The benchmarks by name, a line each. A class is imported when it is asked for."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from fwd2bot.errors import InputError

if TYPE_CHECKING:
    from fwd2bot.evaluation.base import Benchmark, VectorBenchmark

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
    "coco_captions": "fwd2bot.evaluation.captions:CocoCaptions",
    "flickr30k_captions": "fwd2bot.evaluation.captions:Flickr30kCaptions",
    "nocaps_captions": "fwd2bot.evaluation.captions:NocapsCaptions",
    "textcaps": "fwd2bot.evaluation.captions:TextCaps",
    "coco_retrieval": "fwd2bot.evaluation.retrieval:CocoRetrieval",
    "flickr30k_retrieval": "fwd2bot.evaluation.retrieval:Flickr30kRetrieval",
    "nocaps_retrieval": "fwd2bot.evaluation.retrieval:NocapsRetrieval",
    "sugarcrepe": "fwd2bot.evaluation.sugarcrepe:SugarCrepe",
}


def open_benchmark(name: str, folder: Path, split: str | None = None) -> "Benchmark | VectorBenchmark":
    """A benchmark on the folder that holds its files. Raises InputError for an unknown name, and as `Opened`."""
    if name not in CATALOGUE:
        raise InputError(f"There is no benchmark {name!r}; the benchmarks are {', '.join(CATALOGUE)}.")
    module, _, kind = CATALOGUE[name].partition(":")
    benchmark: Benchmark | VectorBenchmark = getattr(import_module(module), kind)(folder, split)
    return benchmark


def folder_name(name: str) -> str:
    """A benchmark's folder below that of all; captions and retrieval share one: that of coco_captions is coco."""
    return name.removesuffix("_captions").removesuffix("_retrieval").removesuffix("_without_ocr")
