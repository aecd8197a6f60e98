"""Average pooling: the grid of visual tokens is averaged into a smaller grid; the language model adapts to it."""

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from fwd2bot.compressors.base import Compressor
from fwd2bot.compressors.grid import as_map


class AveragePool(Compressor):
    """K visual tokens, each the mean of a patch of the grid; K is a square."""

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, K, D)."""
        side = math.isqrt(self.chosen_count(num_tokens))
        visual_tokens = self.llava.visual_tokens(pixels)  # (B, V, D)
        return adaptive_avg_pool2d(as_map(visual_tokens), side).flatten(2).transpose(1, 2)
