"""The projector: what the tower sees in a patch becomes the language model's own word for it.

LLaVA's first stage aligns the projector through captions and a frozen language model. Here the generator knows what
every patch shows, so the projected patch is drawn straight to the embedding of that word: the same end, at the cost
of a forward pass of the tower.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwd2bot.checkpoint import save_model
from fwd2bot.compressors.base import Compressor, CompressorConfig
from fwd2bot.compressors.catalogue import make_compressor
from fwd2bot.data.world import Scene, make_scene
from fwd2bot.data.world.scene import COLOURS, UNIT
from fwd2bot.data.world.sprites import LETTERS
from fwd2bot.training.compressor import assemble_llava
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.stage import Stage, scene_pixels
from fwd2bot.training.tower import CLASSES, patch_labels

_FIRST_LETTER = len(CLASSES) - len(LETTERS)


def patch_words(scene: Scene, grid: int) -> Tensor:
    """As `patch_labels`, with a sign's second letter apart from its first (another token): + len(LETTERS)."""
    labels = patch_labels(scene, grid).view(grid, grid)
    centres = (torch.arange(grid) + 0.5) * UNIT / grid
    for thing in scene.things:
        if thing.text:
            reach = thing.side / 2
            rows, right = (centres - thing.y).abs() <= reach, (centres >= thing.x) & (centres <= thing.x + reach)
            second = rows[:, None] & right & (labels >= _FIRST_LETTER)
            labels[second] += len(LETTERS)
    return labels.flatten()


class ProjectorStage(Stage):
    """Trains the projector alone."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        llava = assemble_llava(config.init)
        settings = CompressorConfig(compressor="identity", adapters="none", num_tokens=144, template="short")
        self.compressor: Compressor = make_compressor(llava, settings)
        self.compressor.trainable(["projector"])
        self.image = int(llava.network.config.vision_config.image_size)
        self.words = self._word_embeddings()
        if config.compile:
            llava.compile(dynamic=False)

    def _word_embeddings(self) -> Tensor:
        """(classes, D): the mean embedding of each class's tokens; letters as a sign's first, then as its second."""
        llava = self.compressor.llava
        words = []
        for name in (*CLASSES[:_FIRST_LETTER], *(letter.lower() for letter in LETTERS)):
            ids = llava.tokenizer(name, add_special_tokens=False)["input_ids"]
            words.append(llava.embed(torch.tensor(ids)).mean(0))
        for letter in LETTERS:
            continued = llava.tokenizer.convert_tokens_to_ids(letter.lower())
            words.append(llava.embed(torch.tensor([continued]))[0])
        return torch.stack(words).detach()

    @property
    def module(self) -> nn.Module:
        return self.compressor

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """pixels (B, 3, H, W), classes (B, V)."""
        return self._tensors([make_scene("train", index) for index in self.indices(step)])

    def _tensors(self, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
        grid = self.compressor.llava.grid
        return scene_pixels(scenes, self.image), torch.stack([patch_words(scene, grid) for scene in scenes])

    def losses(self, batch: tuple[Tensor, Tensor], step: int) -> dict[str, Tensor]:
        """Squared distance to the word, in units of the words' own spread; backgrounds count a fifth."""
        pixels, classes = batch
        projected = self.compressor.compress(pixels).float()
        words = self.words.to(projected.device)
        distance = (projected - words[classes]).square().mean(-1) / words.var()
        weight = torch.where(classes < len(COLOURS), 0.2, 1.0)
        return {"distance": (distance * weight).sum() / weight.sum()}

    def evaluate(self) -> dict[str, float]:
        """Share of patches on things whose nearest word is the right one, on up to 128 validation scenes."""
        words, found = F.normalize(self.words, dim=-1).to(self.device), []
        for indices in self.validation(128):
            pixels, classes = (part.to(self.device) for part in self._tensors([make_scene("val", i) for i in indices]))
            with self.autocast():
                projected = self.compressor.compress(pixels)
            right = (F.normalize(projected.float(), dim=-1) @ words.T).argmax(-1) == classes
            found.append(right[classes >= len(COLOURS)])
        return {"thing_patches": 100.0 * torch.cat(found).float().mean().item()}

    def save(self, folder: Path) -> None:
        """A LLaVA folder whose language model has not seen a picture yet."""
        save_model(folder, self.compressor)
