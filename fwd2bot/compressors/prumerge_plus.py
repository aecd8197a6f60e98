"""PruMerge+: half of the patches that PruMerge keeps are those the class token attends to, half stand evenly spread.

The spread ones are every step-th patch of the raster, from step // 2 on; one may be a patch that is chosen already, and
then it stands twice. All are merged as in PruMerge.

Source: LLaVA-PruMerge (arXiv 2403.15388), repository 42Shawn/LLaVA-PruMerge, its fixed form, in which r = 1/8 gives
72 + 72 + 1 of 576 tokens. Unlike there, every patch that is not chosen is in the last token (its code leaves out others
where one is chosen twice), and where K - 1 is odd the attention chooses one more.
"""

import torch
from torch import Tensor

from fwd2bot.compressors.prumerge import PruMerge
from fwd2bot.compressors.tower import largest_first


class PruMergePlus(PruMerge):
    """K - 1 patches with what is near them, and one token of all the others."""

    def choose(self, attention: Tensor, count: int) -> Tensor:
        """(B, V) -> places (B, count): by attention, largest first; then the spread ones, in raster order."""
        spread = spread_places(attention.shape[1], count // 2)
        by_attention = largest_first(attention)[:, : count - len(spread)]
        return torch.cat([by_attention, spread.to(attention.device).expand(len(attention), -1)], dim=1)


def spread_places(patches: int, count: int) -> Tensor:
    """`count` places among so many patches: step // 2, then every step-th; the step is patches // count."""
    step = patches // max(1, count)
    return step // 2 + step * torch.arange(count)
