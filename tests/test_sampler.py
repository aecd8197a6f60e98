"""The batches of a run: one kind each, both losses equally often, near lengths together, a function of the step."""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fwd2bot.data.records import Kind, Record, Source
from fwd2bot.errors import InputError
from fwd2bot.training.sampler import BOTH, CONVERSATION, PAIR, TEXT, WINDOW, Sampler


class Listed(Source):
    """So many records of each kind, with lengths that differ."""

    def __init__(self, name: str, counts: dict[Kind, int]) -> None:
        self.name = name
        self._kinds = np.concatenate([np.full(count, int(kind), dtype=np.uint8) for kind, count in counts.items()])

    def __len__(self) -> int:
        return len(self._kinds)

    def __getitem__(self, index: int) -> Record:
        return Record(key=str(index))

    def picture(self, record: Record) -> Image.Image:
        return Image.new("RGB", (2, 2))

    def text_lengths(self) -> NDArray[np.int32]:
        return (np.arange(len(self)) * 7919 % 1000).astype(np.int32)

    def kinds(self) -> NDArray[np.uint8]:
        return self._kinds


CONVERSATIONS = Listed("conversations", {BOTH: 3000, CONVERSATION: 1500, TEXT: 500})
PAIRS = Listed("pairs", {PAIR: 4000})


def sampler(**more: object) -> Sampler:
    return Sampler([(CONVERSATIONS, 1.0), (PAIRS, 1.0)], **{"batch_size": 4, "pairs": 8, "seed": 3, **more})


def test_both_losses_are_taken_equally_often_over_any_window() -> None:
    one = sampler()
    kinds = [one.at(step).kind for step in range(700)]
    balance = np.cumsum([{PAIR: 1, CONVERSATION: -1, TEXT: -1}.get(kind, 0) for kind in kinds])
    assert balance.max() - balance.min() <= 1
    counted = Counter(kinds)
    # 0.6 of the conversations, and pairs come as often as the rest of them
    assert counted[BOTH] == pytest.approx(700 * 0.6 / 1.4, abs=1)
    assert counted[CONVERSATION] == pytest.approx(3 * counted[TEXT], abs=3)


def test_a_batch_is_of_one_kind_and_its_own_size() -> None:
    one = sampler()
    for step in range(60):
        batch = one.at(step)
        assert len(batch.records) == (8 if batch.kind == PAIR else 4)
        assert {int(source.kinds()[index]) for source, index in batch.records} == {int(batch.kind)}


def test_a_batch_follows_from_seed_and_step_alone() -> None:
    def told(one: Sampler, step: int) -> list[tuple[str, int]]:
        return [(source.name, source.chosen[index]) for source, index in one.at(step).records]

    forwards, backwards, other = sampler(), sampler(), sampler(seed=4)
    first = {step: told(forwards, step) for step in range(100)}
    assert {step: told(backwards, step) for step in reversed(range(100))} == first
    assert {step: told(other, step) for step in range(100)} != first


