"""The projector: what the tower sees in a patch becomes the language model's own words for it.

LLaVA's first stage aligns the projector through captions and a frozen language model. Here the generator knows what
every patch shows, so the projected patch is drawn straight to the sum of the embeddings of those words: the thing's
name, its size and its place, or the background's colour and pattern. The same end, at the cost of a forward pass of
the tower; and the place, which a language model with rotary positions cannot read off a row's index, comes with it.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwd2bot.checkpoint import save_model
from fwd2bot.compressors.base import Compressor, CompressorConfig
from fwd2bot.compressors.catalogue import make_compressor
from fwd2bot.data.world import Scene, make_scene
from fwd2bot.data.world.scene import COLOURS, PATTERNS, PLACES, UNIT
from fwd2bot.data.world.sprites import LETTERS
from fwd2bot.training.compressor import assemble_llava
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.stage import Stage, scene_pixels
from fwd2bot.training.tower import CLASSES, patch_labels

DETAILS = (*PLACES, "small", "large", *PATTERNS, "")
"""What is said of a patch besides its name or colour; the last says nothing."""
_NOTHING = len(DETAILS) - 1
_FIRST_LETTER = len(CLASSES) - len(LETTERS)


def patch_words(scene: Scene, grid: int) -> Tensor:
    """What is said of each patch, (grid * grid, 3): a class as in `patch_labels`, then two words of `DETAILS`.

    A sign's second letter is + len(LETTERS): another token than its first. Things: size and place; background: its
    pattern and nothing.
    """
    labels = patch_labels(scene, grid).view(grid, grid)
    details = torch.full((grid, grid, 2), _NOTHING)
    details[..., 0] = DETAILS.index(scene.pattern)
    centres = (torch.arange(grid) + 0.5) * UNIT / grid
    for thing in scene.things:
        inside = ((centres - thing.y).abs() <= thing.side / 2)[:, None] & ((centres - thing.x).abs() <= thing.side / 2)
        inside &= labels >= len(COLOURS)
        details[inside] = torch.tensor([DETAILS.index(thing.size), DETAILS.index(PLACES[thing.place])])
        if thing.text:
            labels[inside & (centres >= thing.x) & (labels >= _FIRST_LETTER)] += len(LETTERS)
    return torch.cat([labels[..., None], details], dim=-1).flatten(0, 1)


class ProjectorStage(Stage):
    """Trains the projector, and with `train_parts: [vision, projector]` the tower below it, too.

    A tower trained on what each patch shows has no need to remember where the patch is; a question about a place has.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        llava = assemble_llava(config.init)
        settings = CompressorConfig(compressor="identity", adapters="none", num_tokens=144, template="short")
        self.compressor: Compressor = make_compressor(llava, settings)
        self.compressor.trainable(config.train_parts or ("projector",))
        self.image = int(llava.network.config.vision_config.image_size)
        self.words, self.details = (words.to(self.device) for words in self._word_embeddings())
        if config.compile:
            llava.compile(dynamic=False)

    @torch.no_grad()
    def _word_embeddings(self) -> tuple[Tensor, Tensor]:
        """(classes, D) and (details, D): sums of each word's tokens; letters as a sign's first, then as its second."""
        llava = self.compressor.llava

        def embedded(words: str) -> Tensor:
            ids = llava.tokenizer(words, add_special_tokens=False)["input_ids"]
            return llava.embed(torch.tensor(ids)).sum(0)

        words = [embedded(name) for name in (*CLASSES[:_FIRST_LETTER], *(letter.lower() for letter in LETTERS))]
        for letter in LETTERS:
            continued = llava.tokenizer.convert_tokens_to_ids(letter.lower())
            words.append(llava.embed(torch.tensor([continued]))[0])
        details = [embedded(word) for word in DETAILS[:_NOTHING]]
        return torch.stack(words), torch.stack([*details, torch.zeros_like(details[0])])

    @property
    def module(self) -> nn.Module:
        return self.compressor

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """pixels (B, 3, H, W), words of each patch (B, V, 3)."""
        return self._tensors([make_scene("train", index) for index in self.indices(step)])

    def _tensors(self, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
        grid = self.compressor.llava.grid
        return scene_pixels(scenes, self.image), torch.stack([patch_words(scene, grid) for scene in scenes])

    def losses(self, batch: tuple[Tensor, Tensor], step: int) -> dict[str, Tensor]:
        """Each word against its alternatives, by cosine; and the squared distance to the sum, in the words' own spread.

        Backgrounds count a fifth.
        """
        pixels, said = batch
        projected = self.compressor.compress(pixels).float()  # (B, V, D)
        wanted = self.words[said[..., 0]] + self.details[said[..., 1:]].sum(-2)
        weight = torch.where(said[..., 0] < len(COLOURS), 0.2, 1.0)
        weight = weight / weight.sum()
        distance = (projected - wanted).square().mean(-1) / self.words.var()
        vectors = F.normalize(projected, dim=-1)
        choice = _against(vectors, self.words, said[..., 0])
        for column in (1, 2):
            choice = choice + _against(vectors, self.details, said[..., column])
        return {"distance": (distance * weight).sum(), "choice": (choice * weight).sum()}

    def evaluate(self) -> dict[str, float]:
        """Share of patches on things whose nearest name, place and size (by cosine) are right, on 128 scenes."""
        scenes = [make_scene("val", index) for index in range(128)]
        pixels, said = (part.to(self.device) for part in self._tensors(scenes))
        with self.autocast():
            projected = torch.cat([self.compressor.compress(part) for part in pixels.split(self.config.batch_size)])
        thing = said[..., 0] >= len(COLOURS)
        vectors, said = F.normalize(projected.float()[thing], dim=-1), said[thing]
        names = (vectors @ F.normalize(self.words, dim=-1).T).argmax(-1) == said[:, 0]
        details = vectors @ F.normalize(self.details, dim=-1, eps=1e-3).T
        places = details[:, : len(PLACES)].argmax(-1) == said[:, 2]
        sizes = details[:, len(PLACES) : len(PLACES) + 2].argmax(-1) + len(PLACES) == said[:, 1]
        right = {"name": names, "place": places, "size": sizes}
        return {part: 100.0 * hits.float().mean().item() for part, hits in right.items()}

    def save(self, folder: Path) -> None:
        """A LLaVA folder whose language model has not seen a picture yet."""
        save_model(folder, self.compressor)


def _against(vectors: Tensor, words: Tensor, said: Tensor) -> Tensor:
    """Cross-entropy of each patch's word among all, by cosine at temperature 0.05: (B, V)."""
    scores = vectors @ F.normalize(words, dim=-1, eps=1e-3).T / 0.05
    return F.cross_entropy(scores.flatten(0, 1), said.flatten(), reduction="none").view(said.shape)
