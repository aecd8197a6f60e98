"""A model where lmms-eval measures: every task that shows one picture and lets the model write.

    lmms-eval --model fwd2bot --model_args pretrained=emoji-world,num_tokens=16 --tasks pope

lmms-eval finds it through this package's entry point. Questions about one picture share its rows, as far as they fit
into memory.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fwd2bot.errors import InputError
from fwd2bot.model import load

try:
    from lmms_eval.api.model import lmms
except ImportError as error:
    raise InputError("This needs lmms-eval: docs/plugins.md says how it is installed.") from error

LOG = logging.getLogger("fwd2bot.lmms_eval")
_MARK = "<image>"
_SHARE = 4
"""An answer has at most this part of the context."""
_LIMIT = 1024
"""Of an answer where the task names none, as lmms-eval's LLaVA has it."""
_FILLED_IN = "\n\n"
"""lmms-eval's `until` of a task that names none. Its LLaVA ends no answer there, nor do its later models."""
_KEPT = 1 << 30
"""Bytes of rows that are kept: 8,192 pictures with 16 tokens of a 7B model, 227 with all 576."""


class CompressedModel(lmms):  # type: ignore[misc]  # untyped where it is not installed
    """`pretrained`: as `fwd2bot.load` takes it. Rows are kept in memory by the picture's pixels, the newest; a method
    that needs the question compresses for each. Answers are greedy.

    Raises InputError where it is one of several processes, and for a model that only embeds.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "emoji-world",
        num_tokens: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | str | None = None,
    ) -> None:
        """max_batch_size: lmms-eval gives it to every model; it is not looked at."""
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError(
                "fwd2bot runs in one process of lmms-eval: start it without accelerate or torchrun, for several GPUs "
                "once each, with tasks of its own and CUDA_VISIBLE_DEVICES."
            )
        self.model = load(pretrained, device, dtype)
        if not self.model.answers:
            raise InputError(f"{pretrained} only embeds, and lmms-eval asks questions; take a fwd2bot model.")
        self.num_tokens = self.model.compressor.chosen_count(num_tokens)
        if str(batch_size or "").isdigit() and int(batch_size or 0) >= 1:
            self.model.batch_size = int(batch_size or 0)
        self._rows: dict[str, Tensor] = {}

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """An answer to each; none, and a warning, where one cannot be asked (no picture, several, too long a question).

        Raises InputError, before anything is answered, for a request that samples, and where a task's first cannot be
        asked for its pictures.
        """
        answers = [""] * len(requests)
        for first in {(request.args[4], request.args[5]): request for request in reversed(requests)}.values():
            self._picture(first)
        limits = [min(_limit(request), self.model.compressor.llava.context // _SHARE) for request in requests]
        for limit in sorted(set(limits)):
            places = [place for place, one in enumerate(limits) if one == limit]
            for start in range(0, len(places), self.model.batch_size):
                part = places[start : start + self.model.batch_size]
                for place, answer in zip(part, self._answer([requests[at] for at in part], limit), strict=True):
                    answers[place] = answer
        return answers

    def _answer(self, requests: Sequence[Any], limit: int) -> list[str]:
        try:
            return self._answer_all(requests, limit)
        except InputError as error:
            if len(requests) > 1:
                return [answer for request in requests for answer in self._answer([request], limit)]
            LOG.warning("%s, document %s, has no answer: %s", requests[0].args[4], requests[0].args[3], error)
            return [""]

    def _answer_all(self, requests: Sequence[Any], limit: int) -> list[str]:
        pictures = [self._picture(request) for request in requests]
        questions = [request.args[0].replace(_MARK, "").strip() for request in requests]
        answers = self.model.answer(self._compressed(pictures, questions), questions, max_new_tokens=limit)
        return [_cut(answer, request.args[1].get("until")) for answer, request in zip(answers, requests, strict=True)]

    def _compressed(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> Tensor:
        """(B, K, D)."""
        if self.model.compressor.needs_question:
            return self.model.compress(pictures, self.num_tokens, questions)
        keys = [_key(picture) for picture in pictures]
        rows = {key: self._rows[key] for key in keys if key in self._rows}
        new = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in rows}
        if new:
            found = dict(zip(new, self.model.compress(list(new.values()), self.num_tokens).cpu(), strict=True))
            rows |= found
            self._rows |= found
            most = max(1, _KEPT // rows[keys[0]].nbytes)
            for oldest in list(self._rows)[:-most]:
                del self._rows[oldest]
        return torch.stack([rows[key] for key in keys])

    def _picture(self, request: Any) -> Image.Image:
        _, _, doc_to_visual, doc_id, task, split = request.args
        shown = doc_to_visual(self.task_dict[task][split][doc_id]) or []
        if len(shown) != 1 or not isinstance(shown[0], Image.Image):
            what = f"{len(shown)} things" if len(shown) != 1 else f"a {type(shown[0]).__name__}"
            raise InputError(f"{task} shows {what} with document {doc_id}, and a question here is about one picture.")
        return shown[0].convert("RGB")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Raises InputError: rows are read by writing alone."""
        raise InputError("fwd2bot measures no likelihood; take tasks of output_type generate_until.")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Raises InputError: a conversation has one question here."""
        raise InputError("fwd2bot answers one question at a time; take tasks of output_type generate_until.")


def _limit(request: Any) -> int:
    """The most tokens of an answer. Raises InputError for a request that samples."""
    asked = request.args[1]
    if asked.get("do_sample") or (asked.get("temperature") or 0) > 0 or (asked.get("num_beams") or 1) > 1:
        raise InputError(f"{request.args[4]} samples or searches ({asked}); answers are greedy here.")
    return int(asked.get("max_new_tokens") or _LIMIT)


def _cut(answer: str, until: str | Sequence[str] | None) -> str:
    """Up to the first of the texts that end it."""
    for text in [until] if isinstance(until, str) else until or []:
        if text not in ("", _FILLED_IN):
            answer = answer.split(text)[0]
    return answer.strip()


def _key(picture: Image.Image) -> str:
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()
