"""The visual context compressor (LLaVolta): the language model averages runs of the image's rows on the way. Trained.

Source: Chen et al. (2024), "Efficient large multi-modal models via visual context compression", and
github.com/Beckschen/LLaVolta. Runs of rows follow the raster, not the grid; a run takes the mean of its positions,
rounded down. As published, of 576 tokens and 32 layers:

    heavy         num_tokens 72, which is also what no schedule means: runs of 8, before layer 2
    light         num_tokens 72, schedule [[16, 72]]
    four stages   num_tokens 576, schedule [[2, 72], [2, 288], [16, 288], [16, 576]]
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from fwd2bot.compressors.inside import InsideCompressor
from fwd2bot.errors import InputError
from fwd2bot.reduction import Kept, Seen


class VisualContextCompressor(InsideCompressor):
    """The pairs of a schedule follow one another in training, each for the same share of it; the last one stays."""

    layers = (2,)
    reads_question = False

    def check(self, schedule: Sequence[tuple[int, int]]) -> None:
        for stage in schedule:
            super().check([stage])
            if self.rows_of() % stage[1]:
                rows = self.rows_of()
                raise InputError(f"visual_context_compressor cannot average {rows} rows to {stage[1]}; take a divisor.")

    @property
    def counts(self) -> Mapping[int, int]:
        stages = self.config.schedule or self.published()
        stage = min(int(self.progress * len(stages)), len(stages) - 1) if self.training else -1
        return dict([stages[stage]])

    def keep(self, seen: Seen, count: int) -> Kept:
        runs: Tensor = seen.hidden.unflatten(1, (count, -1))  # (B, m, run, D)
        positions = seen.positions.unflatten(1, (count, -1))
        places = positions.new_tensor(range(0, seen.hidden.shape[1], runs.shape[2])).expand(len(runs), -1)
        return Kept(places, runs.mean(dim=2), positions.sum(dim=2) // runs.shape[2])
