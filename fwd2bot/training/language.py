"""The language model on text alone: a scene in words stands where the picture will be, then questions and answers."""

import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from fwd2bot import attention
from fwd2bot.attention import independent_turns
from fwd2bot.data.conversations import IGNORED, encode_conversation, template_named
from fwd2bot.data.world.patches import few_patches, patch_token_ids
from fwd2bot.data.world.samples import Sample, draw_sample
from fwd2bot.errors import InputError
from fwd2bot.losses import autoregressive_loss
from fwd2bot.training import distributed
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.stage import Stage, accuracy, kept_tokenizer, pad_to, turn_numbers

GRID = 12
"""Patches in a row of the pictures that the language model will see."""
FINDING = ("where", "where", "exist", "count_all")
"""What is asked in the first part of the training: finding a named thing is the slow skill, and crowded out else."""


def small_llama(vocabulary: int, *, width: int, layers: int, heads: int, hidden: int, context: int) -> LlamaConfig:
    """A LLaMA of any size, with tied embeddings. Raises InputError for a width that the heads do not share evenly."""
    if width % (2 * heads):
        raise InputError(f"model.width is {width}; with model.heads {heads} it must be a multiple of {2 * heads}.")
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )


class LanguageStage(Stage):
    """Batches of fixed shape (B, T), one scene a row: the scene in words, then as many questions as fit.

    A quarter of the scenes is told by a description; the rest by `data.patches` rows that stand for patches of a
    picture, each the sum of the embeddings of a patch's words, which is what the projector will make of a patch seen.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        sizes = dict(config.model)
        self.tokenizer: Any = kept_tokenizer(config.out, sizes.pop("vocabulary"), sizes.pop("tokenizer_scenes"))
        self.model: Any = LlamaForCausalLM(small_llama(len(self.tokenizer), **sizes))
        nn.init.normal_(self.model.model.embed_tokens.weight, std=sizes["width"] ** -0.5)  # tied: logits of about 1
        self.model.set_attn_implementation(attention.register())
        self.template = template_named("short")
        self.length, self.patches = int(config.data["length"]), int(config.data["patches"])
        self.words = patch_token_ids(self.tokenizer)
        self.most = sum(max(map(len, column)) for column in self.words)
        if config.compile:
            self.model.model.forward = torch.compile(self.model.model.forward, dynamic=False)

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self.model
        return module

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """ids (B, T, M), a row's embedding being the sum of its M tokens'; labels and numbers of the turns, (B, T)."""
        return self._tensors(self.samples(step))

    def samples(self, step: int) -> list[Sample]:
        """Of a step: in the first part of the training only lists and what `FINDING` asks."""
        shares = {name: self.config.data[name] for name in ("turns", "captioning", "listing")}
        if step < self.config.data["finding"] * self.config.steps:
            shares |= {"captioning": 0.0, "kinds": FINDING}
        return [draw_sample("train", index, **shares) for index in self.indices(step)]

    def _tensors(self, samples: list[Sample]) -> tuple[Tensor, Tensor, Tensor]:
        ids: list[list[list[int]]] = []
        labels: list[list[int]] = []
        shared: list[list[int]] = []
        pad = self.tokenizer.pad_token_id
        for sample in samples:
            encoded = encode_conversation(self.tokenizer, self.template, sample.turns, has_image=True)
            place, scene = encoded.image_position or 0, self._scene(sample)
            rows = [[token] for token in encoded.ids]
            rows = rows[:place] + scene + rows[place:]
            ids.append([row + [pad] * (self.most - len(row)) for row in rows])
            labels.append(encoded.labels[:place] + [IGNORED] * len(scene) + encoded.labels[place:])
            shared.append([place + len(scene)])
        padded = pad_to(labels, self.length, IGNORED)
        turns = turn_numbers(padded, self.tokenizer.eos_token_id, torch.tensor(shared))
        return pad_to(ids, self.length, [pad] * self.most), padded, turns

    def _scene(self, sample: Sample) -> list[list[int]]:
        """What stands where the picture will be: tokens of each row."""
        if sample.scene.index % 4 == 3:
            return [[token] for token in self.tokenizer(sample.description, add_special_tokens=False)["input_ids"]]
        rng = random.Random(sample.scene.seed + 2)
        patches = few_patches(sample.scene, GRID, self.patches, rng)
        return [
            [token for words, one in zip(self.words, patch, strict=True) for token in words[one]] for patch in patches
        ]

    def _predict(self, ids: Tensor, labels: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        allowed, positions = independent_turns(turns)
        table = self.model.model.embed_tokens.weight
        rows = F.embedding_bag(ids.flatten(0, 1), table, mode="sum", padding_idx=self.tokenizer.pad_token_id)
        hidden = self.model.model(
            inputs_embeds=rows.view(*labels.shape, -1), attention_mask=allowed, position_ids=positions, use_cache=False
        ).last_hidden_state
        wanted = labels[:, 1:]
        return self.model.lm_head(hidden[:, :-1][wanted != IGNORED]), wanted[wanted != IGNORED]

    def losses(self, batch: tuple[Tensor, Tensor, Tensor], step: int) -> dict[str, Tensor]:
        """Cross-entropy on answers."""
        logits, wanted = self._predict(*batch)
        share = distributed.share(torch.tensor(len(wanted), device=wanted.device))
        return {"loss": autoregressive_loss(logits, wanted) * share}

    def evaluate(self) -> dict[str, float]:
        """Exact answers, each token given those before it (teacher forcing), by kind, on validation scenes."""
        hits: dict[str, list[bool]] = {}
        end = self.tokenizer.eos_token_id
        for indices in self.validation():
            samples = [draw_sample("val", index, turns=10) for index in indices]
            ids, labels, turns = (part.to(self.device) for part in self._tensors(samples))
            with self.autocast():
                logits, wanted = self._predict(ids, labels, turns)
            for kind, right in answers_right(
                logits.argmax(-1), wanted, labels, [sample.kinds for sample in samples], end
            ):
                hits.setdefault(kind, []).append(right)
        return accuracy(hits)

    def save(self, folder: Path) -> None:
        """A transformers folder with the tokenizer."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def answers_right(
    predicted: Tensor, wanted: Tensor, labels: Tensor, kinds: list[list[str]], end: int
) -> list[tuple[str, bool]]:
    """(kind, whether every token of the answer is right) for every whole answer of the rows.

    predicted, wanted (N,): tokens at the label positions of all rows in order; `end` closes an answer.
    """
    right = (predicted == wanted).tolist()
    ends = (wanted == end).tolist()
    found: list[tuple[str, bool]] = []
    place = 0
    for row, asked in zip((labels[:, 1:] != IGNORED).sum(1).tolist(), kinds, strict=True):
        last, turn, good = place + row, 0, True
        while place < last:
            good = good and right[place]
            if ends[place]:
                found.append((asked[turn], good))
                turn, good = turn + 1, True
            place += 1
    return found
