"""MQT, Matryoshka Query Transformer: learned queries look at all patches; the first m of them are a compression to m.

    queries LN(E + T), keys LN(H + T resized to the grid), values LN(H) -> attention -> times R -> K tokens

E: learned, one a token. T: sines and cosines of the place on a grid of 16 x 16. H: patches of the tower. It is the
projector. Training draws the number of tokens anew in each step, from `token_counts`.

Source: MQT-LLaVA (arXiv 2405.19315), repository gordonhu608/MQT-LLaVA. There the keys hold T alone, so that every
picture is mixed in the same way; its authors say that both may be used, and these are the usual ones.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fwd2bot.compressors.base import Compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.compressors.grid import resized
from fwd2bot.llava import Llava

CODED = 16
"""Places a side that have a code, so at most 16 x 16 queries."""


class MatryoshkaQuery(Compressor):
    """K learned looks at the patches, none of which sees another; the base's projector is not used."""

    def __init__(self, llava: Llava, config: CompressorConfig) -> None:
        super().__init__(llava, config)
        self.resampler = Resampler(config.num_tokens, llava.tower_width, llava.width).to(llava.device, llava.dtype)

    @property
    def cuttable(self) -> bool:
        return True

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, K, D)."""
        count = self.chosen_count(num_tokens)
        (states,) = self.llava.tower_states(pixels, [self.llava.num_tower_layers])
        tokens: Tensor = self.resampler(states[:, 1:], count)
        return tokens


class Resampler(nn.Module):
    """From V patches, W wide, to as many D wide tokens as are asked for."""

    codes: Tensor

    def __init__(self, queries: int, width: int, out: int) -> None:
        super().__init__()
        self.query_embeddings = nn.Parameter(torch.empty(queries, width))
        nn.init.trunc_normal_(self.query_embeddings, std=0.02)
        self.query_norm, self.key_norm, self.value_norm = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))
        self.attention = nn.MultiheadAttention(width, math.gcd(16, width), batch_first=True)
        nn.init.trunc_normal_(self.attention.out_proj.weight, std=0.02)
        self.projection = nn.Parameter(torch.randn(width, out) / math.sqrt(out))
        self.register_buffer("codes", place_codes(CODED, width), persistent=False)

    def forward(self, patches: Tensor, count: int) -> Tensor:
        """(B, V, W) -> (B, count, D)."""
        codes = self.codes.to(patches.dtype)  # (256, W)
        queries = self.query_norm(self.query_embeddings[:count] + codes[:count]).expand(len(patches), -1, -1)
        keys = self.key_norm(patches + resized(codes[None], math.isqrt(patches.shape[1]), "bicubic"))
        seen, _ = self.attention(queries, keys, self.value_norm(patches), need_weights=False)  # (B, count, W)
        tokens: Tensor = seen @ self.projection
        return tokens


def place_codes(side: int, width: int) -> Tensor:
    """(side^2, width), in raster order: sines, then cosines of the column in one half, of the row in the other."""
    rates = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    places = torch.arange(side**2)
    angles = [axis[:, None] * rates for axis in (places % side, places // side)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()
