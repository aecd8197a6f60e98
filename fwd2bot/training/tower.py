"""The CLIP tower: contrastive on captions, and dense labels that say what each patch shows (the generator knows).

The dense loss sits on the layer that LLaVA reads (-2), so that what is learnt is where it will be used. It asks for the
place, too: a tower that is taught only what a patch shows forgets where the patch is.
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
from fwd2bot.data.world.patches import FIRST_LETTER, FIRST_THING, SHOWN, SIZES, patch_words
from fwd2bot.data.world.scene import PLACES
from fwd2bot.errors import InputError
from fwd2bot.losses import contrastive_loss, full_precision
from fwd2bot.training import distributed
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.stage import CLIP_MEAN, CLIP_STD, Stage, kept_tokenizer, pad_to, scene_pixels

_WORDS = (len(SHOWN), len(SIZES), len(PLACES) + 1)
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


class _Tower(nn.Module):
    def __init__(self, clip: Any, width: int) -> None:
        super().__init__()
        self.clip = clip
        self.dense = nn.Linear(width, sum(_WORDS))


class TowerStage(Stage):
    """CLIP with a head on its patches that is thrown away afterwards."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        sizes = dict(config.model)
        self.tokenizer: Any = kept_tokenizer(config.out, sizes.pop("vocabulary"), sizes.pop("tokenizer_scenes"))
        self.image, self.grid = sizes["image"], sizes["image"] // sizes["patch"]
        clip: Any = CLIPModel(small_clip(len(self.tokenizer), **sizes))
        clip.set_attn_implementation(attention.register())
        clip.logit_scale.requires_grad_(False)  # the temperature is fixed
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
        """pixels (B, 3, H, W), words of each patch (B, V, 3), caption ids (B, T)."""
        scenes = [make_scene("train", index) for index in self.indices(step)]
        return self._tensors(scenes, [random.Random(scene.seed + 3).choice(captions(scene)) for scene in scenes])

    def _tensors(self, scenes: list[Scene], texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        rows = [[1, *self.tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]
        rows = [row[: self.text_length - 1] for row in rows]
        labels = torch.stack([patch_words(scene, self.grid) for scene in scenes])
        return scene_pixels(scenes, self.image), labels, pad_to(rows, self.text_length, _PAD)

    def _forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Dense logits (B, V, words), image and text embeddings (B, D)."""
        clip = self.tower.clip
        seen = clip.vision_model(pixel_values=pixels, output_hidden_states=True)
        dense = self.tower.dense(seen.hidden_states[-2][:, 1:])
        read = clip.text_model(input_ids=ids)
        return dense, clip.visual_projection(seen.pooler_output), clip.text_projection(read.pooler_output)

    def losses(self, batch: tuple[Tensor, Tensor, Tensor], step: int) -> dict[str, Tensor]:
        """Cross-entropy of the patches' words, background a fifth, and Eq. 3 on the pooled embeddings."""
        pixels, said, ids = batch
        dense, images, texts = self._forward(pixels, ids)
        weights = torch.where(said[..., 0] < FIRST_THING, 0.2, 1.0).flatten()
        words = [
            F.cross_entropy(full_precision(logits).flatten(0, 1), word.flatten(), reduction="none")
            for logits, word in zip(dense.split(_WORDS, dim=-1), said.unbind(-1), strict=True)
        ]
        total = weights.sum()
        patches = (torch.stack(words).sum(0) * weights).sum() / total
        images, texts = distributed.gathered(images), distributed.gathered(texts)
        return {
            "patches": patches * distributed.share(total),
            "contrastive": 0.5 * contrastive_loss(images, texts, self.temperature),
        }

    def evaluate(self) -> dict[str, float]:
        """Right words of thing and letter patches, and image-to-caption R@1 in a batch, on validation scenes."""
        rights: list[Tensor] = []
        shown: list[Tensor] = []
        found: list[Tensor] = []
        for indices in self.validation():
            scenes = [make_scene("val", index) for index in indices]
            batch = self._tensors(scenes, [captions(scene)[0] for scene in scenes])
            pixels, said, ids = (part.to(self.device) for part in batch)
            with self.autocast():
                dense, images, texts = self._forward(pixels, ids)
            nearest = torch.stack([logits.argmax(-1) for logits in dense.split(_WORDS, dim=-1)], dim=-1)
            rights.append((nearest == said).flatten(0, 1))
            shown.append(said[..., 0].flatten())
            scores = F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T
            found.append(scores.argmax(1) == torch.arange(len(scenes), device=scores.device))
        right, what, recall = torch.cat(rights).float(), torch.cat(shown), torch.cat(found).float()
        things, letters = (what >= FIRST_THING) & (what < FIRST_LETTER), what >= FIRST_LETTER
        figures = {"names": right[things, 0], "letters": right[letters, 0], "sizes": right[things, 1]}
        figures |= {"places": right[things | letters, 2], f"recall_1_of_{self.config.batch_size}": recall}
        return {name: 100.0 * hits.mean().item() for name, hits in figures.items() if len(hits)}

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
