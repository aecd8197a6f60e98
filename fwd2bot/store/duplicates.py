"""Images that look the same to the model: their vectors are nearly one."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fwd2bot.errors import InputError
from fwd2bot.store.base import Floats, Store

PANEL = 1 << 26  # bytes of vectors that all others are held against at once


@dataclass(frozen=True, kw_only=True)
class Group:
    """Images, sorted by name, each as near to one of the others as was asked; `score` is the lowest such cosine."""

    images: list[str]
    score: float


def duplicates(
    store: Store, above: float = 0.98, *, panel: int = PANEL, progress: Callable[[int, int], None] | None = None
) -> list[Group]:
    """Groups of images with a cosine of at least `above`, the most alike first. Names of one content are one image.

    Every pair is compared, in blocks: memory is bounded by `panel` bytes and the names; time grows with the square.
    Raises InputError where `above` is not between 0 and 1.
    """
    if not 0 < above <= 1:
        raise InputError(f"--above must be more than 0 and at most 1, not {above}: 0.98 is a good start.")
    parent: list[int] = []
    names: list[str] = []
    pairs: list[tuple[int, int, float]] = []
    total = len(store)
    for first, left in _panels(store, panel):
        for start, block_names, right in _blocks(store):
            if start + len(right) <= first:
                continue
            if first == 0:
                names += block_names
                parent += range(start, start + len(right))
            pairs += _near(first, left, start, right, above)
        if progress is not None:
            progress(first + len(left), total)
    return _groups(names, pairs, parent)


def _near(first: int, left: Floats, start: int, right: Floats, above: float) -> Iterator[tuple[int, int, float]]:
    """Pairs (i < j) of positions in the store, and their cosine."""
    rough = left @ right.T
    for i, j in np.argwhere(rough >= above - 1e-5):
        if first + i < start + j:
            score = float(np.round(left[i].astype(np.float64) @ right[j].astype(np.float64), 9))
            if score >= above:
                yield first + int(i), start + int(j), score


def _groups(names: list[str], pairs: list[tuple[int, int, float]], parent: list[int]) -> list[Group]:
    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for i, j, _ in pairs:
        parent[root(j)] = root(i)
    members: dict[int, set[str]] = defaultdict(set)
    lowest: dict[int, float] = defaultdict(lambda: 1.0)
    for i, j, score in pairs:
        members[root(i)] |= {names[i], names[j]}
        lowest[root(i)] = min(lowest[root(i)], score)
    groups = [Group(images=sorted(images), score=lowest[key]) for key, images in members.items()]
    return sorted(groups, key=lambda group: (-group.score, group.images))


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
