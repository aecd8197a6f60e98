"""The language model on text alone: a scene in words stands where the picture will be, then questions and answers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from fwd2bot import attention
from fwd2bot.data.conversations import IGNORED, encode_conversation, template_named
from fwd2bot.data.world.samples import Sample, draw_sample
from fwd2bot.data.world.scene import MAX_THINGS
from fwd2bot.errors import InputError
from fwd2bot.llava import independent_turns
from fwd2bot.losses import label_loss
from fwd2bot.training.config import TrainConfig
from fwd2bot.training.stage import Stage, accuracy, kept_tokenizer, pad_to, turn_numbers


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
    """Batches of fixed shape (B, T), one scene a row: its description, then as many questions as fit."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        sizes = dict(config.model)
        self.tokenizer: Any = kept_tokenizer(config.out, sizes.pop("vocabulary"), sizes.pop("tokenizer_scenes"))
        self.model: Any = LlamaForCausalLM(small_llama(len(self.tokenizer), **sizes))
        self.model.set_attn_implementation(attention.register())
        self.template = template_named("short")
        self.length = int(config.data["length"])
        self.things = MAX_THINGS
        if config.compile:
            self.model.model.forward = torch.compile(self.model.model.forward, dynamic=False)

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self.model
        return module

    def _encode(self, sample: Sample) -> tuple[list[int], list[int], int]:
        """Ids, labels, and how many tokens come before the first question."""
        encoded = encode_conversation(self.tokenizer, self.template, sample.turns, has_image=True)
        words = self.tokenizer(sample.description, add_special_tokens=False)["input_ids"]
        place = encoded.image_position or 0
        ids = encoded.ids[:place] + words + encoded.ids[place:]
        labels = encoded.labels[:place] + [IGNORED] * len(words) + encoded.labels[place:]
        return ids, labels, place + len(words)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """ids, labels and numbers of the turns, (B, T)."""
        turns, share, things = self.config.data["turns"], self.config.data["captioning"], self.max_things(step)
        drawn = (
            draw_sample("train", index, turns=turns, max_things=things, captioning=share)
            for index in self.indices(step)
        )
        return self._pad([self._encode(sample) for sample in drawn])

    def _pad(self, rows: list[tuple[list[int], list[int], int]]) -> tuple[Tensor, Tensor, Tensor]:
        ids = pad_to([row[0] for row in rows], self.length, self.tokenizer.pad_token_id)
        labels = pad_to([row[1] for row in rows], self.length, IGNORED)
        shared = torch.tensor([[row[2]] for row in rows])
        return ids, labels, turn_numbers(labels, self.tokenizer.eos_token_id, shared)

    def _predict(self, ids: Tensor, labels: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        allowed, positions = independent_turns(turns)
        hidden = self.model.model(
            input_ids=ids, attention_mask=allowed, position_ids=positions, use_cache=False
        ).last_hidden_state
        wanted = labels[:, 1:]
        return self.model.lm_head(hidden[:, :-1][wanted != IGNORED]), wanted[wanted != IGNORED]

    def losses(self, batch: tuple[Tensor, Tensor, Tensor], step: int) -> dict[str, Tensor]:
        """Cross-entropy on answers."""
        logits, wanted = self._predict(*batch)
        return {"loss": label_loss(logits, wanted)}

    def evaluate(self) -> dict[str, float]:
        """Exact answers, each token given those before it (teacher forcing), by kind, on validation scenes."""
        hits: dict[str, list[bool]] = {}
        end = self.tokenizer.eos_token_id
        for indices in self.validation():
            samples = [draw_sample("val", i, turns=10, max_things=self.things, captioning=0.0) for i in indices]
            rows = self._pad([self._encode(sample) for sample in samples])
            ids, labels, turns = (part.to(self.device) for part in rows)
            with self.autocast():
                logits, wanted = self._predict(ids, labels, turns)
            for kind, right in answers_right(logits.argmax(-1), wanted, labels, samples, end):
                hits.setdefault(kind, []).append(right)
        return accuracy(hits)

    def save(self, folder: Path) -> None:
        """A transformers folder with the tokenizer."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def answers_right(
    predicted: Tensor, wanted: Tensor, labels: Tensor, samples: list[Sample], end: int
) -> list[tuple[str, bool]]:
    """(kind, whether every token of the answer is right) for every whole answer of the rows.

    predicted, wanted (N,): tokens at the label positions of all rows in order; `end` closes an answer.
    """
    right = (predicted == wanted).tolist()
    ends = (wanted == end).tolist()
    found: list[tuple[str, bool]] = []
    place = 0
    for row, sample in zip((labels[:, 1:] != IGNORED).sum(1).tolist(), samples, strict=True):
        last, turn, good = place + row, 0, True
        while place < last:
            good = good and right[place]
            if ends[place]:
                found.append((sample.kinds[turn], good))
                turn, good = turn + 1, True
            place += 1
    return found
