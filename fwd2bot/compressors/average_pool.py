"""Average pooling: the grid of visual tokens is averaged into a smaller grid; the language model adapts to it."""

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from fwd2bot.compressors.base import Compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.errors import InputError
from fwd2bot.llava import Llava


class AveragePool(Compressor):
    """K visual tokens, each the mean of a patch of the grid; K is a square."""

    def __init__(self, llava: Llava, config: CompressorConfig) -> None:
        super().__init__(llava, config)
        for count in config.token_counts:
            if math.isqrt(count) ** 2 != count or count > llava.num_visual_tokens:
                limit = llava.num_visual_tokens
                raise InputError(f"average_pool gives square numbers of tokens (1, 4, 9, ... {limit}), not {count}.")

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, K, D)."""
        side = math.isqrt(self.chosen_count(num_tokens))
        visual_tokens = self.llava.visual_tokens(pixels)  # (B, V, D)
        grid = visual_tokens.transpose(1, 2).unflatten(2, (self.llava.grid, self.llava.grid))  # (B, D, rows, columns)
        return adaptive_avg_pool2d(grid, side).flatten(2).transpose(1, 2)
