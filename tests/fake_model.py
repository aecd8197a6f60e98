"""A model for tests of everything around the model: it sees the colours of the four quarters of a picture."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fwd2bot.answering import Answer, Asked
from fwd2bot.errors import InputError, ModelError

COLOURS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "white": (1, 1, 1),
    "black": (0, 0, 0),
}
LONGEST = 60  # characters of a question


class FakePrompt(NamedTuple):
    question: str
    ids: list[str]


class FakeModel:
    """Four tokens: the quarters' colours, a constant, and which quarter it is. Answers with the nearest names."""

    name = "fake"
    source = "fake"
    batch_size = 32
    storable = True
    fingerprint = "sha256:" + "ab" * 32
    width = 8
    num_tokens = 4
    token_counts: Sequence[int] = (1, 2, 3, 4)
    cuttable = True
    caption_question = "describe"
    context = 100

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.may_go_on = threading.Event()  # cleared, the next word of a running answer waits
        self.may_go_on.set()

    def prepare(self, images: Sequence[Image.Image]) -> Sequence[Image.Image]:
        return images

    def compress(self, images: Sequence[Image.Image], num_tokens: int | None = None) -> Tensor:
        self.batches.append(len(images))
        quarters = [
            np.asarray(image.resize((2, 2), Image.Resampling.BOX), dtype=np.float32).reshape(4, 3) / 255
            for image in images
        ]
        return self._tokens(np.stack(quarters), num_tokens)

    def answer(self, tokens: Any, questions: Sequence[str]) -> list[str]:
        for question in questions:
            if len(question) > LONGEST:
                raise InputError(f"the question has {len(question)} letters; at most {LONGEST} fit: ask a shorter one")
        names = [[_nearest(token) for token in row] for row in tokens]
        return [" ".join(row) if "each" in question else row[0] for row, question in zip(names, questions, strict=True)]

    def caption(self, tokens: Any) -> list[str]:
        return [f"a {_nearest(row[0])} picture" for row in tokens]

    def embed(self, inputs: Any, num_tokens: int | None = None) -> Tensor:
        if not isinstance(inputs, Tensor):
            colours = [next((rgb for word, rgb in COLOURS.items() if word in text), (0.5, 0.5, 0.5)) for text in inputs]
            inputs = self._tokens(np.repeat(np.array(colours, dtype=np.float32)[:, None], 4, axis=1), num_tokens)
        return torch.nn.functional.normalize(inputs.mean(dim=1), dim=-1)

    def prompt(self, turns: Sequence[tuple[str, str | None]], num_tokens: int, max_new_tokens: int = 64) -> FakePrompt:
        """Of the last question alone; as many ids as there are words in all turns."""
        words = [word for question, answer in turns for word in f"{question} {answer or ''}".split()]
        if len(words) + num_tokens + max_new_tokens > self.context:
            raise InputError(f"The conversation has {len(words)} words, which is too long; shorten it.")
        return FakePrompt(turns[-1][0], words)

    def running(self) -> "FakeRunning":
        return FakeRunning(self)

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def _tokens(self, quarters: np.ndarray, num_tokens: int | None) -> Tensor:
        colours = torch.from_numpy(quarters)
        place = torch.eye(4)[None].expand(len(colours), 4, 4)
        tokens = torch.cat([2 * colours - 1, torch.ones(len(colours), 4, 1), place], dim=-1)
        return tokens[:, : num_tokens or 4]


class Overflowing(FakeModel):
    """Gives no numbers for pictures that are red."""

    where = "tokens"

    def compress(self, images: Sequence[Image.Image], num_tokens: int | None = None) -> Any:
        tokens = super().compress(images, num_tokens)
        if self.where == "tokens":
            tokens[self._red(tokens), 1, 2] = torch.inf
        return tokens

    def embed(self, inputs: Any, num_tokens: int | None = None) -> Any:
        vectors = super().embed(inputs, num_tokens)
        vectors[self._red(inputs), 3] = torch.nan
        return vectors

    def _red(self, tokens: Any) -> Any:
        return (tokens[:, 0, :3] == torch.tensor([1.0, -1.0, -1.0])).all(dim=-1)


class FakeRunning:
    """A word a step."""

    def __init__(self, model: FakeModel) -> None:
        self.model = model
        self._running: list[Answer] = []
        self._words: dict[Answer, list[str]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def join(self, asked: Sequence[Asked]) -> list[Answer]:
        answers = [Answer(one.max_new_tokens) for one in asked]
        for answer, one in zip(answers, asked, strict=True):
            question, tokens = one.prompt.question, torch.as_tensor(one.tokens)[None]
            described = question == self.model.caption_question
            [text] = self.model.caption(tokens) if described else self.model.answer(tokens, [question])
            self._words[answer] = text.split()
            self._running.append(answer)
        self._give(answers)
        return answers

    def step(self) -> None:
        self.model.may_go_on.wait()
        self._give(list(self._running))

    def leave(self, answers: Sequence[Answer]) -> None:
        self._running = [answer for answer in self._running if answer not in answers]

    def text(self, answer: Answer) -> str:
        return " ".join(self._words[answer][: len(answer.ids)])

    def _give(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            if len(answer.ids) == len(self._words[answer]):
                answer.finish = "stop"
            else:
                answer.ids.append(len(answer.ids))
                answer.finish = "length" if len(answer.ids) == answer.max_new_tokens else None
        self.leave([answer for answer in answers if answer.finish is not None])


class OtherModel(FakeModel):
    """The same with other weights, and no part of a row."""

    name = source = "other"
    fingerprint = "sha256:" + "cd" * 32
    token_counts = (2, 4)
    cuttable = False


def fake_load(name: str, device: str | None = None, dtype: str | None = None) -> FakeModel:
    models = {"fake": FakeModel, "emoji-world": FakeModel, "other": OtherModel}
    if name not in models:
        raise ModelError(f"There is no model {name}.")
    return models[name]()


def picture(path: Path, colour: str, other: str | None = None) -> Path:
    """A picture of one colour, or of another in its right half."""
    rgb = {name: tuple(255 * part for part in parts) for name, parts in COLOURS.items()}
    image = Image.new("RGB", (16, 16), rgb[colour])
    if other is not None:
        image.paste(rgb[other], (8, 0, 16, 16))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def _nearest(token: Any) -> str:
    colour = (torch.as_tensor(token)[:3] + 1) / 2
    return min(COLOURS, key=lambda name: float((colour - torch.tensor(COLOURS[name])).abs().sum()))
