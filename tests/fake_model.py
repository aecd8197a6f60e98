"""A model for tests of everything around the model: it sees the colours of the four quarters of a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fwd2bot.errors import InputError, ModelError

COLOURS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "white": (1, 1, 1),
    "black": (0, 0, 0),
}
LONGEST = 60  # characters of a question


class FakeModel:
    """Four tokens: the quarters' colours, a constant, and which quarter it is. Answers with the nearest names."""

    name = "fake"
    source = "fake"
    batch_size = 32
    storable = True
    fingerprint = "sha256:" + "ab" * 32
    width = 8
    num_tokens = 4
    token_counts: Sequence[int] = (1, 2, 3, 4)
    cuttable = True

    def __init__(self) -> None:
        self.batches: list[int] = []

    def compress(self, images: Sequence[Image.Image], num_tokens: int | None = None) -> Tensor:
        self.batches.append(len(images))
        quarters = [
            np.asarray(image.resize((2, 2), Image.Resampling.BOX), dtype=np.float32).reshape(4, 3) / 255
            for image in images
        ]
        return self._tokens(np.stack(quarters), num_tokens)

    def answer(self, tokens: Any, questions: Sequence[str]) -> list[str]:
        for question in questions:
            if len(question) > LONGEST:
                raise InputError(f"the question has {len(question)} letters; at most {LONGEST} fit: ask a shorter one")
        names = [[_nearest(token) for token in row] for row in tokens]
        return [" ".join(row) if "each" in question else row[0] for row, question in zip(names, questions, strict=True)]

    def caption(self, tokens: Any) -> list[str]:
        return [f"a {_nearest(row[0])} picture" for row in tokens]

    def embed(self, inputs: Any, num_tokens: int | None = None) -> Tensor:
        if not isinstance(inputs, Tensor):
            colours = [next((rgb for word, rgb in COLOURS.items() if word in text), (0.5, 0.5, 0.5)) for text in inputs]
            inputs = self._tokens(np.repeat(np.array(colours, dtype=np.float32)[:, None], 4, axis=1), num_tokens)
        return torch.nn.functional.normalize(inputs.mean(dim=1), dim=-1)

    def _tokens(self, quarters: np.ndarray, num_tokens: int | None) -> Tensor:
        colours = torch.from_numpy(quarters)
        place = torch.eye(4)[None].expand(len(colours), 4, 4)
        tokens = torch.cat([2 * colours - 1, torch.ones(len(colours), 4, 1), place], dim=-1)
        return tokens[:, : num_tokens or 4]


class OtherModel(FakeModel):
    """The same with other weights, and no part of a row."""

    name = source = "other"
    fingerprint = "sha256:" + "cd" * 32
    token_counts = (2, 4)
    cuttable = False


def fake_load(name: str, device: str | None = None, dtype: str | None = None) -> FakeModel:
    models = {"fake": FakeModel, "emoji-world": FakeModel, "other": OtherModel}
    if name not in models:
        raise ModelError(f"There is no model {name}.")
    return models[name]()


def picture(path: Path, colour: str, other: str | None = None) -> Path:
    """A picture of one colour, or of another in its right half."""
    rgb = {name: tuple(255 * part for part in parts) for name, parts in COLOURS.items()}
    image = Image.new("RGB", (16, 16), rgb[colour])
    if other is not None:
        image.paste(rgb[other], (8, 0, 16, 16))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def _nearest(token: Any) -> str:
    colour = (torch.as_tensor(token)[:3] + 1) / 2
    return min(COLOURS, key=lambda name: float((colour - torch.tensor(COLOURS[name])).abs().sum()))
