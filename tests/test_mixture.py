"""A mixture is a function of the position: its proportions, its epochs, and nothing that it remembers."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fwd2bot.data.mixture import Mixture, permuted, scramble
from fwd2bot.data.records import Record, Source
from fwd2bot.errors import InputError

weights = st.lists(st.floats(0.01, 100), min_size=1, max_size=5)


class Numbers(Source):
    def __init__(self, name: str, length: int) -> None:
        self.name, self.length = name, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Record:
        return Record(key=f"{range(self.length)[index]}")

    def picture(self, record: Record) -> Image.Image:
        raise NotImplementedError("only the order of records is tested")

    def text_lengths(self) -> NDArray[np.int32]:
        raise NotImplementedError("only the order of records is tested")

    def kinds(self) -> NDArray[np.uint8]:
        raise NotImplementedError("only the order of records is tested")


class Rotated(Numbers):
    """Is read fastest in its own order, from the epoch's number on; `asked` counts how often it is built."""

    asked = 0

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        self.asked += 1
        return np.roll(np.arange(self.length), -epoch)


def drawn(mixture: Mixture, count: int, first: int = 0) -> list[tuple[str, int]]:
    places = (mixture.at(position) for position in range(first, first + count))
    return [(source.name, index) for source, index in places]


@given(given_weights=weights, first=st.integers(0, 10**12), count=st.integers(1, 200))
@settings(max_examples=30, deadline=None)
def test_every_window_keeps_the_proportions(given_weights: list[float], first: int, count: int) -> None:
    mixture = Mixture([(Numbers(f"{n}", 7 + n), weight) for n, weight in enumerate(given_weights)])
    times = Counter(name for name, _ in drawn(mixture, count, first))
    for number, weight in enumerate(given_weights):
        wanted = count * weight / sum(given_weights)
        assert abs(times[f"{number}"] - wanted) <= 2 * len(given_weights)


def test_two_of_one_weight_take_turns() -> None:
    mixture = Mixture([(Numbers("a", 5), 1), (Numbers("b", 5), 1.0)])
    assert "".join(name for name, _ in drawn(mixture, 9)) == "ababababa"


