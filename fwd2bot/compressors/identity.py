"""No compression: every visual token. The LLaVA itself, as it is trained and as the others are compared with it."""

from collections.abc import Sequence

from torch import Tensor

from fwd2bot.compressors.base import Compressor


class Identity(Compressor):
    """All visual tokens; there is nothing to choose, so `num_tokens` of the configuration does not count."""

    @property
    def num_tokens(self) -> int:
        return self.llava.num_visual_tokens

    @property
    def token_counts(self) -> tuple[int, ...]:
        return (self.num_tokens,)

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, V, D)."""
        self.chosen_count(num_tokens)
        return self.llava.visual_tokens(pixels)
