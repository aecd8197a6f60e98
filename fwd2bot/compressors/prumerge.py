"""PruMerge: the patches that the class token attends to most are kept, and the others are merged into them.

Between tower and projector, without training. a (V): attention of the class token in the layer after the one that is
read, as one head as wide as the tower.

    chosen: the n patches of largest a, largest first
    kept_i = H_i + sum of a_j H_j over the patches j nearest to i by cosine of their keys     one of K - 1
    last   = sum of a_j H_j over all that are not chosen                                       the K-th

Source: LLaVA-PruMerge (arXiv 2403.15388), repository 42Shawn/LLaVA-PruMerge, as its code does it: sums, no means.
Its 32 neighbours of 576 patches are a share of 1/18 on any grid. Its number of tokens follows from the pictures
(`outlier_ratio`); here, as in its training, it is fixed, so that a batch has one shape and a store one size of row.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fwd2bot.attention import taken
from fwd2bot.compressors.base import Compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.compressors.tower import class_attention, largest_first, queries_and_keys
from fwd2bot.errors import InputError
from fwd2bot.llava import Llava
from fwd2bot.losses import cosines, full_precision


class PruMerge(Compressor):
    """K - 1 patches with what is near them, and one token of all the others."""

    def __init__(self, llava: Llava, config: CompressorConfig) -> None:
        super().__init__(llava, config)
        if llava.num_tower_layers == len(llava.network.model.vision_tower.encoder.layers):
            raise InputError(
                f"{config.compressor} needs a layer of the tower after the one that is read, and this base reads the "
                "last; take a base that reads layer -2, as LLaVA-1.5 does."
            )

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, K, D)."""
        count, layer = self.chosen_count(num_tokens) - 1, self.llava.num_tower_layers
        (states,) = self.llava.tower_states(pixels, [layer])  # (B, 1 + V, width of the tower)
        queries, keys = queries_and_keys(self.llava, states, layer)
        attention = class_attention(queries, keys, heads=1)  # (B, V)
        neighbours = max(1, attention.shape[1] // 18)
        merged = merge(states[:, 1:], keys[:, 1:], attention, self.choose(attention, count), neighbours)
        return self.llava.project(merged)

    def choose(self, attention: Tensor, count: int) -> Tensor:
        """(B, V) -> places (B, count) of the patches that are kept."""
        return largest_first(attention)[:, :count]


def merge(features: Tensor, keys: Tensor, attention: Tensor, chosen: Tensor, neighbours: int) -> Tensor:
    """Features and keys (B, V, W), attention (B, V), chosen (B, n) -> (B, n + 1, W)."""
    near = cosines(taken(keys, chosen), keys)  # (B, n, V)
    itself = chosen[..., None]
    nearest = near.scatter(2, itself, -torch.inf).topk(neighbours).indices
    weights = torch.zeros_like(near).scatter(2, nearest, 1.0) * attention[:, None]
    weights = weights.scatter(2, itself, 1.0)
    others = attention.scatter(1, chosen, 0.0)[:, None]  # (B, 1, V)
    merged = torch.cat([weights, others], dim=1).to(attention.dtype) @ full_precision(features)
    return merged.to(features.dtype)


def outlier_ratio(attention: Tensor) -> float:
    """The share of patches whose attention is an outlier, above Q3 + 1.5 (Q3 - Q1) of the whole batch (B, V).

    By it the published form finds its number of tokens: int(V ratio), and the one of the others.
    """
    low, high = torch.quantile(attention.flatten(), attention.new_tensor([0.25, 0.75]))
    return float((attention > high + 1.5 * (high - low)).double().mean())
