"""Fewer rows for the image on the way through the language model: the one place where they go between layers.

A `Reducer` is a method: before which layers, to how many rows, and which. In a batch every element keeps as many rows,
each its own; text stays, and what stays keeps its position unless the method gives it another.

Shapes: B elements, T rows of each, n of them the image's, m of these that stay, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from fwd2bot.attention import taken, weights


class Kept(NamedTuple):
    """What stays of the image.

    places (B, m): which of its rows, ascending; hidden (B, m, D), positions (B, m): what they become (None: as they
    are).
    """

    places: Tensor
    hidden: Tensor | None = None
    positions: Tensor | None = None


class Reducer(Protocol):
    @property
    def counts(self) -> Mapping[int, int]:
        """By layer of the language model, from 1: how many rows the image has from there on."""

    def keep(self, seen: "Seen", count: int) -> Kept:
        """The choice of so many rows, before a layer of `counts`."""


class Reduction(NamedTuple):
    """A method at work on a batch. image (B, n): where the image's rows stand; last (B,): the prompt's last token."""

    reducer: Reducer
    image: Tensor
    last: Tensor

    def moved(self, order: Tensor) -> "Reduction":
        """The same after rows were put in another order (B, T), given as for `gather`."""
        new = order.argsort(dim=1)
        return self._replace(image=new.gather(1, self.image), last=new.gather(1, self.last[:, None])[:, 0])


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A batch between two layers.

    hidden (B, T, D); positions (B, T); allowed (B, 1, T, T), None: causal; mask (B, T), None: nothing is padded;
    reduction: of the layers to come.
    """

    hidden: Tensor
    positions: Tensor
    allowed: Tensor | None = None
    mask: Tensor | None = None
    reduction: Reduction | None = None

    def before(self, index: int, layers: Sequence[nn.Module], previous: Tensor, rope: Any) -> "Rows":
        """What enters a layer: `previous` and `rope` are what the layer before it got."""
        reduction = self.reduction
        if (
            reduction is None
            or reduction.reducer.counts.get(index, reduction.image.shape[1]) >= reduction.image.shape[1]
        ):
            return self
        seen = Seen(self, reduction, layers[index - 1], previous, rope)
        return self._only(reduction, reduction.reducer.keep(seen, reduction.reducer.counts[index]))

    def _only(self, reduction: Reduction, kept: Kept) -> "Rows":
        """Without the image's other rows."""
        hidden, positions, mask, allowed = self.hidden, self.positions, self.mask, self.allowed
        image = reduction.image.gather(1, kept.places)  # (B, m)
        if kept.hidden is not None:
            hidden = hidden.scatter(1, image[..., None].expand_as(kept.hidden), kept.hidden.to(hidden.dtype))
        if kept.positions is not None:
            positions = positions.scatter(1, image, kept.positions)
        stays = torch.ones_like(positions, dtype=torch.bool).scatter(1, reduction.image, False).scatter(1, image, True)
        length = stays.shape[1] - reduction.image.shape[1] + image.shape[1]
        order = stays.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :length]  # (B, T')
        new = stays.cumsum(dim=1) - 1
        if allowed is not None:
            allowed = allowed.expand(len(order), -1, -1, -1)
            allowed = allowed.gather(2, order[:, None, :, None].expand(-1, -1, -1, allowed.shape[3]))
            allowed = allowed.gather(3, order[:, None, None, :].expand(-1, -1, length, -1))
        return replace(
            self,
            hidden=taken(hidden, order),
            positions=positions.gather(1, order),
            allowed=allowed,
            mask=None if mask is None else mask.gather(1, order),
            reduction=reduction._replace(image=new.gather(1, image), last=new.gather(1, reduction.last[:, None])[:, 0]),
        )


class Seen:
    """What a method may look at between two layers: all of it is the image's, (B, n, ...)."""

    def __init__(self, rows: Rows, reduction: Reduction, layer: nn.Module, previous: Tensor, rope: Any) -> None:
        self.hidden = taken(rows.hidden, reduction.image)
        self.previous = taken(previous, reduction.image)
        """What `hidden` was before the layer that has just been run."""
        self.positions = rows.positions.gather(1, reduction.image)
        self._rows, self._reduction, self._layer = rows, reduction, layer
        self._whole, self._rope = previous, rope

    @torch.no_grad()
    def attention(self, *, question: bool = False) -> Tensor:
        """What the prompt's last token attended to in the layer that has just been run: (B, n), the mean over heads.

        question: the mean over all tokens of the prompt that follow the image.
        """
        image, last = self._reduction.image, self._reduction.last
        asked = last[:, None]  # (B, R)
        counted = torch.ones_like(asked, dtype=torch.bool)
        if question:
            end = image.amax(dim=1, keepdim=True)
            back = torch.arange(max(1, int((asked - end).max())), device=last.device)
            counted = (asked - back > end) | (back == 0)
            asked = (asked - back).clamp(min=0)
        if self._rows.allowed is None:
            allowed = torch.arange(self._whole.shape[1], device=last.device) <= asked[..., None]
        else:
            allowed = taken(self._rows.allowed.expand(len(asked), -1, -1, -1)[:, 0], asked)
        layer: Any = self._layer
        found = weights(
            layer.self_attn, layer.input_layernorm(self._whole), rows=asked, rope=self._rope, allowed=allowed
        )
        share = counted / counted.sum(dim=1, keepdim=True)
        return (found * share[..., None]).sum(dim=1).gather(1, image)

    def ranked(self, scores: Tensor) -> Tensor:
        """Places of the image's rows (B, n), those of the highest score first, the earlier of equal ones.

        The row that the answer follows, where no text stands between, comes before all: without it nothing would speak.
        Rows that are masked come after all.
        """
        scores = scores.masked_fill(self._reduction.image == self._reduction.last[:, None], float("inf"))
        if self._rows.mask is not None:
            scores = scores.masked_fill(~self._rows.mask.gather(1, self._reduction.image), float("-inf"))
        return scores.argsort(dim=1, descending=True, stable=True)


def highest(ranked: Tensor, count: int) -> Kept:
    """The first so many of `Seen.ranked`, in their own order."""
    return Kept(ranked[:, :count].sort(dim=1).values)


def mean_rows(rows: int, layers: int, counts: Mapping[int, int]) -> float:
    """Rows of the image in a layer, averaged over the layers: what tables of these methods call their tokens."""
    total = 0
    for layer in range(layers):
        rows = min(rows, counts.get(layer, rows))
        total += rows
    return total / layers