def test_processes_share_a_batch_among_them() -> None:
    one = sampler()
    for step in range(20):
        whole = one.at(step).records
        parts = [one.at(step, rank, 4).records for rank in range(4)]
        assert [len(part) for part in parts] == [len(whole) // 4] * 4
        assert sorted(map(id_of, whole)) == sorted(id_of(row) for part in parts for row in part)


def id_of(row: tuple[Source, int]) -> tuple[str, int]:
    return row[0].name, row[1]


def test_near_lengths_stand_together() -> None:
    one = sampler()
    spans = []
    for step in range(200):
        batch = one.at(step)
        lengths = [int(source.text_lengths()[index]) for source, index in batch.records]
        spans.append(max(lengths) - min(lengths))
    assert np.mean(spans) < 1000 / WINDOW * 2  # at random it would be some 600 to 800


def test_every_record_comes_once_before_one_comes_again() -> None:
    only = Listed("few", {CONVERSATION: WINDOW * 4 * 2})
    one = Sampler([(only, 1.0)], batch_size=4, pairs=4)
    seen = Counter(index for step in range(WINDOW * 2) for _, index in one.at(step).records)
    assert set(seen.values()) == {1}
    assert len(seen) == len(only)


class Shared(Listed):
    """Every picture has four records, of lengths that are near each other."""

    def pictures(self) -> NDArray[np.uint64]:
        return (np.arange(len(self)) // 4 + 1).astype(np.uint64)

    def text_lengths(self) -> NDArray[np.int32]:
        return (np.arange(len(self)) // 4).astype(np.int32)


def test_a_picture_of_several_conversations_is_no_negative_of_itself() -> None:
    only = Shared("shared", {BOTH: 20000})
    repeats = []
    for contrastive in (True, False):
        one = Sampler([(only, 1.0)], batch_size=16, pairs=16, contrastive=contrastive)
        batches = [one.at(step).records for step in range(2 * WINDOW)]
        repeats.append(sum(16 - len({index // 4 for _, index in records}) for records in batches))
    assert repeats[0] <= 4  # where the first and the second time meet
    assert repeats[1] > 30


def test_short_and_long_batches_are_mixed() -> None:
    only = Listed("few", {CONVERSATION: 1000})
    one = Sampler([(only, 1.0)], batch_size=4, pairs=4)
    means = [np.mean([only.text_lengths()[index] for _, index in one.at(step).records]) for step in range(WINDOW)]
    assert abs(np.corrcoef(means, range(WINDOW))[0, 1]) < 0.5


@pytest.mark.parametrize(
    ("losses", "kinds"),
    [
        ({"contrastive": False}, {BOTH, CONVERSATION, TEXT}),
        ({"autoregressive": False}, {BOTH, PAIR}),
    ],
)
def test_a_loss_that_is_off_takes_its_batches_with_it(losses: dict[str, bool], kinds: set[Kind]) -> None:
    one = sampler(**losses)
    assert {one.at(step).kind for step in range(60)} == kinds


def test_pairs_alone_are_every_step() -> None:
    one = Sampler([(PAIRS, 2.0)], batch_size=4, pairs=8)
    assert {one.at(step).kind for step in range(20)} == {PAIR}


def test_weights_set_the_shares_of_sources_of_one_kind() -> None:
    sources = [(Listed("a", {CONVERSATION: 50}), 3.0), (Listed("b", {CONVERSATION: 5000}), 1.0)]
    one = Sampler(sources, batch_size=4, pairs=4)
    names = Counter(source.name for step in range(200) for source, _ in one.at(step).records)
    assert names["a"] == pytest.approx(600, abs=2)


def test_nothing_to_learn_from_is_an_input_error() -> None:
    with pytest.raises(InputError, match="nothing that these losses can be taken on"):
        Sampler([(PAIRS, 1.0)], batch_size=4, pairs=4, contrastive=False)


@pytest.mark.parametrize("count", [8, 9, 40, 8 * WINDOW, 8 * WINDOW + 5])
def test_a_pair_is_hardly_ever_its_own_negative(count: int) -> None:
    few = Listed("few", {PAIR: count})
    one = Sampler([(few, 1.0)], batch_size=4, pairs=8, seed=3)
    batches = [one.at(step).records for step in range(4 * WINDOW)]
    twice = sum(8 - len({index for _, index in batch}) for batch in batches)
    assert twice <= 0.01 * 8 * len(batches)  # where an epoch ends within a batch


def test_too_few_pairs_for_a_batch_are_told() -> None:
    few = Listed("few", {PAIR: 3})
    with pytest.raises(InputError, match=r"few has 3 pairs, and a batch of L_disc takes 4 of them"):
        Sampler([(few, 1.0), (PAIRS, 1.0)], batch_size=4, pairs=8)
    Sampler([(few, 3.0), (PAIRS, 5.0)], batch_size=4, pairs=8)
