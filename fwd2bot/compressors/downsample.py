"""Downsampling: the grid of visual tokens is resized to a smaller grid, as a small picture is made of a large one.

Bilinear interpolation after the projector, without antialiasing: each output lies at the centre of its cell and reads
the (at most four) tokens around that point. So where a cell is 2 x 2 tokens this is average pooling; of 3 x 3 it keeps
the middle one, and of larger cells the 2 x 2 in the middle, where average pooling takes the mean of all.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from fwd2bot.compressors.base import Compressor
from fwd2bot.compressors.grid import resized


class Downsample(Compressor):
    """K visual tokens, interpolated; K is a square."""

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, K, D)."""
        side = math.isqrt(self.chosen_count(num_tokens))
        return resized(self.llava.visual_tokens(pixels), side)
