"""M3, Matryoshka Multimodal Models: average pooling at several scales, all of which are trained in every step.

The grid of visual tokens is averaged over windows of 24, 8, 4, 2, 1 tokens a side (576 -> 1, 9, 36, 144, 576), so a
coarse set is the finer one pooled. `token_counts` says which scales there are; the loss is the mean over them, and
nothing tells the language model which one it sees.

Source: Matryoshka Multimodal Models (arXiv 2405.17430), repository mu-cai/matryoshka-mm. Unlike there, what is trained
is what `adapters` and `train_parts` say; the published script tunes the whole language model.
"""

from typing import ClassVar

from fwd2bot.compressors.average_pool import AveragePool


class MatryoshkaMultimodal(AveragePool):
    """K visual tokens, each the mean of a whole window of the grid."""

    every_count: ClassVar[bool] = True
