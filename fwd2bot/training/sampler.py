"""Which records each step reads (Sec. 3.4): batches of one kind, L_disc as often as L_AR, near lengths together.

Everything follows from the step, so a run that is resumed needs its step and nothing else, and every process of a run
finds its part of a batch by itself.
"""

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from fwd2bot.data.mixture import Mixture, permuted, scramble, shares_of_rest, spread
from fwd2bot.data.records import Kind, Source, Subset, of_kind
from fwd2bot.errors import InputError

BOTH = Kind.IMAGE | Kind.TURNS | Kind.CAPTION
PAIR = Kind.IMAGE | Kind.CAPTION
CONVERSATION = Kind.IMAGE | Kind.TURNS
TEXT = Kind.TURNS
ORDER = (BOTH, PAIR, CONVERSATION, TEXT)
"""Kinds of batches. The first two can have L_disc, all but the second L_AR. In this order pairs and conversations
without a caption alternate whatever comes between, so the losses never drift apart."""
WINDOW = 32
"""Batches that are cut from one stretch of records, sorted by length."""


class Batch(NamedTuple):
    """What one step reads: records of one kind, as (source, index)."""

    kind: Kind
    records: list[tuple[Source, int]]


class Sampler:
    """The batches of a run, by step.

    Conversations come in their natural proportions, sources by weight: with a captioned image (`BOTH`: both losses),
    about an image, or text alone. Pairs come as often as the latter two together, so that both losses are taken
    equally often from the start of a run on; where there is none of the two, every other step is of pairs.

    sources: with weights; those of conversations share the steps of L_AR, those of pairs theirs. batch_size: records a
    step; pairs: in a step of pairs. A loss that is off takes its kinds with it.

    Raises InputError where nothing is left to learn from, or a batch of L_disc must hold a pair twice.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Source, float]],
        *,
        batch_size: int,
        pairs: int,
        seed: int = 0,
        autoregressive: bool = True,
        contrastive: bool = True,
    ) -> None:
        wanted = [k for k in ORDER if (autoregressive and Kind.TURNS in k) or (contrastive and PAIR in k)]
        parts = {kind: found for kind in wanted if (found := _parts(sources, kind, wanted))}
        if not parts:
            raise InputError("The sources hold nothing that these losses can be taken on: add a source, or a loss.")
        shares = {kind: sum((share for _, share in found), Fraction(0)) for kind, found in parts.items()}
        if PAIR in shares:
            shares[PAIR] = sum((shares.get(kind, Fraction(0)) for kind in (CONVERSATION, TEXT)), Fraction(0))
            shares[PAIR] = shares[PAIR] or shares.get(BOTH, Fraction(1))
        self._seed = seed
        self._kinds = list(parts)
        self._shares = shares_of_rest(list(shares.values()))
        self._sizes = {kind: pairs if kind == PAIR else batch_size for kind in parts}
        self._mixtures = {
            kind: Mixture([(part, float(share)) for part, share in found], seed) for kind, found in parts.items()
        }
        self._contrasted = [kind for kind in self._kinds if contrastive and PAIR in kind]
        for kind in self._contrasted:
            _check_distinct(parts[kind], self._sizes[kind])
        self._cuts: dict[Kind, tuple[int, list[list[tuple[Source, int]]]]] = {}

    def at(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The batch of a step; with `ranks` processes, the part of one: every `ranks`-th record."""
        before, after = spread(self._shares, step), spread(self._shares, step + 1)
        number = next(number for number, count in enumerate(before) if after[number] > count)
        kind = self._kinds[number]
        window, within = divmod(before[number], WINDOW)
        if self._cuts.get(kind, (-1,))[0] != window:
            self._cuts[kind] = window, self._cut(kind, window)
        batch = permuted(within, WINDOW, scramble(scramble(self._seed) + window))
        return Batch(kind, self._cuts[kind][1][batch][rank::ranks])

    def _cut(self, kind: Kind, window: int) -> list[list[tuple[Source, int]]]:
        """The batches of a stretch of records, from short to long.

        Where L_disc is taken, pictures that stand in it again, as those of a small source and of several conversations
        do, come behind all others: of texts as long, they would be in one batch with themselves, and a picture is no
        negative of itself.
        """
        mixture, count = self._mixtures[kind], WINDOW * self._sizes[kind]
        records = [mixture.at(position) for position in range(window * count, (window + 1) * count)]
        lengths = {id(source): source.text_lengths() for source in mixture.sources}
        pictures = {id(source): source.pictures() for source in mixture.sources}
        seen: Counter[tuple[int, int]] = Counter()
        times = []
        for source, index in records:
            numbers = pictures[id(source)]
            number = 0 if numbers is None else int(numbers[index])
            one = (0, number) if number else (id(source), index)
            times.append(seen[one])
            seen[one] += kind in self._contrasted
        order = np.lexsort(([lengths[id(source)][index] for source, index in records], times))
        return [[records[place] for place in part] for part in order.reshape(WINDOW, -1)]


def _check_distinct(parts: Sequence[tuple[Source, Fraction]], size: int) -> None:
    whole = sum((share for _, share in parts), Fraction(0))
    for source, share in parts:
        if len(source) < (most := math.ceil(size * share / whole)):
            raise InputError(
                f"{source.name} has {len(source)} pairs, and a batch of L_disc takes {most} of them, so that one "
                "would be its own negative: add pairs, or lower contrastive_batch, batch_size or the source's weight."
            )


def _parts(
    sources: Sequence[tuple[Source, float]], kind: Kind, wanted: Sequence[Kind]
) -> list[tuple[Source, Fraction]]:
    """The records of a kind in each source, with its weight; conversations have their part of it."""
    parts: list[tuple[Source, Fraction]] = []
    for source, weight in sources:
        chosen = of_kind(source, kind)
        if len(chosen):
            rivals = [int(one) for one in wanted if Kind.TURNS in one and Kind.TURNS in kind] or [int(kind)]
            share = Fraction(len(chosen), int(np.isin(source.kinds(), rivals).sum()))
            parts.append((Subset(source, chosen), Fraction(weight) * share))
    return parts
