"""The compressors by name, a line a method. A class is imported when it is asked for."""

from importlib import import_module

from fwd2bot.compressors.base import Compressor, CompressorConfig
from fwd2bot.errors import InputError
from fwd2bot.llava import Llava

CATALOGUE = {
    "fwd2bot": "fwd2bot.compressors.fwd2bot:Fwd2BotCompressor",
    "identity": "fwd2bot.compressors.identity:Identity",
    "average_pool": "fwd2bot.compressors.average_pool:AveragePool",
    "single_forward": "fwd2bot.compressors.single_forward:SingleForward",
}


def make_compressor(llava: Llava, config: CompressorConfig) -> Compressor:
    """Puts the method that `config.compressor` names on a backbone. Raises InputError for an unknown name."""
    if config.compressor not in CATALOGUE:
        names = ", ".join(CATALOGUE)
        raise InputError(f"There is no compressor {config.compressor!r}; the compressors are {names}.")
    module, _, name = CATALOGUE[config.compressor].partition(":")
    compressor: Compressor = getattr(import_module(module), name)(llava, config)
    return compressor
