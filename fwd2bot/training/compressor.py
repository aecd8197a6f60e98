"""Everything that answers from pictures: LLaVA itself (`identity`), Fwd2Bot, and each rival that is trained.

One step: pictures -> tokens (pass 1) -> L_AR over questions (pass 2), and where the compressor embeds text, L_disc
between the mean tokens of pictures and captions (Eq. 4).
"""

import os
import random
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPModel,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from fwd2bot.checkpoint import base_folder, find_on_hub, save_model
from fwd2bot.compressors.base import AnswerBatch, Compressor, CompressorConfig
from fwd2bot.compressors.catalogue import make_compressor
from fwd2bot.data.conversations import IGNORED, encode_conversation, template_named
from fwd2bot.data.world.samples import Sample, draw_sample
from fwd2bot.errors import InputError
from fwd2bot.llava import Llava
from fwd2bot.losses import contrastive_loss
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.language import answers_right
from fwd2bot.training.stage import Stage, accuracy, pad_to, scene_pixels, turn_numbers
from fwd2bot.training.tower import image_processor


class Batch(NamedTuple):
    """pixels (B, 3, H, W), one conversation and one caption an image."""

    pixels: Tensor
    answers: AnswerBatch
    captions: list[str]
    samples: list[Sample]


class CompressorStage(Stage):
    """A compressor on a base; which parts of the base are trained with it is `train_parts`."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        _check_data(config)
        settings = CompressorConfig.from_dict(config.compressor)
        llava = assemble_llava(config.init) if "tower" in config.init else load_base(config.init)
        self.compressor: Compressor = make_compressor(llava, settings)
        self.compressor.trainable(config.train_parts)
        self.compressor.train()
        self.template = template_named(settings.template)
        self.length = int(config.data["length"])
        self.shares = {name: config.data[name] for name in ("turns", "captioning", "listing")}
        self.image = int(llava.network.config.vision_config.image_size)
        llava.gradient_checkpointing = config.gradient_checkpointing
        if config.compile:
            llava.compile(dynamic=False)
        self.disc = config.losses.get("contrastive", 0.0) if self.compressor.embeds_text else 0.0
        if not (self.disc or config.losses.get("autoregressive")):
            raise InputError(
                f"losses leaves {settings.compressor} nothing to learn from; give autoregressive a weight."
            )

    @property
    def module(self) -> nn.Module:
        return self.compressor

    def batch(self, step: int) -> Batch:
        return self._collate([draw_sample("train", index, **self.shares) for index in self.indices(step)])

    def _collate(self, samples: list[Sample]) -> Batch:
        tokenizer = self.compressor.llava.tokenizer
        encoded = [encode_conversation(tokenizer, self.template, sample.turns, has_image=True) for sample in samples]
        ids = pad_to([one.ids for one in encoded], self.length, tokenizer.pad_token_id)
        labels = pad_to([one.labels for one in encoded], self.length, IGNORED)
        place = encoded[0].image_position or 0
        turns = turn_numbers(labels, tokenizer.eos_token_id, torch.tensor([[place]]))
        answers = AnswerBatch(ids, labels, place, turns=turns)
        pixels = scene_pixels([sample.scene for sample in samples], self.image)
        return Batch(pixels, answers, [sample.caption for sample in samples], samples)

    def num_tokens(self, step: int) -> int | None:
        """The number of tokens of a step: one of those offered, at random (prefix training)."""
        counts = self.compressor.token_counts
        if len(counts) == 1 or self.compressor.config.compressor == "identity":
            return None
        return random.Random(f"{self.config.seed}:{step}").choice(counts)

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Eq. 2 and Eq. 3, weighted. Tokens that can be cut are all made, the first few used: one shape of pass 1."""
        count = self.num_tokens(step)
        made = None if self.compressor.cuttable else count
        tokens = self.compressor.compress(batch.pixels, num_tokens=made)[:, :count]
        losses: dict[str, Tensor] = {}
        if weight := self.config.losses.get("autoregressive", 0.0):
            losses["autoregressive"] = weight * self.compressor.answer_loss(tokens, batch.answers)
        if self.disc:
            texts = self.compressor.compress_text(batch.captions, num_tokens=made)[:, :count]
            images, texts = self.compressor.embed_rows(tokens), self.compressor.embed_rows(texts)
            temperature = self.compressor.config.temperature
            losses["contrastive"] = self.disc * contrastive_loss(images.float(), texts.float(), temperature)
        return losses

    def evaluate(self) -> dict[str, float]:
        """Exact answers by kind, each token given those before it (teacher forcing), and R@1 in a batch of captions."""
        counts = self.compressor.token_counts
        shown = counts if len(counts) <= 3 else (counts[0], counts[-1])
        figures: dict[str, float] = {}
        for count in shown:
            found = self._evaluate_at(count)
            prefix = f"{count}/" if len(shown) > 1 else ""
            figures |= {prefix + name: value for name, value in found.items()}
        return figures

    def _evaluate_at(self, count: int) -> dict[str, float]:
        hits: dict[str, list[bool]] = {}
        found: list[bool] = []
        end = self.compressor.llava.tokenizer.eos_token_id
        for indices in self.validation():
            samples = [draw_sample("val", index, turns=8) for index in indices]
            collated = self._collate(samples)
            pixels, answers = collated.pixels.to(self.device), collated.answers.to(self.device)
            with self.autocast():
                tokens = self.compressor.compress(pixels, num_tokens=count)
                logits = self.compressor.answer_logits(tokens, answers)
                if self.disc:
                    found += self._found(tokens, collated.captions)
            labelled = answers.labels[:, 1:] != IGNORED
            predicted, wanted = logits[:, :-1][labelled].argmax(-1), answers.labels[:, 1:][labelled]
            for kind, right in answers_right(predicted, wanted, answers.labels, samples, end):
                hits.setdefault(kind, []).append(right)
        recall = {f"recall_1_of_{self.config.batch_size}": 100.0 * sum(found) / len(found)} if found else {}
        return {**accuracy(hits), **recall}

    def _found(self, tokens: Tensor, captions: list[str]) -> list[bool]:
        """Whether each caption's nearest picture of the batch is its own."""
        texts = self.compressor.compress_text(captions, num_tokens=tokens.shape[1])
        images, texts = self.compressor.embed_rows(tokens).float(), self.compressor.embed_rows(texts).float()
        nearest: list[int] = (F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T).argmax(1).tolist()
        return [image == text for text, image in enumerate(nearest)]

    def save(self, folder: Path) -> None:
        """A model folder; the base is written with it where it was trained, named where it was not."""
        trained = self.config.train_parts or self.compressor.config.adapters == "full" or "base" not in self.config.init
        save_model(folder, self.compressor, base=None if trained else self._base_name(folder))

    def _base_name(self, folder: Path) -> str:
        """How the model folder names a base that it does not hold: relative to itself, or as a hub id."""
        given = self.config.init["base"]
        return os.path.relpath(base_folder(Path(given)), folder) if Path(given).is_dir() else given


