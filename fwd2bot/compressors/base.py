"""What every compressor is: a backbone, a configuration, `compress`; and the pass that reads the tokens, common to all.

Shapes: B images, N conversations, T text, V visual tokens, K summary tokens, D width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwd2bot import adapters
from fwd2bot.adapters import GENERATE
from fwd2bot.attention import count_positions, independent_turns
from fwd2bot.compressors.catalogue import Method, method_named
from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.data.conversations import IGNORED, ChatTemplate, Encoded, encode_conversation
from fwd2bot.errors import InputError
from fwd2bot.llava import LANGUAGE_LAYERS, PARTS, Llava
from fwd2bot.losses import autoregressive_loss
from fwd2bot.reduction import Reduction


@dataclass(frozen=True)
class AnswerBatch:
    """N conversations for pass 2, padded on the right.

    ids, labels (N, T); image_position: where the image's rows go in (None: text alone); image_index (N,): which row of
    the tokens each conversation is about (None: conversation n is about row n); mask (N, T): False at padding, which
    only `generate` must know (None: nothing is padded); turns (N, T): the turn of each token, 0 before the image (None:
    later turns see earlier ones).
    """

    ids: Tensor
    labels: Tensor
    image_position: int | None = None
    image_index: Tensor | None = None
    mask: Tensor | None = None
    turns: Tensor | None = None

    @classmethod
    def collate(cls, encoded: Sequence[Encoded], pad_id: int, image_index: Sequence[int] | None = None) -> Self:
        """Pads conversations of one template; they have an image all or none."""
        (image_position,) = {one.image_position for one in encoded}
        length = max(len(one.ids) for one in encoded)
        ids = torch.tensor([one.ids + [pad_id] * (length - len(one.ids)) for one in encoded])
        labels = torch.tensor([one.labels + [IGNORED] * (length - len(one.labels)) for one in encoded])
        mask = torch.arange(length) < torch.tensor([[len(one.ids)] for one in encoded])
        index = None if image_index is None else torch.tensor(image_index)
        return cls(ids, labels, image_position, index, mask)

    def to(self, device: torch.device | str) -> Self:
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)


class Compressor(nn.Module):
    """From pictures to tokens, and from tokens to answers. A method says how in `compress`; what it is, the catalogue
    says. Raises InputError for a number of tokens that the method cannot give on this backbone."""

    every_count: ClassVar[bool] = False
    """A step of training takes all of `token_counts`; else one of them at random."""
    one_way: ClassVar[bool] = False
    """L_disc goes from pictures to texts alone, as the method is published."""
    text_alone: ClassVar[bool] = False
    """It learns from texts, and never sees a picture before it is used."""
    inside: ClassVar[bool] = False
    """It leaves rows out on the way through the language model, while it answers."""
    stages: ClassVar[tuple[str, ...]] = (GENERATE,)
    """The passes of the language model, each with an adapter of its own."""

    def __init__(self, llava: Llava, config: CompressorConfig) -> None:
        super().__init__()
        self.llava = llava
        self.config = config
        self.progress = 0.0
        """The share of the training that is over; it tells so before each step."""
        for count in self.token_counts:
            if not self.method.can_give(count, llava.grid):
                told, where = self.method.told_counts(llava.grid), f"this base's grid of {llava.grid} x {llava.grid}"
                raise InputError(f"{config.compressor} gives {told} tokens on {where}, not {count}.")
        adapters.attach(llava.network, LANGUAGE_LAYERS, self.routes(self.stages), config.rank, config.alpha)

    def routes(self, stages: Sequence[str]) -> dict[str, str]:
        """Which adapter each of these stages uses."""
        if self.config.adapters == "stage":
            return {stage: stage for stage in stages}
        return dict.fromkeys(stages, "shared") if self.config.adapters == "single" else {}

    @property
    def method(self) -> Method:
        return method_named(self.config.compressor)

    @property
    def trained(self) -> bool:
        """It has weights of its own, or is defined by a training."""
        return self.method.trained

    @property
    def needs_question(self) -> bool:
        """What an answer is read from depends on the question."""
        return self.method.needs_question

    @property
    def storable(self) -> bool:
        """The tokens are there before any question, and the same for each."""
        return self.method.storable

    @property
    def embeds_text(self) -> bool:
        """compress_text() and embed_rows() give comparable vectors."""
        return self.method.embeds_text

    @property
    def answers(self) -> bool:
        """Questions can be answered from the tokens; else they are vectors to search by, and nothing more."""
        return self.method.answers

    @property
    def num_tokens(self) -> int:
        """The most tokens it gives, and the number it gives when none is named."""
        return self.config.num_tokens

    @property
    def token_counts(self) -> tuple[int, ...]:
        """The numbers of tokens it offers, ascending."""
        return self.config.token_counts

    @property
    def cuttable(self) -> bool:
        """The first k of its tokens are the k tokens that compress(num_tokens=k) gives."""
        return False

    def compress(self, pixels: Tensor, questions: Sequence[str] | None = None, num_tokens: int | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, K, D)."""
        raise NotImplementedError("every method has its own")

    def rows_of(self, num_tokens: int | None = None) -> int:
        """How many rows `compress` gives: as many as tokens, unless the language model itself leaves some out."""
        return self.chosen_count(num_tokens)

    def rows_a_layer(self, tokens: Tensor) -> float:
        """Rows that a picture has in a layer of pass 2, the mean over the layers and the pictures of (B, K, D)."""
        return float(tokens.shape[1])

    def compress_text(self, texts: Sequence[str], num_tokens: int | None = None) -> Tensor:
        """B strings -> (B, K, D)."""
        raise NotImplementedError(f"{self.config.compressor} does not embed text")

    def embed_rows(self, tokens: Tensor) -> Tensor:
        """e_v, not yet of unit norm: (B, K, D) -> (B, D), as `embed_text_rows`, where the method says no other way."""
        return self.embed_text_rows(tokens)

    def embed_text_rows(self, tokens: Tensor) -> Tensor:
        """e_t, not yet of unit norm, of what `compress_text` gave: (B, K, D) -> (B, D), the mean summary token."""
        return tokens.mean(dim=1)

    def last_states(
        self, tokens: Tensor | None, questions: Sequence[str], template: ChatTemplate, stage: str = GENERATE
    ) -> Tensor:
        """(N, D): what stands at the last token of N prompts, where an answer would begin.

        tokens (N, K, D): of the pictures that the questions are about; None: text alone. Raises InputError for a
        question that does not fit the context.
        """
        tokenizer, count = self.llava.tokenizer, 0 if tokens is None else tokens.shape[1]
        encoded = [
            encode_conversation(tokenizer, template, [(one, None)], has_image=tokens is not None) for one in questions
        ]
        length, room = max(len(one.ids) for one in encoded), self.llava.context - count
        if length > room:
            raise InputError(f"A text of {length} tokens is too long; this model can embed {room} at once.")
        prompts = AnswerBatch.collate(encoded, tokenizer.pad_token_id or 0).to(self.llava.device)
        assert prompts.mask is not None
        hidden = self._answer_hidden(tokens, prompts, stage)  # (N, T, D)
        return hidden[torch.arange(len(hidden), device=hidden.device), prompts.mask.sum(dim=1) - 1]

    def answer_loss(self, tokens: Tensor | None, batch: AnswerBatch) -> Tensor:
        """L_AR of pass 2. The vocabulary is only computed where a label stands."""
        hidden = self._answer_hidden(tokens, batch)  # (N, T, D), one output for each token of text
        labelled = batch.labels[:, 1:] != IGNORED
        logits = self.llava.logits(hidden[:, :-1][labelled])
        return autoregressive_loss(logits, batch.labels[:, 1:][labelled])

    def answer_logits(self, tokens: Tensor | None, batch: AnswerBatch) -> Tensor:
        """(N, T, vocabulary): what each token of text says about the next."""
        return self.llava.logits(self._answer_hidden(tokens, batch))

    def generate(
        self,
        tokens: Tensor | None,
        prompts: AnswerBatch,
        *,
        max_new_tokens: int = 64,
        keep: Tensor | None = None,
    ) -> list[list[int]]:
        """Greedy answers, as token ids, to N prompts. `keep` (K,) hides the other summary tokens (Fig. 6)."""
        rows, mask = self.prompt_rows(tokens, prompts)
        position, count = prompts.image_position, rows.shape[1] - prompts.ids.shape[1]
        positions = None
        if keep is not None and position is not None:
            positions = count_positions(mask)  # a hidden token keeps its place
            mask = mask.clone()
            mask[:, position : position + count] = keep.to(mask)
        whole = None if bool(mask.all()) else mask
        reduction = self._reduction(prompts, count)
        return self.llava.generate(
            rows, whole, GENERATE, max_new_tokens=max_new_tokens, positions=positions, reduction=reduction
        )

    def prompt_rows(self, tokens: Tensor | None, prompts: AnswerBatch) -> tuple[Tensor, Tensor]:
        """What the language model is given of N prompts: (N, T + K, D), and (N, T + K), False at padding."""
        return self._rows(tokens, prompts), self._mask(tokens, prompts)

    def trainable(self, parts: Iterable[str] = ()) -> list[nn.Parameter]:
        """Freezes everything but its own parameters and these parts of the base; gives what is left.

        Parts: "vision", "projector", "language". With adapters "full" the language model is one of them.
        """
        self.requires_grad_(False)
        adapters.unfold(self)
        chosen = {*parts, *(["language"] if self.config.adapters == "full" else [])}
        check_parts(chosen)
        for parameter in self.own_parameters().values():
            parameter.requires_grad_(True)
        for part in chosen:
            for parameter in self.llava.part(part):
                parameter.requires_grad_(True)
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """What the compressor adds to the base: adapters, learnable input embeddings, modules."""
        return {**adapters.adapter_parameters(self), **self.added_parameters()}

    def added_parameters(self) -> dict[str, nn.Parameter]:
        """Those that are no adapters."""
        return {name: p for name, p in self.named_parameters() if not name.startswith("llava.")}

    def present(self, tokens: Tensor) -> Tensor | None:
        """Which rows of the tokens (B, K, D) there are, (B, K), where a method gives some pictures fewer; None: all."""
        return None

    def chosen_count(self, num_tokens: int | None) -> int:
        """Raises InputError for a number that this compressor does not offer."""
        if num_tokens is None:
            return self.num_tokens
        if num_tokens not in self.token_counts:
            offered = ", ".join(map(str, self.token_counts))
            raise InputError(f"This model gives {offered} tokens an image, not {num_tokens}.")
        return self.token_counts[self.token_counts.index(num_tokens)]  # an int, where 4.0 was given

    def _answer_hidden(self, tokens: Tensor | None, batch: AnswerBatch, stage: str = GENERATE) -> Tensor:
        rows = self._rows(tokens, batch)  # (N, T + K, D)
        position, length = batch.image_position, batch.ids.shape[1]
        reduction = self._reduction(batch, rows.shape[1] - length)
        if batch.turns is None:
            # Padded on the right and causal: no mask is needed for text.
            mask = None if tokens is None or self.present(tokens) is None else self._mask(tokens, batch)
            hidden = self.llava.run(rows, mask, stage, reduction=reduction)
        else:
            turns = F.pad(batch.turns[:, position:], (rows.shape[1] - batch.turns[:, position:].shape[1], 0))
            allowed, positions = independent_turns(turns)
            hidden = self.llava.run(rows, None, stage, positions=positions, allowed=allowed, reduction=reduction)
        if position is None:
            return hidden
        count = hidden.shape[1] - length
        if position == 0:
            return hidden[:, count:]
        # For the text token before the image stands the image's last row: it is the one that says what follows.
        return torch.cat([hidden[:, : position - 1], hidden[:, position + count - 1 :]], dim=1)

    def _reduction(self, batch: AnswerBatch, count: int) -> Reduction | None:
        """What the language model leaves out of the image's `count` rows on the way."""
        return None

    def _mask(self, tokens: Tensor | None, batch: AnswerBatch) -> Tensor:
        """(N, T + K), False at padding and at rows of the image that are not there."""
        real = torch.ones_like(batch.ids, dtype=torch.bool) if batch.mask is None else batch.mask
        position = batch.image_position
        if tokens is None or position is None:
            return real
        present = self.present(tokens)
        if present is None:
            present = real.new_ones(len(real), tokens.shape[1])
        elif batch.image_index is not None:
            present = present[batch.image_index]
        return torch.cat([real[:, :position], present, real[:, position:]], dim=1)

    def _rows(self, tokens: Tensor | None, batch: AnswerBatch) -> Tensor:
        """[text before the image; tokens; text after it], (N, T + K, D)."""
        text = self.llava.embed(batch.ids)
        position = batch.image_position
        if tokens is None or position is None:
            return text
        tokens = tokens.to(text.dtype) * self.config.token_scale
        tokens = tokens if batch.image_index is None else tokens[batch.image_index]
        return torch.cat([text[:, :position], tokens, text[:, position:]], dim=1)


def check_parts(parts: Iterable[str]) -> None:
    """Raises InputError where one is no part of a base."""
    if unknown := sorted(set(parts) - PARTS.keys()):
        raise InputError(f"{unknown[0]!r} is no part of the base; the parts are {', '.join(PARTS)}.")
