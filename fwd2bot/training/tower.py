"""The CLIP tower: contrastive on captions, and dense labels that say what each patch shows (the generator knows).

The dense loss sits on the layer that LLaVA reads (-2), so that what is learnt is where it will be used.
"""

import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from fwd2bot import attention
from fwd2bot.data.world import Scene, make_scene
from fwd2bot.data.world.language import captions
from fwd2bot.data.world.scene import COLOURS, UNIT
from fwd2bot.data.world.sprites import LETTERS, object_names
from fwd2bot.errors import InputError
from fwd2bot.losses import contrastive_loss
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.stage import CLIP_MEAN, CLIP_STD, Stage, kept_tokenizer, pad_to, scene_pixels

CLASSES = (*COLOURS, *object_names(), *LETTERS)
_CLASS = {name: number for number, name in enumerate(CLASSES)}
_PAD = 3
TEXT_CONTEXT = 96
"""The most tokens of a caption that a tower can read."""


def small_clip(vocabulary: int, *, image: int, patch: int, width: int, layers: int, text_layers: int) -> CLIPConfig:
    """A CLIP of any size with heads of 64; the padding token closes a text (transformers treats id 2 specially).

    Raises InputError for sizes that do not go together.
    """
    if width % 64:
        raise InputError(f"model.width is {width}; a tower has heads of 64, so it must be a multiple of 64.")
    if image % patch:
        raise InputError(f"model.image is {image}, which patches of model.patch {patch} do not fill; take a multiple.")
    if layers < 2:
        raise InputError(f"model.layers is {layers}; LLaVA reads the layer before the last, so it must be at least 2.")
    shared = {"intermediate_size": 4 * width, "num_attention_heads": width // 64, "hidden_size": width}
    return CLIPConfig(
        text_config={
            **shared,
            "vocab_size": vocabulary,
            "num_hidden_layers": text_layers,
            "max_position_embeddings": TEXT_CONTEXT,
            "bos_token_id": 1,
            "eos_token_id": _PAD,
            "pad_token_id": _PAD,
        },
        vision_config={**shared, "image_size": image, "patch_size": patch, "num_hidden_layers": layers},
        projection_dim=width,
    )


def patch_labels(scene: Scene, grid: int) -> Tensor:
    """What each patch shows, (grid * grid,): a thing (a sign: its left or right letter) or the background's colour.

    A thing owns the patches whose centre lies within the middle nine tenths of its box.
    """
    labels = torch.full((grid, grid), _CLASS[scene.colour])
    step = UNIT / grid
    centres = (torch.arange(grid) + 0.5) * step
    for thing in scene.things:
        reach = 0.45 * thing.side
        rows = (centres - thing.y).abs() <= reach
        columns = (centres - thing.x).abs() <= reach
        if thing.text:
            first, second = (_CLASS[letter] for letter in thing.text)
            halves = torch.where(centres < thing.x, first, second).expand(grid, grid)
            owned = rows[:, None] & columns[None, :]
            labels[owned] = halves[owned]
        else:
            labels[rows[:, None] & columns[None, :]] = _CLASS[thing.name]
    return labels.flatten()


class _Tower(nn.Module):
    def __init__(self, clip: Any, width: int) -> None:
        super().__init__()
        self.clip = clip
        self.dense = nn.Linear(width, len(CLASSES))


class TowerStage(Stage):
    """CLIP with a head on its patches that is thrown away afterwards."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        sizes = dict(config.model)
        self.tokenizer: Any = kept_tokenizer(config.out, sizes.pop("vocabulary"), sizes.pop("tokenizer_scenes"))
        self.image, self.grid = sizes["image"], sizes["image"] // sizes["patch"]
        clip: Any = CLIPModel(small_clip(len(self.tokenizer), **sizes))
        clip.set_attn_implementation(attention.register())
        self.tower = _Tower(clip, sizes["width"])
        self.temperature = float(config.data["temperature"])
        self.text_length = int(config.data["text_length"])
        if self.text_length > TEXT_CONTEXT:
            raise InputError(f"data.text_length is {self.text_length}; a tower reads at most {TEXT_CONTEXT} tokens.")
        if config.compile:
            clip.vision_model.forward = torch.compile(clip.vision_model.forward, dynamic=False)
            clip.text_model.forward = torch.compile(clip.text_model.forward, dynamic=False)

    @property
    def module(self) -> nn.Module:
        return self.tower

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """pixels (B, 3, H, W), patch labels (B, V), caption ids (B, T)."""
        scenes = [make_scene("train", index) for index in self.indices(step)]
        rng = random.Random(step)
        return self._tensors(scenes, [rng.choice(captions(scene)) for scene in scenes])

    def _tensors(self, scenes: list[Scene], texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        rows = [[1, *self.tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]
        rows = [row[: self.text_length - 1] for row in rows]
        labels = torch.stack([patch_labels(scene, self.grid) for scene in scenes])
        return scene_pixels(scenes, self.image), labels, pad_to(rows, self.text_length, _PAD)

    def _forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Dense logits (B, V, classes), image and text embeddings (B, D)."""
        clip = self.tower.clip
        seen = clip.vision_model(pixel_values=pixels, output_hidden_states=True)
        dense = self.tower.dense(seen.hidden_states[-2][:, 1:])
        read = clip.text_model(input_ids=ids)
        return dense, clip.visual_projection(seen.pooler_output), clip.text_projection(read.pooler_output)

    def losses(self, batch: tuple[Tensor, Tensor, Tensor], step: int) -> dict[str, Tensor]:
        """Cross-entropy of the patches and Eq. 3 on the pooled embeddings."""
        pixels, labels, ids = batch
        dense, images, texts = self._forward(pixels, ids)
        weights = torch.ones(len(CLASSES), device=dense.device)
        weights[: len(COLOURS)] = 0.2
        return {
            "patches": F.cross_entropy(dense.float().flatten(0, 1), labels.flatten(), weight=weights),
            "contrastive": 0.5 * contrastive_loss(images.float(), texts.float(), self.temperature),
        }

    def evaluate(self) -> dict[str, float]:
        """Right patches on things and on letters, and image-to-caption R@1 among a batch, on validation scenes."""
        thing: list[Tensor] = []
        letter: list[Tensor] = []
        found: list[Tensor] = []
        for indices in self.validation():
            scenes = [make_scene("val", index) for index in indices]
            batch = self._tensors(scenes, [captions(scene)[0] for scene in scenes])
            pixels, labels, ids = (part.to(self.device) for part in batch)
            with self.autocast():
                dense, images, texts = self._forward(pixels, ids)
            right = dense.argmax(-1) == labels
            first_letter = len(CLASSES) - len(LETTERS)
            thing.append(right[(labels >= len(COLOURS)) & (labels < first_letter)])
            letter.append(right[labels >= first_letter])
            scores = F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T
            found.append(scores.argmax(1) == torch.arange(len(scenes), device=scores.device))
        figures = {"thing_patches": thing, "letter_patches": letter, f"recall_1_of_{self.config.batch_size}": found}
        whole = {name: torch.cat(parts).float() for name, parts in figures.items()}
        return {name: 100.0 * right.mean().item() for name, right in whole.items() if len(right)}

    def save(self, folder: Path) -> None:
        """The whole CLIP (a retrieval rival too) as a transformers folder, with its tokenizer and preprocessing."""
        self.tower.clip.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        image_processor(self.image).save_pretrained(folder)


def image_processor(size: int) -> CLIPImageProcessorPil:
    """Preprocessing of CLIP at a small size."""
    square = {"height": size, "width": size}
    return CLIPImageProcessorPil(
        size=square, crop_size=square, image_mean=list(CLIP_MEAN), image_std=list(CLIP_STD), do_center_crop=False
    )
