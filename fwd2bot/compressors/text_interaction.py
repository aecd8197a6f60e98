"""Pruning by image-text interaction: what resembles the class token, then what the question attends to. No training.

Source: Yu, Chen and Xu (2024), arXiv 2409.01162. Only its abstract could be read, and no code was published: similarity
of visual tokens to CLIP's class token has a long tail; a picture keeps those before the curve's inflection point (so
each has its own number); inside the language model those that correlate little with the text go, too.

Not verified, so chosen here: the similarity is the cosine of the features that are projected; the inflection point of
the falling curve is the one farthest below the straight line between its ends; the second pruning is where FastV's is,
before layer 2 of 32, by the attention of the prompt's tokens behind the image; it leaves `num_tokens` (so the first one
leaves at least as many), where the paper reports 22 % of the tokens on average. The paper prunes text as well; here
text stays.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fwd2bot.compressors.inside import InsideCompressor
from fwd2bot.reduction import Kept, Seen, highest


class TextInteraction(InsideCompressor):
    """What the first pruning drops are rows of zeros in a picture's tokens, which no layer sees."""

    layers = (2,)

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, V, D), zeros where a token is dropped."""
        count = self.chosen_count(num_tokens)
        (features,) = self.llava.tower_states(pixels, [self.llava.num_tower_layers])
        patches = features[:, 1:]
        similarity = F.cosine_similarity(patches.float(), features[:, :1].float(), dim=-1)  # (B, V)
        ordered, order = similarity.sort(dim=1, descending=True, stable=True)
        rank = order.argsort(dim=1)
        kept = rank < inflection(ordered).clamp(min=count)[:, None]
        return self.llava.project(patches) * kept[..., None]

    def present(self, tokens: Tensor) -> Tensor:
        return (tokens != 0).any(dim=-1)

    def keep(self, seen: Seen, count: int) -> Kept:
        return highest(seen.ranked(seen.attention(question=True)), count)


def inflection(curve: Tensor) -> Tensor:
    """How many values of a falling curve (B, V) stand before its inflection point: (B,)."""
    along = torch.linspace(0, 1, curve.shape[1], dtype=curve.dtype, device=curve.device)
    return (torch.lerp(curve[:, :1], curve[:, -1:], along) - curve).argmax(dim=1)
