"""Single forward (Tab. 7): the vision tower compresses, the language model only reads.

Learnable tokens join the patches in the tower, with a LoRA of their own ("compress"); their outputs are projected and
are the summary tokens, so they live in the language model's input space. The paper does not say how this variant
embeds for retrieval; here one pass of the language model over [tokens; prompt; summary embeddings] does, the same for
captions, with the "generate" LoRA.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fwd2bot import adapters
from fwd2bot.adapters import COMPRESS, GENERATE
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.compressors.fwd2bot import Fwd2BotCompressor
from fwd2bot.llava import VISION_LAYERS, Llava


class SingleForward(Fwd2BotCompressor):
    """K tokens of the vision tower; the tower has no order, so a row cannot be cut."""

    stages = (GENERATE,)
    text_stage = GENERATE

    def __init__(self, llava: Llava, config: CompressorConfig) -> None:
        super().__init__(llava, config)
        routes = self.routes((COMPRESS,))
        for layer in range(llava.num_tower_layers):
            adapters.attach(llava.network, f"{VISION_LAYERS}.{layer}", routes, config.rank, config.alpha)
        scale = llava.network.model.vision_tower.embeddings.position_embedding.weight.detach().float().std()
        self.tower_embeddings = nn.Parameter(
            torch.randn(config.num_tokens, llava.tower_width, device=llava.device) * scale
        )

    @property
    def cuttable(self) -> bool:
        return False

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, K, D)."""
        appended = self.tower_embeddings[: self.chosen_count(num_tokens)]
        return self.llava.visual_tokens(pixels, appended, COMPRESS)

    def embed_rows(self, tokens: Tensor) -> Tensor:
        """(B, K, D) -> (B, D), by the pass that embeds captions; the tokens enter it as they enter pass 2."""
        entering = tokens * self.config.token_scale
        return self._summarise(entering, None, self._image_prompt, tokens.shape[1]).mean(dim=1)
