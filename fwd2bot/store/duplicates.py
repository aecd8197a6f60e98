"""Images that look the same to the model: their vectors are nearly one."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fwd2bot.errors import InputError
from fwd2bot.store.base import Store
from fwd2bot.store.rows import Floats

PANEL = 1 << 26  # bytes of vectors that all others are held against at once, and of their cosines
PAIRS = 4096  # whose cosines are taken exactly at once


@dataclass(frozen=True, kw_only=True)
class Group:
    """Images, sorted by name, each as near to one of the others as was asked; `score` is the lowest such cosine."""

    images: list[str]
    score: float


def duplicates(
    store: Store, above: float = 0.98, *, panel: int = PANEL, progress: Callable[[int, int], None] | None = None
) -> list[Group]:
    """Groups of images with a cosine of at least `above`, the most alike first. Names of one content are one image.

    Every pair is compared, in blocks: memory is bounded by a few times `panel` bytes and the names, however many
    pairs there are; time grows with the square. Raises InputError where `above` is not between 0 and 1.
    """
    if not 0 < above <= 1:
        raise InputError(f"--above must be more than 0 and at most 1, not {above}: 0.98 is a good start.")
    near, names, total = _Near(), list[str](), len(store)
    for first, left in _panels(store, panel):
        for start, block_names, right in _blocks(store):
            if start + len(right) <= first:
                continue
            if first == 0:
                names += block_names
            rows = max(1, panel // (4 * len(right)))
            for begin in range(0, len(left), rows):
                near.take(first + begin, left[begin : begin + rows], start, right, above)
        if progress is not None:
            progress(first + len(left), total)
    return near.groups(names)


class _Near:
    """Places in the store that are joined, pair by pair; no pair is kept."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}  # of what has a near one
        self._lowest: dict[int, float] = {}  # of a root: the lowest cosine of a pair in its group

    def take(self, first: int, left: Floats, start: int, right: Floats, above: float) -> None:
        """Joins what is near: rows of `left` stand from `first` on in the store, those of `right` from `start` on."""
        rough = left @ right.T
        found = np.argwhere(rough >= above - 1e-5)
        found = found[first + found[:, 0] < start + found[:, 1]]
        for pairs in (found[begin : begin + PAIRS] for begin in range(0, len(found), PAIRS)):
            for (i, j), score in zip(pairs.tolist(), _cosines(left, right, pairs), strict=True):
                if score >= above:
                    self._join(first + i, start + j, score)

    def groups(self, names: list[str]) -> list[Group]:
        members: dict[int, set[str]] = defaultdict(set)
        for place in list(self._parent):
            members[self._root(place)].add(names[place])
        groups = [Group(images=sorted(images), score=self._lowest[root]) for root, images in members.items()]
        return sorted(groups, key=lambda group: (-group.score, group.images))

    def _join(self, one: int, other: int, score: float) -> None:
        root, gone = self._root(one), self._root(other)
        self._parent[gone] = root
        self._lowest[root] = min(self._lowest.get(root, 1.0), self._lowest.get(gone, 1.0), score)

    def _root(self, place: int) -> int:
        parent = self._parent
        parent.setdefault(place, place)
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place


def _cosines(left: Floats, right: Floats, pairs: NDArray[np.intp]) -> list[float]:
    """Of (n, 2) pairs of rows; the same for equal vectors, wherever they stand."""
    one, other = left[pairs[:, 0]].astype(np.float64), right[pairs[:, 1]].astype(np.float64)
    scores: list[float] = np.round((one * other).sum(axis=1), 9).tolist()
    return scores


def _blocks(store: Store) -> Iterator[tuple[int, list[str], Floats]]:
    start = 0
    for names, vectors in store.vectors():
        yield start, names, vectors
        start += len(vectors)


def _panels(store: Store, panel: int) -> Iterator[tuple[int, Floats]]:
    """(place of its first, vectors), as many blocks at once as fit, at least one."""
    waiting: list[Floats] = []
    first = 0
    for start, _, vectors in _blocks(store):
        if waiting and sum(one.nbytes for one in waiting) + vectors.nbytes > panel:
            yield first, np.concatenate(waiting)
            first, waiting = start, []
        waiting.append(vectors)
    if waiting:
        yield first, np.concatenate(waiting)