def test_three_to_one_is_spread_evenly() -> None:
    mixture = Mixture([(Numbers("a", 50), 0.75), (Numbers("b", 50), 0.25)])
    assert "".join(name for name, _ in drawn(mixture, 12)) == "aabaaabaaaba"  # round(n x 3/4): 0, 1, 2, 2, 3


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    seed=st.integers(-5, 2**70),
    together=st.integers(1, 5),
)
@settings(max_examples=25, deadline=None)
def test_an_epoch_has_every_record_once(lengths: list[int], seed: int, together: int) -> None:
    sources = [(Numbers(f"{n}", length), n + 1) for n, length in enumerate(lengths)]
    mixture = Mixture(sources, seed, together=together)
    indices: dict[str, list[int]] = {f"{n}": [] for n in range(len(lengths))}
    for name, index in drawn(mixture, 3 * sum(lengths) * len(lengths)):
        indices[name].append(index)
    for number, length in enumerate(lengths):
        mine = indices[f"{number}"]
        for epoch in range(len(mine) // length):
            assert sorted(mine[epoch * length : (epoch + 1) * length]) == list(range(length))


def test_epochs_sources_and_seeds_are_shuffled_apart() -> None:
    def orders(seed: int) -> list[tuple[int, ...]]:
        rows = drawn(Mixture([(Numbers("a", 30), 1), (Numbers("b", 30), 1)], seed), 120)
        by_source = [[index for name, index in rows if name == which] for which in "ab"]
        return [tuple(row[start : start + 30]) for row in by_source for start in (0, 30)]

    found = orders(0) + orders(1)
    assert len(set(found)) == 8
    assert tuple(range(30)) not in found


def test_a_position_says_all_in_any_order_and_in_a_new_mixture() -> None:
    def mixture() -> Mixture:
        return Mixture([(Numbers("a", 11), 2), (Rotated("b", 5), 1), (Numbers("c", 3), 0.3)], 7, together=4)

    forward = drawn(mixture(), 400)
    backward = mixture()
    assert [backward.at(position) for position in reversed(range(400))][::-1] == [
        (backward.sources["abc".index(name)], index) for name, index in forward
    ]
    assert drawn(mixture(), 100, first=300) == forward[300:]


def test_seen_counts_what_stands_before_a_position() -> None:
    mixture = Mixture([(Numbers("a", 11), 2), (Numbers("b", 5), 1), (Numbers("c", 3), 0.3)], together=3)
    rows = drawn(mixture, 100)
    for position in (0, 1, 2, 3, 50, 98, 99, 100):
        assert mixture.seen(position) == [sum(name == which for name, _ in rows[:position]) for which in "abc"]


def test_positions_together_are_of_one_source() -> None:
    mixture = Mixture([(Numbers("a", 1000), 1), (Numbers("b", 1000), 1)], together=8)
    names = [name for name, _ in drawn(mixture, 64)]
    assert ["".join(names[start : start + 8]) for start in range(0, 64, 8)] == ["a" * 8, "b" * 8] * 4


def test_order_of_a_source_is_kept_and_built_once_an_epoch() -> None:
    source = Rotated("a", 6)
    rows = drawn(Mixture([(source, 1)]), 18)
    assert [index for _, index in rows] == [0, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 0, 2, 3, 4, 5, 0, 1]
    assert source.asked == 3


def test_orders_of_two_epochs_are_kept_and_no_more() -> None:
    source = Rotated("a", 6)
    mixture = Mixture([(source, 1)])
    for _ in range(4):
        mixture.at(5), mixture.at(6)
    assert source.asked == 2
    for epoch in range(50):
        mixture.at(6 * epoch)
    assert len(mixture._orders) <= 2


@pytest.mark.parametrize("length", [*range(1, 20), 63, 64, 65, 1000])
def test_permuted_is_a_permutation(length: int) -> None:
    assert sorted(permuted(place, length, 12345) for place in range(length)) == list(range(length))


def test_permuted_gives_every_order_of_four_about_as_often() -> None:
    times = Counter(tuple(permuted(place, 4, scramble(key)) for place in range(4)) for key in range(960))
    assert len(times) == 24
    assert max(times.values()) < 40 + 5 * 6.2  # five deviations of a count of 40
    assert min(times.values()) > 40 - 5 * 6.2


def test_permuted_keeps_no_neighbours_together() -> None:
    places = np.array([permuted(place, 5000, scramble(3)) for place in range(5000)])
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.06
    assert abs(np.corrcoef(places, np.arange(5000))[0, 1]) < 0.06


def test_numbers_are_those_of_every_version() -> None:
    """A run that is resumed by a later version must go on with the same records."""
    assert scramble(0) == 0xE220A8397B1DCDAF  # SplitMix64's first output for seed 0
    mixture = Mixture([(Numbers("a", 1000), 2), (Numbers("b", 100), 1)], 5)
    assert drawn(mixture, 5, first=10**9) == [("b", 98), ("a", 498), ("a", 312), ("b", 72), ("a", 874)]


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf")])
def test_weight_that_is_none_is_an_input_error(weight: float) -> None:
    with pytest.raises(InputError, match=rf"weight of web is {weight}; it must be above 0, or the source left out"):
        Mixture([(Numbers("web", 3), weight)])


def test_source_without_records_is_an_input_error() -> None:
    with pytest.raises(InputError, match="web has no records: leave it out"):
        Mixture([(Numbers("a", 3), 1), (Numbers("web", 0), 1)])


def test_mixture_of_nothing_is_an_input_error() -> None:
    with pytest.raises(InputError, match="mixture has no source"):
        Mixture([])


def test_together_below_one_is_an_input_error() -> None:
    with pytest.raises(InputError, match="together is 0; at least 1"):
        Mixture([(Numbers("a", 3), 1)], together=0)
