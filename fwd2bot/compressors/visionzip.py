"""VisionZip: the patches that the class token attends to most, and a few that gather up the rest.

Between tower and projector, without training. Attention and keys are those of the last layer that is run; F are the
tower's outputs, the class token's among them.

    dominant:   the class token and the D - 1 patches of largest attention (summed over heads), in raster order
    contextual: C targets, evenly spread over the rest; every other of the rest goes to the target whose key (mean over
                heads) is nearest by cosine; target + mean of what went to it

Source: VisionZip (arXiv 2412.04467), repository dvlab-research/VisionZip, as its code does it: the mean is added to the
target. K is split as in 64 = 54 + 10, 128 = 108 + 20, 192 = 162 + 30: C = 10 K // 64, at least 1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fwd2bot.attention import taken
from fwd2bot.compressors.base import Compressor
from fwd2bot.compressors.tower import class_attention, largest_first, queries_and_keys
from fwd2bot.losses import cosines, full_precision


class VisionZip(Compressor):
    """K tokens of the tower: the dominant ones, then the contextual ones."""

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, K, D)."""
        count, layer = self.chosen_count(num_tokens), self.llava.num_tower_layers
        contextual = contextual_count(count)
        before, states = self.llava.tower_states(pixels, [layer - 1, layer])  # (B, 1 + V, W) each
        queries, keys = queries_and_keys(self.llava, before, layer - 1)
        heads = int(self.llava.network.config.vision_config.num_attention_heads)
        attention = class_attention(queries, keys, heads)  # (B, V)
        mean_keys = keys.unflatten(2, (heads, -1)).mean(dim=2)  # (B, 1 + V, W / heads)
        return self.llava.project(zip_tokens(states, mean_keys, attention, count - contextual, contextual))


def contextual_count(count: int) -> int:
    """C of K."""
    return max(1, 10 * count // 64)


def zip_tokens(states: Tensor, keys: Tensor, attention: Tensor, dominant: int, contextual: int) -> Tensor:
    """States (B, 1 + V, W) and keys (B, 1 + V, d), class token first; attention (B, V) -> (B, D + C, W)."""
    chosen = 1 + largest_first(attention)[:, : dominant - 1]
    left = attention.new_ones(states.shape[:2]).scatter(1, chosen, 0.0)
    left[:, 0] = 0.0
    order = left.argsort(dim=1, stable=True)  # the dominant ones, then the rest, each in raster order
    kept, rest = taken(states, order[:, :dominant]), taken(states, order[:, dominant:])
    keys = taken(keys, order[:, dominant:])
    targets = torch.arange(contextual, device=states.device) * (rest.shape[1] // contextual)
    is_target = torch.zeros(rest.shape[1], dtype=torch.bool, device=states.device)
    is_target[targets] = True
    nearest = cosines(keys[:, ~is_target], keys[:, targets]).argmax(-1)  # (B, others)
    groups = F.one_hot(nearest, contextual).to(attention.dtype).transpose(1, 2)  # (B, C, others)
    sums = groups @ full_precision(rest[:, ~is_target])
    means = sums / groups.sum(-1, keepdim=True).clamp(min=1.0)
    return torch.cat([kept, (rest[:, targets] + means).to(states.dtype)], dim=1)
