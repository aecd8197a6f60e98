"""TokenPacker: a coarse grid of queries, each of which looks at its own window of the fine grid. It is the projector.

    coarse = patches resized to g x g (bilinear)                        queries, LN(W coarse)
    fine   = four levels of the tower side by side, by two MLPs         keys and values, LN(MLP(fine))
    one query attends to the s x s keys of its window -> MLP -> K = g^2 tokens

Source: TokenPacker (arXiv 2407.02392), repository CircleRadon/TokenPacker. Its levels 12, 16, 22 and 23 of the 23
layers that LLaVA-1.5 runs are the same shares of another tower's.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fwd2bot.compressors.base import Compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.compressors.grid import resized, windows
from fwd2bot.llava import Llava


class TokenPacker(Compressor):
    """K tokens, each of a window of the grid; the base's projector is not used."""

    def __init__(self, llava: Llava, config: CompressorConfig) -> None:
        super().__init__(llava, config)
        self.packer = Packer(llava.tower_width, llava.width).to(llava.device, llava.dtype)

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, K, D)."""
        side = math.isqrt(self.chosen_count(num_tokens))
        states = self.llava.tower_states(pixels, packed_levels(self.llava.num_tower_layers))
        levels = [state[:, 1:] for state in states]  # (B, V, W) each, the last the one that LLaVA reads
        packed: Tensor = self.packer(levels[-1], torch.cat(levels, dim=-1), side)
        return packed


class Packer(nn.Module):
    """From W wide patches to D wide tokens."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.query_norm = nn.LayerNorm(width, eps=1e-6)
        self.keys = nn.Sequential(*_mlp(4 * width, width), nn.LayerNorm(width, eps=1e-6))
        self.values = nn.Sequential(*_mlp(4 * width, width), nn.LayerNorm(width, eps=1e-6))
        self.attention = nn.MultiheadAttention(width, math.gcd(8, width), batch_first=True)
        self.out = nn.Sequential(*_mlp(width, out))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, patches: Tensor, levels: Tensor, side: int) -> Tensor:
        """Patches (B, V, W), levels (B, V, 4 W) -> (B, side^2, D)."""
        queries = self.query_norm(self.query(resized(patches, side)))  # (B, K, W)
        keys, values = (windows(rows, side).flatten(0, 1) for rows in (self.keys(levels), self.values(levels)))
        seen, _ = self.attention(queries.flatten(0, 1)[:, None], keys, values, need_weights=False)  # (B K, 1, W)
        tokens: Tensor = self.out(seen.view_as(queries))
        return tokens


def packed_levels(layers: int) -> list[int]:
    """The four levels that are read of a tower of which so many layers are run."""
    return [layers * level // 23 for level in (12, 16, 22, 23)]


def _mlp(width: int, out: int) -> list[nn.Module]:
    return [nn.Linear(width, out), nn.GELU(), nn.Linear(out, out)]
