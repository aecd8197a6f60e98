"""Answers in the making: questions about rows of tokens join a running batch, and leave it when they are answered.

Shapes: K summary tokens, D width.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fwd2bot.adapters import GENERATE
from fwd2bot.compressors.base import AnswerBatch, Compressor
from fwd2bot.data.conversations import Encoded
from fwd2bot.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, encoded, about tokens (K, D) of a picture; they may be numpy."""

    tokens: Any
    prompt: Encoded
    max_new_tokens: int = 64


@dataclass(eq=False)
class Answer:
    """The token ids so far, and what ended it: "stop", the model's own end; "length"; None: it goes on."""

    max_new_tokens: int
    ids: list[int] = field(default_factory=list)
    finish: str | None = None


class RunningAnswers:
    """Each answer is, token for token, what `Compressor.generate` gives to its question alone.

    Raises InputError for a method that leaves rows out while it answers: questions that join run with all of them.
    """

    def __init__(self, compressor: Compressor) -> None:
        if compressor.inside:
            raise InputError(f"{compressor.config.compressor} reduces while it answers: ask with answer, in batches.")
        self._compressor, self._llava = compressor, compressor.llava
        self._batch = self._llava.running(GENERATE)
        self._running: list[Answer] = []

    def __len__(self) -> int:
        return len(self._running)

    @torch.inference_mode()
    def join(self, asked: Sequence[Asked]) -> list[Answer]:
        """Their answers, each with its first token; they grow as `step` is called."""
        answers = [Answer(one.max_new_tokens) for one in asked]
        alike: dict[tuple[int, int | None], list[int]] = defaultdict(list)
        for index, one in enumerate(asked):
            alike[len(one.tokens), one.prompt.image_position].append(index)
        pad = self._llava.tokenizer.pad_token_id or 0
        for chosen in alike.values():
            tokens = torch.stack([self._here(asked[index].tokens) for index in chosen])
            prompts = AnswerBatch.collate([asked[index].prompt for index in chosen], pad).to(self._llava.device)
            rows, mask = self._compressor.prompt_rows(tokens, prompts)
            first = self._batch.join(rows, None if bool(mask.all()) else mask)
            self._running += [answers[index] for index in chosen]
            self._take([*[None] * (len(self._running) - len(first)), *first])
        return answers

    def step(self) -> None:
        """One more token to every answer that goes on."""
        if self._running:
            self._take(self._batch.step())

    def leave(self, answers: Sequence[Answer]) -> None:
        """Gives these up."""
        self._only([answer not in answers for answer in self._running])

    def text(self, answer: Answer) -> str:
        """What an answer says so far."""
        text: str = self._llava.tokenizer.decode(answer.ids, skip_special_tokens=True)
        return text.strip()

    def _take(self, tokens: Sequence[int | None]) -> None:
        """The next token of each that runs; None: it has got one."""
        for answer, token in zip(self._running, tokens, strict=True):
            if token is None:
                continue
            if token in self._llava.stop_ids:
                answer.finish = "stop"
                continue
            answer.ids.append(token)
            if len(answer.ids) >= answer.max_new_tokens:
                answer.finish = "length"
        self._only([answer.finish is None for answer in self._running])

    def _only(self, stays: Sequence[bool]) -> None:
        if not all(stays):
            self._batch.keep([index for index, one in enumerate(stays) if one])
            self._running = [answer for answer, one in zip(self._running, stays, strict=True) if one]

    def _here(self, tokens: Any) -> Tensor:
        return torch.as_tensor(tokens).to(self._llava.device, self._llava.dtype)
