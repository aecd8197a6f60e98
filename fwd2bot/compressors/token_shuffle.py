"""Token-Shuffle, its compressing half: neighbours become channels of one token.

After the projector: each visual token is made s^2 times narrower, the s x s neighbours are laid side by side as one
token of the old width, and two residual MLPs mix it.

Source: Token-Shuffle (arXiv 2504.17789), which generates images; it has no official code, and the half that takes
tokens apart again has no part here. Where s^2 does not divide the width D, channels are laid side by side in turn (the
first of all neighbours, the second, ...) and cut at D.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from fwd2bot.compressors.base import Compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.compressors.grid import windows
from fwd2bot.errors import InputError
from fwd2bot.llava import Llava


class TokenShuffle(Compressor):
    """K tokens, each a window of the grid; its weights are of one size of window."""

    def __init__(self, llava: Llava, config: CompressorConfig) -> None:
        super().__init__(llava, config)
        window = llava.num_visual_tokens // config.num_tokens
        if len(config.token_counts) > 1:
            raise InputError("token_shuffle gives one number of tokens only; leave token_counts empty.")
        if window > llava.width:
            raise InputError(
                f"token_shuffle cannot lay {window} tokens side by side in {llava.width} channels; take more tokens."
            )
        self.shuffle = Shuffle(llava.width, window).to(llava.device, llava.dtype)

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, K, D)."""
        side = math.isqrt(self.chosen_count(num_tokens))
        tokens: Tensor = self.shuffle(self.llava.visual_tokens(pixels), side)
        return tokens


class Shuffle(nn.Module):
    """From V tokens to V / window, of one width."""

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(width, math.ceil(width / window))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)) for _ in range(2)
        )

    def forward(self, tokens: Tensor, side: int) -> Tensor:
        """(B, V, D) -> (B, side^2, D)."""
        narrow = windows(self.narrow(tokens), side)  # (B, K, window, narrower)
        fused = narrow.transpose(2, 3).flatten(2)[..., : tokens.shape[2]]  # (B, K, D)
        for block in self.blocks:
            fused = fused + block(fused)
        return fused
