"""Several sources in stated proportions: what stands at position n follows from n alone.

Nothing is remembered between positions, so a resumed run, and each of many processes, needs its position only. Two
functions do it, both exact:

- which source: the first takes its share of the positions, as evenly spread as whole numbers go (the n-th position is
  its own where round(n x share) rises); the others share what is left in the same way;
- which record: the source's positions are counted, and each round of its length, an epoch, is a permutation of its
  records: the source's own `order` where it has one, else a Feistel network keyed with seed, source and epoch, which
  gives one place of a permutation without building it.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fwd2bot.data.records import Source
from fwd2bot.errors import InputError

ROUNDS = 6
_MASK = (1 << 64) - 1


class Mixture:
    """Sources drawn from in proportion to their weights: `Mixture([(conversations, 1), (captions, 1)])`.

    After any number of positions, each source has had its share of them to within the number of sources. `together`
    positions in a row, such as a batch, are of one source, and the shares are shares of such rows. Each source's
    records all come before one comes again.

    Raises InputError where there is no source, a source is empty, or a weight is not a number above 0.
    """

    def __init__(self, sources: Sequence[tuple[Source, float]], seed: int = 0, *, together: int = 1) -> None:
        if not sources:
            raise InputError("The mixture has no source: give at least one, with its weight.")
        if together < 1:
            raise InputError(f"together is {together}; at least 1 position must be of one source.")
        for source, weight in sources:
            if not (math.isfinite(weight) and weight > 0):
                raise InputError(
                    f"The weight of {source.name} is {weight}; it must be above 0, or the source left out."
                )
            if not len(source):
                raise InputError(f"{source.name} has no records: leave it out of the mixture.")
        self.sources = [source for source, _ in sources]
        self.seed, self.together = seed, together
        self._shares = shares_of_rest([Fraction(float(weight)) for _, weight in sources])
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}

    def at(self, position: int) -> tuple[Source, int]:
        """What stands at a position, counted from 0: a source, and the index of a record in it."""
        assert position >= 0, "positions are counted from 0"
        row, within = divmod(int(position), self.together)
        before, after = spread(self._shares, row), spread(self._shares, row + 1)
        number = next(number for number, count in enumerate(before) if after[number] > count)
        source = self.sources[number]
        epoch, place = divmod(before[number] * self.together + within, len(source))
        return source, self._record(number, epoch, place)

    def seen(self, position: int) -> list[int]:
        """How many records of each source stand before a position."""
        row, within = divmod(int(position), self.together)
        before, after = spread(self._shares, row), spread(self._shares, row + 1)
        return [low * self.together + within * (high - low) for low, high in zip(before, after, strict=True)]

    def _record(self, number: int, epoch: int, place: int) -> int:
        source = self.sources[number]
        key = scramble(scramble(scramble(self.seed) + number) + epoch)
        order = self._orders.get((number, epoch))
        if order is None:
            order = source.order(key, epoch)
            if order is None:
                return permuted(place, len(source), key)
            if len(self._orders) >= 2 * len(self.sources):  # an epoch and the next, which batches read ahead may reach
                self._orders.pop(next(iter(self._orders)), None)
            self._orders[number, epoch] = order
        return int(order[place])


def shares_of_rest(weights: Sequence[Fraction]) -> list[Fraction]:
    """Each one's share of what those before it leave, the last one's being 1; weights above 0."""
    return [weight / sum(weights[number:]) for number, weight in enumerate(weights)]


def spread(shares: Sequence[Fraction], rows: int) -> list[int]:
    """How many of the first `rows` rows are each one's, by its share of what those before it leave."""
    counts = []
    for share in shares:
        counts.append((2 * rows * share.numerator + share.denominator) // (2 * share.denominator))
        rows -= counts[-1]
    return counts


def scramble(number: int) -> int:
    """64 bits that hang on the number alone. Source: SplitMix64's output function (Steele et al., 2014)."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


def permuted(place: int, length: int, key: int) -> int:
    """Where a keyed permutation of range(length) takes a place.

    A Feistel network permutes the numbers of an even number of bits; one that is not below `length` is permuted again.
    """
    half = max(3, ((length - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = place >> half, place & mask
        for turn in range(ROUNDS):
            left, right = right, left ^ (scramble(key ^ (right << 8 | turn)) & mask)
        place = left << half | right
        if place < length:
            return place
