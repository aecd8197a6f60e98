"""Metrics as plain functions, tested against hand-worked cases."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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
    similarity: NDArray[np.float32], owners: Sequence[int], ranks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """COCO's protocol: text-to-image and image-to-text R@k in per cent.

    similarity (images, texts); owners[t] is the image that text t belongs to. Image to text counts as found when any
    of the image's own texts is among the first k. Of equal scores the lower index comes first.
    """
    owner = np.asarray(owners)
    images = np.arange(similarity.shape[0])
    by_text = np.argsort(-similarity, axis=0, kind="stable")  # (images, texts): images in order, for each text
    by_image = np.argsort(-similarity, axis=1, kind="stable")  # (images, texts): texts in order, for each image
    recalls = {}
    for rank in ranks:
        recalls[f"text_to_image_R@{rank}"] = 100.0 * float((by_text[:rank] == owner).any(axis=0).mean())
        found = (owner[by_image[:, :rank]] == images[:, None]).any(axis=1)
        recalls[f"image_to_text_R@{rank}"] = 100.0 * float(found.mean())
    return recalls
