"""What methods share that reduce the image's rows inside the language model: every visual token enters it.

So nothing small can be kept, and `num_tokens` says how many rows are left after the last reduction. None has weights
of its own; on a model with adapters they work as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fwd2bot.adapters import GENERATE
from fwd2bot.compressors.base import AnswerBatch, Compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.data.conversations import IGNORED
from fwd2bot.errors import InputError
from fwd2bot.llava import Llava
from fwd2bot.reduction import Kept, Reduction, Seen, mean_rows

DEPTH = 32
"""Layers of the language model (Vicuna 7B) that the methods' layers are given for."""


class InsideCompressor(Compressor):
    """A compressor that is also the `Reducer` of its own passes; a method says which rows stay in `keep`.

    Rows go once: in a conversation whose later turns see the earlier ones, its first question decides.

    Raises InputError for a schedule that does not fit the model, and for more than one number of tokens.
    """

    inside = True
    layers: ClassVar[tuple[int, ...]]
    """Of 32: before which the method reduces."""
    reads_question: ClassVar[bool] = True
    """What stays depends on the prompt behind the image."""

    def __init__(self, llava: Llava, config: CompressorConfig) -> None:
        super().__init__(llava, config)
        name, depth = config.compressor, len(llava.network.model.language_model.layers)
        self.depth = depth
        if len(config.token_counts) > 1:
            raise InputError(f"{name} gives one number of tokens only; leave token_counts empty.")
        if depth < 2:
            raise InputError(f"{name} works between layers of the language model, and this one has {depth}.")
        self.check(config.schedule or self.published())

    def check(self, schedule: Sequence[tuple[int, int]]) -> None:
        """Raises InputError for layers that are not there, and for rows that do not become fewer."""
        rows = [self.rows_of(), *(count for _, count in schedule)]
        layers = [layer for layer, _ in schedule]
        if max(layers) >= self.depth or sorted(layers) != layers or sorted(rows, reverse=True) != rows:
            shown = ", ".join(f"{layer}: {count}" for layer, count in schedule)
            raise InputError(
                f"{self.config.compressor} cannot reduce {rows[0]} rows as {shown}: layers must rise and stay below "
                f"{self.depth}, rows must fall."
            )

    def published(self) -> tuple[tuple[int, int], ...]:
        """The method's own schedule, ending with `num_tokens` rows."""
        (layer,) = self.layers
        return ((self.scaled(layer), self.config.num_tokens),)

    def scaled(self, layer: int) -> int:
        """The layer of this model that stands for one of 32, from 1 up."""
        return max(1, round(layer * self.depth / DEPTH))

    @property
    def counts(self) -> Mapping[int, int]:
        """Rows of the image by layer, see `Reducer`; of two reductions before one layer only the last counts."""
        return dict(self.config.schedule or self.published())

    def rows_a_layer(self, tokens: Tensor) -> float:
        present = self.present(tokens)
        entering = [tokens.shape[1]] if present is None else present.sum(dim=1).tolist()
        return sum(mean_rows(rows, self.depth, self.counts) for rows in entering) / len(entering)

    def keep(self, seen: Seen, count: int) -> Kept:
        """Which `count` rows of the image stay, see `Reducer`."""
        raise NotImplementedError("every method has its own")

    def rows_of(self, num_tokens: int | None = None) -> int:
        self.chosen_count(num_tokens)
        return self.llava.num_visual_tokens

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, V, D)."""
        self.chosen_count(num_tokens)
        return self.llava.visual_tokens(pixels)

    def generate(
        self, tokens: Tensor | None, prompts: AnswerBatch, *, max_new_tokens: int = 64, keep: Tensor | None = None
    ) -> list[list[int]]:
        """See `Compressor.generate`. Raises InputError for `keep`: this method chooses the rows itself."""
        if keep is not None:
            raise InputError(f"{self.config.compressor} chooses by itself what it shows; leave keep out.")
        return super().generate(tokens, prompts, max_new_tokens=max_new_tokens)

    def _reduction(self, batch: AnswerBatch, count: int) -> Reduction | None:
        if batch.image_position is None or not count:
            return None
        places = torch.arange(count, device=batch.ids.device) + batch.image_position
        return Reduction(self, places.expand(len(batch.ids), -1), prompt_ends(batch) + count)

    def _answer_hidden(self, tokens: Tensor | None, batch: AnswerBatch, stage: str = GENERATE) -> Tensor:
        if tokens is None or batch.turns is None or not self.reads_question:
            return super()._answer_hidden(tokens, batch, stage)
        apart, conversation, places, own = turns_apart(batch)
        found = super()._answer_hidden(tokens, apart, stage)
        hidden = found.new_zeros(*batch.ids.shape, found.shape[2])
        return hidden.index_put((conversation[:, None].expand_as(places)[own], places[own]), found[own])


def prompt_ends(batch: AnswerBatch) -> Tensor:
    """Where the last token before the first answer stands, (N,): in a prompt the last token that is real."""
    labelled = batch.labels != IGNORED
    length = torch.full_like(batch.ids[:, 0], batch.ids.shape[1]) if batch.mask is None else batch.mask.sum(dim=1)
    return torch.where(labelled.any(dim=1), labelled.to(torch.uint8).argmax(dim=1), length) - 1


def turns_apart(batch: AnswerBatch) -> tuple[AnswerBatch, Tensor, Tensor, Tensor]:
    """Each turn as a conversation of its own, so that each is asked about the picture anew.

    Gives M such conversations of length L; conversation (M,): which one a turn is of; places (M, L): where its tokens
    stand there; own (M, L): True at tokens of the turn, and at shared ones for a conversation's first turn.
    """
    assert batch.turns is not None
    numbers = torch.arange(1, int(batch.turns.max()) + 1, device=batch.ids.device)
    answered = ((batch.turns[:, None] == numbers[:, None]) & (batch.labels != IGNORED)[:, None]).any(dim=2)
    conversation, turn = answered.nonzero(as_tuple=True)
    turns, number = batch.turns[conversation], numbers[turn, None]
    member = (turns == 0) | (turns == number)  # (M, T)
    places = member.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, : int(member.sum(dim=1).max())]
    real = member.gather(1, places)
    apart = replace(
        batch,
        ids=batch.ids[conversation].gather(1, places),
        labels=batch.labels[conversation].gather(1, places).masked_fill(~real, IGNORED),
        image_index=conversation if batch.image_index is None else batch.image_index[conversation],
        mask=real,
        turns=None,
    )
    first = F.pad(conversation.diff() > 0, (1, 0), value=True)
    own = real & ((turns.gather(1, places) == number) | first[:, None])
    return apart, conversation, places, own
