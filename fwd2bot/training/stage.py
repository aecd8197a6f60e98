"""What the loop asks of a stage of training, and what all stages share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer

from fwd2bot.data.tokenizer import build_tokenizer
from fwd2bot.data.world import Scene, render
from fwd2bot.training import distributed
from fwd2bot.training.config import TrainConfig

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Stage(ABC):
    """A model, its batches and its losses. `batch(step)` must depend on the step alone: that is what resuming needs."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.device = distributed.device()

    @property
    def varied(self) -> bool:
        """In some steps the losses depend on a part of what is trained only; CLIP's last layer is never read."""
        return "vision" in self.config.train_parts

    @property
    def layers(self) -> list[nn.Module]:
        """The parts of the model that several processes, where it is spread over them, gather one at a time."""
        return []

    def anew(self) -> "Stage":
        """Another one, as this was before training; a stage that can be spread over processes has it."""
        raise NotImplementedError("only a compressor is spread")

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The model; its parameters that want gradients are trained and checkpointed."""

    @abstractmethod
    def batch(self, step: int) -> Any:
        """The data of a step."""

    @abstractmethod
    def losses(self, batch: Any, step: int) -> dict[str, Tensor]:
        """Named scalars; the loop minimises their sum."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Figures on a few validation scenes."""

    def answer_samples(self) -> list[dict[str, str]]:
        """Some validation questions with the answers that the model gives now and the true ones, where it answers."""
        return []

    def rows(self, batch: Any) -> int:
        """How many scenes, or pairs, a step on such batches is about, over all processes."""
        return self.config.batch_size

    def flops(self, batch: Any) -> float | None:
        """FLOPs of the model's products in a step on such batches, over all processes; None: they are not known."""
        return None

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what the next stage, or the user, loads."""

    @property
    def in_bfloat16(self) -> bool:
        """Matrix products are: the configuration wants it, and the device does not take them one number at a time."""
        return self.config.autocast and distributed.multiplies_bfloat16(self.device)

    def autocast(self) -> torch.autocast:
        """Around what computes losses and figures."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.in_bfloat16)

    def validation(self) -> Iterator[range]:
        """Numbers of the validation scenes, in whole batches."""
        return validation_indices(self.config)

    def indices(self, step: int) -> Sequence[int]:
        """Numbers of the scenes of a step: this process's part."""
        return step_indices(self.config, step)


def validation_indices(config: TrainConfig) -> Iterator[range]:
    """Numbers of the scenes that figures are taken on, in whole batches: what is compiled has one shape."""
    for first in range(0, config.validation, config.batch_size):
        yield range(first, first + config.batch_size)


def step_indices(config: TrainConfig, step: int) -> Sequence[int]:
    """Numbers of the scenes of a step that are this process's: those of another step or seed are others."""
    first = config.seed * 10_000_000 + step * config.batch_size
    return distributed.part(range(first, first + config.batch_size))


def kept_tokenizer(folder: Path, vocabulary: int, scenes: int) -> Any:
    """The tokenizer that the run in this folder began with; a new run makes one, and keeps it for when it goes on."""
    if (folder / "checkpoint").exists() and (folder / "tokenizer.json").exists():
        return AutoTokenizer.from_pretrained(folder)
    tokenizer = build_tokenizer(vocabulary, scenes)
    tokenizer.save_pretrained(folder)
    return tokenizer


def scene_pixels(scenes: Iterable[Scene], size: int) -> Tensor:
    """Pictures as the model's own preprocessing gives them: (B, 3, size, size).

    Every other one is drawn twice as large and scaled down, since pictures from a disk are larger than the input.
    """
    drawn = [render(scene, size=size) if scene.index % 2 else _scaled_down(scene, size) for scene in scenes]
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255.0
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    return ((pixels - mean) / std).contiguous()


def _scaled_down(scene: Scene, size: int) -> NDArray[np.uint8]:
    large = Image.fromarray(render(scene, size=2 * size))
    return np.asarray(large.resize((size, size), Image.Resampling.BICUBIC))


def pad_to(rows: list[list[Any]], length: int, value: Any) -> Tensor:
    """Rows cut or padded on the right to one length."""
    return torch.tensor([(row + [value] * length)[:length] for row in rows])


def accuracy(hits: dict[str, list[bool]]) -> dict[str, float]:
    """Share of hits by kind, in per cent, with their mean."""
    shares = {kind: 100.0 * sum(found) / len(found) for kind, found in sorted(hits.items()) if found}
    return {**shares, "mean": sum(shares.values()) / max(1, len(shares))}


def turn_numbers(labels: Tensor, end: int, shared: Tensor) -> Tensor:
    """The turn of each token, from 1, for `attention.independent_turns`: (N, T).

    A turn ends with the labelled `end` of its answer; the first `shared` (N, 1) tokens of a row are 0. Questions about
    one scene answer each other: a model that sees earlier turns learns to read those instead of the picture.
    """
    ended = F.pad((labels == end)[:, :-1].long(), (1, 0))
    return torch.where(torch.arange(labels.shape[1]) < shared, 0, 1 + ended.cumsum(dim=1))
