"""The projector: what the tower sees in a patch becomes the language model's own words for it.

LLaVA's first stage aligns the projector through captions and a frozen language model. Here the generator knows what
every patch shows, so the projected patch is drawn straight to the sum of the embeddings of those words: the thing's
name, its size and its place, or the background's colour and pattern. The same end, at the cost of a forward pass of
the tower; and the place, which a language model with rotary positions cannot read off a row's index, comes with it.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwd2bot.checkpoint import save_model
from fwd2bot.compressors.base import Compressor
from fwd2bot.compressors.catalogue import make_compressor
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.data.world import Scene, make_scene
from fwd2bot.data.world.patches import FIRST_THING, patch_token_ids, patch_words
from fwd2bot.losses import cosines, full_precision
from fwd2bot.training import distributed
from fwd2bot.training.compressor import assemble_llava
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.stage import Stage, scene_pixels


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
        self.words = [words.to(self.device) for words in self._word_embeddings()]
        if config.compile:
            llava.compile(dynamic=False)

    @torch.no_grad()
    def _word_embeddings(self) -> list[Tensor]:
        """Of every word that a patch may be given, by column of `patch_words`: (words, D) each."""
        embed = self.compressor.llava.embed
        columns = patch_token_ids(self.compressor.llava.tokenizer)
        return [
            torch.stack([embed(torch.tensor(ids, dtype=torch.long)).sum(0) for ids in column]) for column in columns
        ]

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
        projected = full_precision(self.compressor.compress(pixels))  # (B, V, D)
        weight = torch.where(said[..., 0] < FIRST_THING, 0.2, 1.0)
        total = weight.sum()
        weight = weight / total * distributed.share(total)
        wanted = torch.stack([words[one] for words, one in self._columns(said)]).sum(0)
        distance = (projected - wanted).square().mean(-1) / self.words[0].var()
        scores = [(self._scores(projected, words), one) for words, one in self._columns(said)]
        choice = torch.stack([F.cross_entropy(s.flatten(0, 1), one.flatten(), reduction="none") for s, one in scores])
        return {"distance": (distance * weight).sum(), "choice": (choice.sum(0) * weight.flatten()).sum()}

    def _columns(self, said: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Embeddings of the words that may stand in a column of `said` (..., 3), and those that do."""
        return zip(self.words, said.unbind(-1), strict=True)

    def _scores(self, projected: Tensor, words: Tensor) -> Tensor:
        """Logits of each word for each patch, by cosine: (..., D) -> (..., words)."""
        return cosines(projected, words.to(projected.dtype)) / 0.05

    def evaluate(self) -> dict[str, float]:
        """Share of patches on things whose nearest name, size and place (by cosine) are right."""
        rights: list[Tensor] = []
        for indices in self.validation():
            pixels, said = self._tensors([make_scene("val", index) for index in indices])
            said = said.to(self.device)
            with self.autocast():
                projected = self.compressor.compress(pixels.to(self.device)).float()
            nearest = torch.stack([self._scores(projected, words).argmax(-1) for words in self.words], dim=-1)
            rights.append((nearest == said)[said[..., 0] >= FIRST_THING])
        shares = 100.0 * torch.cat(rights).float().mean(0)
        return dict(zip(("names", "sizes", "places"), shares.tolist(), strict=True))

    def save(self, folder: Path) -> None:
        """A LLaVA folder whose language model has not seen a picture yet."""
        save_model(folder, self.compressor)
