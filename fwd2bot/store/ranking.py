"""Scores that do not depend on where a vector stands, and the best of them."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def cosines(query: Floats, vectors: Floats) -> list[float]:
    """Of a (D,) and (n, D) unit vectors, equal for equal ones: rounded to what float64 gives in any order of adding."""
    scores: list[float] = np.round(vectors.astype(np.float64) @ query.astype(np.float64), 9).tolist()
    return scores


def at_least_top(scores: NDArray[np.floating], top: int) -> NDArray[np.intp]:
    """Positions of the `top` largest scores, and of any that rounding may have put just below them."""
    if len(scores) <= top:
        return np.arange(len(scores))
    threshold = np.partition(scores, -top)[-top]
    return np.flatnonzero(scores >= threshold - np.float32(1e-5))
