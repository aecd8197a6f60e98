"""FastV: after a few layers, only what the prompt's last token attends to most. Needs no training.

Source: Chen et al. (2024), arXiv 2403.06764, and github.com/pkunlp-icler/FastV: before layer 2 of 32, by the attention
of layer 1; positions stay. The paper speaks of the attention of all tokens, its code takes the last one's, as here.
"""

from fwd2bot.compressors.inside import InsideCompressor
from fwd2bot.reduction import Kept, Seen, highest


class FastV(InsideCompressor):
    """Published with half, a quarter or an eighth of the visual tokens as `num_tokens`."""

    layers = (2,)

    def keep(self, seen: Seen, count: int) -> Kept:
        return highest(seen.ranked(seen.attention()), count)
