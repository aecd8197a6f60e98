"""Retrieval by the CLIP tower alone, as its own contrastive training gives it: the rival of Fwd2Bot's vectors.

python -m fwd2bot.evaluation.tower --tower work/emoji-world/tower --out results/world/tower.json
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from fwd2bot.data.world import captions
from fwd2bot.data.world.scene import Scene
from fwd2bot.errors import ModelError
from fwd2bot.evaluation.world import gallery, pictures, retrieval_scores, write_result
from fwd2bot.provenance import provenance


class Tower:
    """A trained tower in use: pictures and captions to unit vectors (N, D).

    text_length: tokens of a caption that are read, as in training (`data.text_length`).

    Raises ModelError where the folder holds no tower.
    """

    def __init__(self, folder: Path, text_length: int = 72) -> None:
        if not (folder / "config.json").exists():
            raise ModelError(f"{folder} holds no tower: train configs/emoji-world/tower.yaml first.")
        self.clip: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.processor: Any = CLIPImageProcessorPil.from_pretrained(folder)
        self.text_length = text_length

    @torch.inference_mode()
    def embed_images(self, scenes: Sequence[Scene]) -> Tensor:
        pixels = self.processor(images=pictures(scenes), return_tensors="pt")["pixel_values"]
        seen = self.clip.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.clip.visual_projection(seen), dim=-1)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        pad, first = self.tokenizer.pad_token_id, self.tokenizer.bos_token_id
        listed = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        rows = [[first, *ids][: self.text_length - 1] for ids in listed]
        length = max(map(len, rows)) + 1  # a padding token closes a text
        ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
        read = self.clip.text_model(input_ids=ids).pooler_output
        return F.normalize(self.clip.text_projection(read), dim=-1)


def tower_vectors(tower: Tower, scenes: Sequence[Scene]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors of the scenes' pictures and of their five captions each."""
    images, texts = [], []
    for first in range(0, len(scenes), 100):
        part = scenes[first : first + 100]
        images.append(tower.embed_images(part))
        texts.append(tower.embed_texts([text for scene in part for text in captions(scene)]))
    return torch.cat(images).numpy(), torch.cat(texts).numpy()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one JSON, in the shape of `fwd2bot.evaluation.world`."""
    parser = argparse.ArgumentParser(prog="python -m fwd2bot.evaluation.tower", description=__doc__)
    parser.add_argument("--tower", type=Path, required=True)
    parser.add_argument("--text-length", type=int, default=72)
    parser.add_argument("--gallery", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    started = time.monotonic()
    tower = Tower(options.tower, options.text_length)
    scores = retrieval_scores(*tower_vectors(tower, gallery(options.gallery)))
    result = {
        "model": str(options.tower),
        "num_tokens": None,
        "gallery": options.gallery,
        "seconds": round(time.monotonic() - started),
        **provenance(),
        "figures": {"retrieval": scores},
    }
    write_result(result, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
