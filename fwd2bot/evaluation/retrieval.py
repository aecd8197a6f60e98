"""Retrieval: COCO's 5,000 pictures, Flickr30k's 1,000 and nocaps' 4,500, with all of their captions, both ways.

Protocol: one vector a picture and a caption, cosine, R@1, 5, 10 (`metrics.recall_at`). Of COCO, E5-V keeps five
captions a picture (25,000), CLIP_benchmark and this one all (25,010). For nocaps no public script was found, so this is
our reading.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fwd2bot.evaluation.base import VectorBenchmark
from fwd2bot.evaluation.caption_files import Captioned, read_coco, read_flickr30k, read_nocaps
from fwd2bot.evaluation.metrics import recall_at


class RetrievalBenchmark(VectorBenchmark):
    """Texts find the picture that they were written for, pictures any text that was written for them."""

    metric = "text_to_image_R@1"
    read: ClassVar[Callable[[Path, str], list[Captioned]]]

    def __init__(self, folder: Path, split: str | None = None) -> None:
        super().__init__(folder, split)
        self.captioned = type(self).read(folder, self.split)

    def images(self) -> Sequence[Path | bytes]:
        return [one.image for one in self.captioned]

    def texts(self) -> Sequence[str]:
        return [text for one in self.captioned for text in one.captions]

    def score(self, images: NDArray[np.float32], texts: NDArray[np.float32]) -> dict[str, float]:
        owners = [number for number, one in enumerate(self.captioned) for _ in one.captions]
        return recall_at(images, texts, owners)


class CocoRetrieval(RetrievalBenchmark):
    name = "coco_retrieval"
    splits = ("test", "val")
    read = read_coco


class Flickr30kRetrieval(RetrievalBenchmark):
    name = "flickr30k_retrieval"
    splits = ("test", "val")
    read = read_flickr30k


class NocapsRetrieval(RetrievalBenchmark):
    name = "nocaps_retrieval"
    splits = ("val",)
    read = read_nocaps
