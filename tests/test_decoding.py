"""Rows that join and leave a running batch: each gets what it gets alone."""

import weakref

import pytest
import torch
from tiny import tiny_llava
from torch.utils._python_dispatch import TorchDispatchMode

from fwd2bot import decoding

NEW = 12


@pytest.fixture(scope="module")
def llava():
    return tiny_llava(seed=3)


@pytest.fixture(scope="module")
def prompts(llava):
    """Six rows (T, D) of 3 to 13 positions."""
    numbers = torch.Generator().manual_seed(5)
    ids = [torch.randint(5, 300, (1, length), generator=numbers) for length in (7, 3, 13, 5, 7, 4)]
    return [llava.embed(one)[0] for one in ids]


@pytest.fixture(scope="module")
def alone(llava, prompts):
    """Their answers, one at a time."""
    return [llava.generate(prompt[None], max_new_tokens=NEW)[0] for prompt in prompts]


def padded(prompts):
    """(B, T, D) and (B, T): junk behind the real ones."""
    length = max(map(len, prompts))
    rows = torch.full((len(prompts), length, prompts[0].shape[1]), 9.0)
    mask = torch.zeros(len(prompts), length, dtype=torch.bool)
    for row, real, prompt in zip(rows, mask, prompts, strict=True):
        row[: len(prompt)], real[: len(prompt)] = prompt, True
    return rows, mask


def test_tokens_are_those_of_each_row_alone_whoever_comes_and_goes(llava, prompts, alone):
    batch, answers, running = llava.running(), {}, []

    def join(*names):
        first = batch.join(*padded([prompts[name] for name in names]))
        running.extend(names)
        answers.update({name: [token] for name, token in zip(names, first, strict=True)})

    def step(count):
        for _ in range(count):
            for name, token in zip(running, batch.step(), strict=True):
                answers[name].append(token)

    def keep(*names):
        batch.keep([running.index(name) for name in names])
        running[:] = names

    join(0)
    step(2)
    join(1, 2)  # one shorter, one longer than what runs
    step(1)
    keep(2, 0)  # one leaves, the others change places
    step(3)
    join(3)
    step(1)
    keep(3)
    step(2)
    keep()
    assert len(batch) == 0
    join(4, 5)  # after all have left
    step(NEW - 1)
    assert [len(answers[name]) for name in range(6)] == [8, 2, 6, 4, NEW, NEW]
    for name, answer in answers.items():
        assert answer == alone[name][: len(answer)], name


def test_buffers_grow_and_shrink_without_a_trace(llava, prompts, alone, monkeypatch):
    monkeypatch.setattr(decoding, "GROWTH", 2)
    batch = llava.running()
    tokens = [batch.join(prompts[2][None]) + batch.join(prompts[1][None])]
    tokens += [batch.step() for _ in range(5)]
    batch.keep([1])
    assert batch._room < len(prompts[2])
    tokens += [batch.step() for _ in range(NEW - 6)]
    assert [row[-1] for row in tokens] == alone[1]
    assert [row[0] for row in tokens[:6]] == alone[2][:6]


def test_padding_may_stand_anywhere(llava, prompts, alone):
    mask = torch.tensor([[True] * 2 + [False] * 3 + [True] * 5 + [False]])
    rows = torch.full((1, 11, llava.width), 9.0)
    rows[mask] = prompts[0]
    batch = llava.running()
    batch.join(*padded(prompts[1:2]))
    assert batch.join(rows, mask) + [batch.step()[1] for _ in range(5)] == alone[0][:6]


class Held(TorchDispatchMode):
    """The most bytes that keys and values (B, 2 heads, positions, 8) have at any operation."""

    def __init__(self, *parts):
        super().__init__()
        self.most, self.parts = 0, [weakref.ref(part) for part in parts]

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        made = function(*arguments, **(options or {}))
        if isinstance(made, torch.Tensor) and made.ndim == 4 and (made.shape[1], made.shape[3]) == (2, 8):
            self.parts.append(weakref.ref(made))
            there = [part for reference in self.parts if (part := reference()) is not None]
            sizes = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in there}
            self.most = max(self.most, sum(sizes.values()))
        return made


def bytes_of(layers):
    return sum(part.untyped_storage().nbytes() for pair in layers for part in pair)


@pytest.mark.parametrize("what", ["join", "grow", "keep"])
def test_one_layer_at_most_is_held_twice(monkeypatch, what):
    monkeypatch.setattr(decoding, "GROWTH", 3)
    llava = tiny_llava(layers=24)
    rows = torch.randn(4, 9, llava.width, generator=torch.Generator().manual_seed(0))
    batch = llava.running()
    batch.join(rows)
    before = bytes_of(batch._layers)
    with Held(*(part for pair in batch._layers for part in pair)) as held:
        if what == "join":
            batch.join(rows)
        elif what == "grow":
            batch.step()
        else:
            batch.keep([3, 0, 1, 2])
    after = bytes_of(batch._layers)
    assert max(before, after) <= held.most < 1.2 * max(before, after)


def test_one_layer_at_most_is_held_twice_where_rows_begin_together():
    cache = decoding.Cache(24, 3)
    for layer in range(24):
        cache.update(torch.randn(4, 2, 9, 8), torch.randn(4, 2, 9, 8), layer)
    before = bytes_of(cache.buffers)
    with Held(*(part for pair in cache.buffers for part in pair)) as held:
        cache.keep(torch.tensor([0, 2]))
    assert (bytes_of(cache.buffers), held.most < 1.1 * before) == (before / 2, True)
