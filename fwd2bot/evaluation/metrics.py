"""Metrics as plain functions, tested against hand-worked cases."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_CELLS = 1 << 24
"""Similarities held at once: 64 MiB."""
_ROUNDING = 1e-6
"""Equal vectors may have products that differ by so much: which, depends on where in a matrix they stand."""
_PUNCTUATION = re.compile(r"[^\w\s]")


def normalised(answer: str) -> str:
    """An answer as exact match compares it: lower case, no punctuation, single spaces."""
    return " ".join(_PUNCTUATION.sub(" ", answer.lower()).split())


def exact_match(answer: str, truth: str) -> bool:
    """Whether an answer says what the truth says, letter for letter once normalised."""
    return normalised(answer) == normalised(truth)


def above_guessing(score: float, full: float, guessing: float) -> float:
    """Share of the full model's score above guessing that is kept, in per cent. Raises ValueError where it has none."""
    if full <= guessing:
        raise ValueError(f"nothing is above guessing: the full model scores {full}, guessing {guessing}")
    return 100.0 * (score - guessing) / (full - guessing)


def recall_at(
    images: NDArray[np.float32],
    texts: NDArray[np.float32],
    owners: Sequence[int],
    ranks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """COCO's protocol: text-to-image and image-to-text R@k in per cent, from unit vectors (I, D) and (T, D).

    Where images have several vectors, (I, Q, D), the one nearest to the text counts.

    owners[t] is the image that text t belongs to; an image's nearest own text counts. Of equal scores the wrong one
    comes first, so that vectors which are all alike find nothing. A row of NaN is nearest to nothing.
    """
    owner, numbers = np.asarray(owners), np.arange(len(images))
    by_text = _wrong_before(texts, owner, images, numbers)
    by_image = _wrong_before(images, numbers, texts, owner)
    recalls = {}
    for rank in ranks:
        recalls[f"text_to_image_R@{rank}"] = 100.0 * float((by_text < rank).mean())
        recalls[f"image_to_text_R@{rank}"] = 100.0 * float((by_image < rank).mean())
    return recalls


def _wrong_before(
    queries: NDArray[np.float32], own: NDArray[np.int64], items: NDArray[np.float32], of: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Of each query (Q,), how many wrong items score as high as its best right one: those with `of` == `own`."""
    counts = np.empty(len(queries), dtype=np.int64)
    step = max(1, _CELLS // int(np.prod(items.shape[:-1]) * np.prod(queries.shape[1:-1])))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        scores = similarities(queries[part], items)
        scores[np.isnan(scores)] = -np.inf
        right = own[part, None] == of
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        counts[part] = ((scores >= best - _ROUNDING) & ~right).sum(axis=1)
    return counts


def similarities(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, D) and (M, D) -> (N, M); of a side with several vectors, (N, Q, D), the nearest to the other counts."""
    if other.ndim == 3:
        return similarities(other, one).T
    products: NDArray[np.float32] = one @ other.T
    return products.max(axis=1) if one.ndim == 3 else products
