"""Compress only, as ICAE does it: pass 1 is Fwd2Bot's, with its LoRA; pass 2 reads with the language model as it is.

Source: In-context Autoencoder (arXiv 2307.06945), whose encoder is a language model with a LoRA and learnable memory
tokens, and whose decoder is the same model without the LoRA.
"""

from typing import ClassVar

from fwd2bot.adapters import COMPRESS
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.compressors.fwd2bot import Fwd2BotCompressor
from fwd2bot.errors import InputError
from fwd2bot.llava import Llava


class CompressOnly(Fwd2BotCompressor):
    """Fwd2Bot without an adapter in pass 2."""

    stages: ClassVar[tuple[str, ...]] = (COMPRESS,)

    def __init__(self, llava: Llava, config: CompressorConfig) -> None:
        super().__init__(llava, config)
        if config.adapters == "full":
            raise InputError("compress_only keeps the language model as it is; take adapters stage or none, not full.")