def _check_data(config: TrainConfig) -> None:
    """Raises InputError for data that this version can describe, but not train on."""
    if config.data["sources"] or config.contrastive_batch:
        raise InputError(
            "Training from files (data.sources) and on more pairs than a batch (contrastive_batch) is not there yet; "
            "leave both out to train on the generated world."
        )


def load_base(init: dict[str, str]) -> Llava:
    """The LLaVA of a model folder or of the hub, without that model's adapters, in float32 for training."""
    given = init["base"]
    if not Path(given).is_dir() and not re.fullmatch(r"\w[\w.-]*/[\w.-]+", given):
        raise InputError(f"init.base is {given}, which is no folder; train that stage first.")
    return Llava.from_folder(base_folder(Path(given) if Path(given).is_dir() else find_on_hub(given)))


def assemble_llava(init: dict[str, str]) -> Llava:
    """A LLaVA from a tower that sees and a language model that speaks, joined by a new projector (as LLaVA is made)."""
    folders = {part: Path(init[part]) for part in ("tower", "language")}
    for part, path in folders.items():
        if not (path / "config.json").exists():
            raise InputError(f"init.{part} is {path}, which holds no trained model; train that stage first.")
    clip: Any = CLIPModel.from_pretrained(folders["tower"], dtype=torch.float32)
    language: Any = LlamaForCausalLM.from_pretrained(folders["language"], dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(folders["language"])
    config = LlavaConfig(
        vision_config=clip.config.vision_config,
        text_config=language.config,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    network: Any = LlavaForConditionalGeneration(config)
    network.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
    network.model.language_model.load_state_dict(language.model.state_dict())
    network.tie_weights()
    network.generation_config.eos_token_id = tokenizer.eos_token_id
    size = int(clip.config.vision_config.image_size)
    return Llava(network, tokenizer, image_processor(size))
