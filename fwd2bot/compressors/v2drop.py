"""V2Drop: in three steps, the rows of the image that a layer changes least are dropped. Needs no training.

Source: arXiv 2509.01552 and github.com/xuyang-liu16/V2Drop: before layers 3, 17 and 22 of 32, to a half, a quarter and
one token of 576; positions stay.
"""

import torch

from fwd2bot.compressors.inside import InsideCompressor
from fwd2bot.reduction import Kept, Seen, highest


class V2Drop(InsideCompressor):
    """Half of the rows, half of those, then `num_tokens` (published: 1). The text comes later, and changes nothing."""

    layers = (3, 17, 22)
    reads_question = False

    def published(self) -> tuple[tuple[int, int], ...]:
        rows, last = self.rows_of(), self.config.num_tokens
        counts = (max(last, rows // 2), max(last, rows // 4), last)
        return tuple(zip(map(self.scaled, self.layers), counts, strict=True))

    @torch.no_grad()
    def keep(self, seen: Seen, count: int) -> Kept:
        changes = (seen.hidden - seen.previous).float().norm(dim=-1)  # (B, n)
        return highest(seen.ranked(changes), count)
