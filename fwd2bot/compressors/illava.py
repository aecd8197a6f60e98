"""iLLaVA: the tower and the language model merge what is attended to least into one row, again and again. No training.

Source: Hu et al. (2024), arXiv 2412.06263, and github.com/hulianyuyy/iLLaVA. Published for a tower of 27 layers and 729
tokens: 92 are merged away in each of its layers 5 to 8, then 30 % of the rest before layer 8 of 32 of the language
model. Here, for CLIP, the class token takes no part in a merge, and shares and layers are scaled.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fwd2bot import attention
from fwd2bot.compressors.inside import InsideCompressor
from fwd2bot.reduction import Kept, Seen

TOWER_DEPTH, TOWER_TOKENS = 27, 729
TOWER_LAYERS, MERGED = (5, 6, 7, 8), 92


class ILLaVA(InsideCompressor):
    """`num_tokens` rows are left by the language model (published: 70 % of those that the tower gives)."""

    layers = (8,)

    def rows_of(self, num_tokens: int | None = None) -> int:
        return super().rows_of(num_tokens) - sum(self.merged_in_tower().values())

    def merged_in_tower(self) -> dict[int, int]:
        """By layer of the tower: how many tokens are merged away there."""
        tower = self.llava.network.config.vision_config.num_hidden_layers
        layers = sorted({max(1, round(layer * tower / TOWER_DEPTH)) for layer in TOWER_LAYERS})
        total = round(self.llava.num_visual_tokens * MERGED * len(TOWER_LAYERS) / TOWER_TOKENS)
        done = [total * index // len(layers) for index in range(len(layers) + 1)]
        return {layer: after - before for layer, before, after in zip(layers, done, done[1:], strict=False)}

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, rows_of(), D)."""
        self.chosen_count(num_tokens)
        return self.llava.visual_tokens(pixels, run_block=self._run_block)

    def keep(self, seen: Seen, count: int) -> Kept:
        ranked = seen.ranked(seen.attention())
        return merged(seen.hidden, ranked.flip(1), count)

    def _run_block(self, index: int, block: nn.Module, hidden: Tensor) -> Tensor:
        """A layer of CLIP, which merges between its attention and its MLP: (B, 1 + n, C) -> (B, 1 + m, C)."""
        layer: Any = block
        normed = layer.layer_norm1(hidden)
        hidden = hidden + layer.self_attn(normed)[0]
        if fewer := self.merged_in_tower().get(index):
            received = attention.weights(layer.self_attn, normed).mean(dim=1)[:, 1:]  # (B, n)
            patches = hidden[:, 1:]
            kept = merged(patches, received.argsort(dim=1, stable=True), patches.shape[1] - fewer)
            assert kept.hidden is not None
            hidden = torch.cat([hidden[:, :1], kept.hidden], dim=1)
        outputs: Tensor = hidden + layer.mlp(layer.layer_norm2(hidden))
        return outputs


def merged(rows: Tensor, ranked: Tensor, count: int) -> Kept:
    """So many of the rows (B, n, D): the lowest become one, in which the lowest counts most.

    ranked (B, n): the rows' places, the lowest first. Of the n - count + 1 lowest the weights fall to 1, and their mean
    stands in the place of the highest of them.
    """
    group = ranked[:, : rows.shape[1] - count + 1]
    share = torch.arange(group.shape[1], 0, -1, device=rows.device, dtype=torch.float32)
    mean = (attention.taken(rows, group).float() * (share / share.sum())[:, None]).sum(dim=1, keepdim=True)
    changed = rows.scatter(1, group[:, -1:, None].expand_as(mean), mean.to(rows.dtype))
    places = ranked[:, group.shape[1] - 1 :].sort(dim=1).values
    return Kept(places, attention.taken(changed, places))
