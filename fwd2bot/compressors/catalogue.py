"""The compressors by name, a line a method. A class is imported when it is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING

from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.errors import InputError

if TYPE_CHECKING:
    from fwd2bot.compressors.base import Compressor
    from fwd2bot.llava import Llava

CATALOGUE = {
    "fwd2bot": "fwd2bot.compressors.fwd2bot:Fwd2BotCompressor",
    "identity": "fwd2bot.compressors.identity:Identity",
    "average_pool": "fwd2bot.compressors.average_pool:AveragePool",
    "single_forward": "fwd2bot.compressors.single_forward:SingleForward",
    "e5v": "fwd2bot.compressors.e5v:E5V",
    "vlm2vec": "fwd2bot.compressors.vlm2vec:VLM2Vec",
    "quecc": "fwd2bot.compressors.quecc:QueCC",
    "fastv": "fwd2bot.compressors.fastv:FastV",
    "v2drop": "fwd2bot.compressors.v2drop:V2Drop",
    "illava": "fwd2bot.compressors.illava:ILLaVA",
    "text_interaction": "fwd2bot.compressors.text_interaction:TextInteraction",
    "visual_context_compressor": "fwd2bot.compressors.visual_context_compressor:VisualContextCompressor",
}


def make_compressor(llava: "Llava", config: CompressorConfig) -> "Compressor":
    """Puts the method that `config.compressor` names on a backbone. Raises InputError for an unknown name."""
    module, _, name = place_of(config.compressor).partition(":")
    compressor: Compressor = getattr(import_module(module), name)(llava, config)
    return compressor


def place_of(compressor: str) -> str:
    """Where a method's class is, "module:name". Raises InputError for an unknown name."""
    if compressor not in CATALOGUE:
        raise InputError(f"There is no compressor {compressor!r}; the compressors are {', '.join(CATALOGUE)}.")
    return CATALOGUE[compressor]
