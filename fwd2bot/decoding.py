"""Decoding with keys and values kept: for a batch that ends together, and for one that rows join and leave.

Shapes: B rows, T positions, D width; h heads of d numbers.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fwd2bot.reduction import Rows

if TYPE_CHECKING:
    from fwd2bot.llava import Llava

GROWTH = 64
"""Positions by which the buffers of a running batch grow."""


class KeyValues(Protocol):
    def allowed(self, layer: int, rows: Rows) -> Tensor | None:
        """What the attention of a layer is told: True at keys that are seen; None: all that came before."""

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Takes (B, h, t, d) in and gives what the layer attends to; transformers' attention calls it."""


class Cache:
    """Keys and values of every layer in buffers of the full length, for rows that begin together.

    room: how many tokens may follow what the first pass leaves.
    """

    def __init__(self, layers: int, room: int) -> None:
        self.room = room
        self.buffers: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self.masks: list[Tensor | None] = [None] * layers
        self.filled = [0] * layers

    def allowed(self, layer: int, rows: Rows) -> Tensor | None:
        """Of the first pass its own, later what was real in that pass."""
        if self.buffers[layer] is None:
            self.masks[layer] = None if rows.mask is None else F.pad(rows.mask, (0, self.room), value=True)
            return rows.allowed
        mask = self.masks[layer]
        return None if mask is None else mask[:, None, None, : self.filled[layer] + 1]

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Appends (B, h, t, d) and gives all that has been appended so far."""
        start, end = self.filled[layer], self.filled[layer] + keys.shape[2]
        buffers = self.buffers[layer]
        if buffers is None:
            shape = (*keys.shape[:2], end + self.room, keys.shape[3])
            buffers = self.buffers[layer] = (keys.new_empty(shape), values.new_empty(shape))
        buffers[0][:, :, start:end], buffers[1][:, :, start:end] = keys, values
        self.filled[layer] = end
        return buffers[0][:, :, :end], buffers[1][:, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Only these rows of the batch go on."""
        for layer, pair in enumerate(self.buffers):
            self.buffers[layer] = None if pair is None else (pair[0][rows], pair[1][rows])
        self.masks = [None if mask is None else mask[rows] for mask in self.masks]


class RunningBatch:
    """Greedy decoding of rows of any lengths, which join and leave between two tokens; what a row gets is what
    `Llava.generate` gives it alone.

    A row's keys and values stand at the start of its place in the buffers, and a mask hides what lies behind them.
    Buffers are made anew layer by layer, so that no more than one layer is there twice; after an error in between
    (out of memory, say) they do not fit together, and the batch is of no more use.
    """

    def __init__(self, llava: "Llava", stage: str | None) -> None:
        self._llava, self._stage = llava, stage
        self._layers: list[tuple[Tensor, Tensor]] = []  # (B, h, positions, d) each
        self._lengths = torch.zeros(0, dtype=torch.long, device=llava.device)  # (B,): keys that a row has
        self._longest = 0
        self._ids = self._lengths  # (B,): the newest token of each row, whose keys are still to come

    def __len__(self) -> int:
        return len(self._ids)

    @torch.inference_mode()
    def join(self, embeddings: Tensor, mask: Tensor | None = None) -> list[int]:
        """New rows (B, T, D), behind those that there are; gives the first token of each.

        `mask` (B, T) is False at padding, which may stand anywhere; None: nothing is padded.
        """
        ids, positions, cache = self._llava.prefill(embeddings, mask, self._stage, room=0)
        lengths = positions[:, 0] + 1
        length, begun = max(self._room, embeddings.shape[1]), bool(self._layers)
        for layer, pair in enumerate(cache.buffers):
            assert pair is not None
            cache.buffers[layer] = None
            keys, values = (_from_the_start(part, lengths, length) for part in pair)
            if begun:
                old = self._layers[layer]
                self._layers[layer] = _below(old[0], keys), _below(old[1], values)
            else:
                self._layers.append((keys, values))
        self._lengths, self._ids = torch.cat([self._lengths, lengths]), torch.cat([self._ids, ids])
        self._longest = max(self._longest, int(lengths.max()))
        first: list[int] = ids.tolist()
        return first

    @torch.inference_mode()
    def step(self) -> list[int]:
        """The next token of every row."""
        if self._longest == self._room:
            length = self._longest + GROWTH
            self._make_anew(lambda part: _longer(part, length))
        self._ids = self._llava.next_tokens(self._ids, self._lengths[:, None], self._stage, self)
        self._lengths, self._longest = self._lengths + 1, self._longest + 1
        ids: list[int] = self._ids.tolist()
        return ids

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows go on, in this order."""
        chosen = torch.tensor(rows, dtype=torch.long, device=self._ids.device)
        self._lengths, self._ids = self._lengths[chosen], self._ids[chosen]
        self._longest = int(self._lengths.max()) if len(rows) else 0
        length = -(-(self._longest + 1) // GROWTH) * GROWTH  # what a long row needed goes with it
        self._make_anew(lambda part: part[chosen, :, :length])

    def _make_anew(self, change: Callable[[Tensor], Tensor]) -> None:
        for layer, (keys, values) in enumerate(self._layers):
            self._layers[layer] = change(keys), change(values)

    @property
    def _room(self) -> int:
        """Positions that the buffers have."""
        return self._layers[0][0].shape[2] if self._layers else 0

    # What the layers see of it: `KeyValues`.

    def allowed(self, layer: int, rows: Rows) -> Tensor:
        places = torch.arange(self._longest + 1, device=self._lengths.device)
        return (places <= self._lengths[:, None])[:, None, None]  # (B, 1, 1, longest + 1)

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        rows, end = torch.arange(len(keys), device=keys.device), self._longest + 1
        kept = self._layers[layer]
        kept[0][rows, :, self._lengths], kept[1][rows, :, self._lengths] = keys[:, :, 0], values[:, :, 0]
        return kept[0][:, :, :end], kept[1][:, :, :end]


def _from_the_start(part: Tensor, lengths: Tensor, length: int) -> Tensor:
    """(B, h, T, d) padded on the left -> (B, h, length, d), real keys from place 0 on."""
    last = part.shape[2] - 1
    places = torch.arange(part.shape[2], device=part.device) + (last + 1 - lengths)[:, None]  # (B, T)
    places = places.clamp(max=last)[:, None, :, None].expand_as(part)
    return _longer(part.gather(2, places), length)


def _below(old: Tensor, new: Tensor) -> Tensor:
    """(B, h, positions, d) and (N, h, length, d), no shorter -> (B + N, h, length, d)."""
    return torch.cat([_longer(old, new.shape[2]), new])


def _longer(part: Tensor, length: int) -> Tensor:
    """(B, h, positions, d) -> (B, h, length, d) where that is more; zeros, since a hidden key must be a number."""
    return F.pad(part, (0, 0, 0, max(0, length - part.shape[2])))
