"""SugarCrepe: is a picture nearer to its caption than to one with a word replaced, swapped or added?

Seven files of {"0": {"filename", "caption", "negative_caption"}, ...}; pictures below val2017/ (COCO). Equal is wrong.
Source: Hsieh et al. 2023.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fwd2bot.evaluation.base import VectorBenchmark
from fwd2bot.evaluation.files import read_json

KINDS = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")


class Pair(NamedTuple):
    kind: str
    filename: str
    caption: str
    negative: str


class SugarCrepe(VectorBenchmark):
    """Accuracy of each of the seven files; no mean of them is defined."""

    name = "sugarcrepe"
    splits = ("all",)
    metric = "replace_obj"

    def __init__(self, folder: Path, split: str | None = None) -> None:
        super().__init__(folder, split)
        self.pairs = [pair for kind in KINDS for pair in _read(folder / f"{kind}.json", kind)]
        self.filenames = list(dict.fromkeys(pair.filename for pair in self.pairs))  # each picture once

    def images(self) -> Sequence[Path | bytes]:
        return [self.folder / "val2017" / name for name in self.filenames]

    def texts(self) -> Sequence[str]:
        return [text for pair in self.pairs for text in (pair.caption, pair.negative)]

    def score(self, images: NDArray[np.float32], texts: NDArray[np.float32]) -> dict[str, float]:
        row = {name: number for number, name in enumerate(self.filenames)}
        shown = images[[row[pair.filename] for pair in self.pairs]]
        right, wrong = (np.einsum("n...d,nd->n...", shown, side) for side in (texts[0::2], texts[1::2]))
        if shown.ndim == 3:  # several vectors a picture: the nearest counts
            right, wrong = right.max(axis=1), wrong.max(axis=1)
        kinds = np.array([pair.kind for pair in self.pairs])
        return {kind: 100.0 * float((right > wrong)[kinds == kind].mean()) for kind in KINDS}


def _read(path: Path, kind: str) -> list[Pair]:
    """A file's keys may have gaps."""
    rows = [row for _, row in read_json(path).items()]
    return [Pair(kind, row.text("filename"), row.text("caption"), row.text("negative_caption")) for row in rows]
