"""One thread owns the model, and many ask it at once: answers join and leave a running batch between two tokens, texts
and pictures that wait are embedded and compressed together.

Every answer is what the model gives to that question alone.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fwd2bot.answering import Answer, Asked
from fwd2bot.engine import Model
from fwd2bot.errors import Fwd2BotError
from fwd2bot.ingest import as_array

if TYPE_CHECKING:
    from fwd2bot.attended import View
    from fwd2bot.data.conversations import Encoded

Floats = NDArray[np.float32]
Result = TypeVar("Result")
LOG = logging.getLogger("fwd2bot.server")
PICTURES = 8
"""Pictures that are compressed between two tokens of the answers that run."""
TEXTS = 64
"""Texts that are embedded between two tokens."""
HELD = 512 * 2**20
"""Bytes of pictures that may wait: what is small as a file may be large as a picture."""


class Running(Protocol):
    """What the worker needs of `model.running()`."""

    def __len__(self) -> int: ...
    def join(self, asked: Sequence[Asked]) -> list[Answer]: ...
    def step(self) -> None: ...
    def leave(self, answers: Sequence[Answer]) -> None: ...
    def text(self, answer: Answer) -> str: ...


class ServedModel(Model, Protocol):
    """What the server needs of `fwd2bot.load(...)`."""

    @property
    def caption_question(self) -> str: ...
    @property
    def context(self) -> int: ...
    def prompt(
        self, turns: Sequence[tuple[str, str | None]], num_tokens: int, max_new_tokens: int = 64
    ) -> "Encoded": ...
    def running(self) -> Running: ...
    def count_tokens(self, text: str) -> int: ...
    def attention(self, tokens: Any, question: str | None = None, picture: Image.Image | None = None) -> "View": ...


class FullError(Exception):
    """As many wait as may. retry_after: seconds until there will probably be room."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"try again in {retry_after} s")
        self.retry_after = retry_after


class DeadError(Exception):
    """The model's thread has ended, and nothing is answered any more."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """An answer, the number of its tokens, and what ended it: "stop" or "length"."""

    text: str
    tokens: int
    finish: str


@dataclass(eq=False, kw_only=True)
class _Job:
    """future: what the asker waits for; cancelled, it is given up between two tokens."""

    future: "Future[Any]" = field(default_factory=Future)


@dataclass(eq=False, kw_only=True)
class _AnswerJob(_Job):
    prompt: "Encoded"
    max_new_tokens: int
    stop: Sequence[str]
    on_text: Callable[[str], None] | None
    tokens: Any = None  # (K, D)
    picture: Image.Image | None = None  # where there are no tokens yet
    answer: Answer | None = None
    said: int = 0  # letters that `on_text` got


@dataclass(eq=False, kw_only=True)
class _EmbedJob(_Job):
    texts: Sequence[str]


@dataclass(eq=False, kw_only=True)
class _CompressJob(_Job):
    pictures: Sequence[Image.Image]


@dataclass(eq=False, kw_only=True)
class _CallJob(_Job):
    function: Callable[[], Any]


class Worker:
    """The thread of a model. All methods may be called from any thread, and return at once.

    num_tokens: of a picture and of a text; batch: answers at once; queue: jobs that may wait.
    """

    def __init__(self, model: ServedModel, *, num_tokens: int, batch: int = 32, queue: int = 128) -> None:
        self.model, self.num_tokens, self.batch, self.queue = model, num_tokens, batch, queue
        self.steps = self.rows = self.tokens = 0
        """Since the start: steps of the running batch, rows in all of them, tokens given."""
        self._waiting: deque[_Job] = deque()
        self._answering: list[_AnswerJob] = []
        self._answers = model.running()
        self._changed = threading.Condition()
        self._open = True
        self._pace = 0.05  # seconds between two jobs that were done, lately
        self._done_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="fwd2bot model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Answers that are being given."""
        return len(self._answering)

    @property
    def alive(self) -> bool:
        """Whether anything that is asked now will be answered."""
        return self._open and self._thread.is_alive()

    # What may be asked. All raise FullError, and DeadError where it is not alive.

    def answer(
        self,
        prompt: "Encoded",
        *,
        tokens: Any = None,
        picture: Image.Image | None = None,
        max_new_tokens: int = 64,
        stop: Sequence[str] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> "Future[Answered]":
        """From tokens (K, D), or from a picture; `on_text` gets the text piece by piece, in this thread's time.

        prompt: `model.prompt` for as many tokens. stop: texts that end an answer, and are no part of it.
        """
        assert (tokens is None) != (picture is None)
        return self._put(
            _AnswerJob(
                prompt=prompt,
                max_new_tokens=max_new_tokens,
                stop=stop,
                on_text=on_text,
                tokens=tokens,
                picture=picture,
            )
        )

    def embed(self, texts: Sequence[str]) -> "Future[Floats]":
        """(N, D), unit norm. The future raises InputError as `model.embed` does."""
        return self._put(_EmbedJob(texts=texts))

    def compress(self, pictures: Sequence[Image.Image]) -> "Future[tuple[Floats, Floats]]":
        """Tokens (N, K, D), and vectors (N, D) of unit norm."""
        return self._put(_CompressJob(pictures=pictures))

    def call(self, function: Callable[[], Result]) -> "Future[Result]":
        """Anything else that needs the model to itself, run between two tokens."""
        return self._put(_CallJob(function=function))

    def close(self, patience: float | None = None) -> None:
        """Ends the thread when all that was asked is done or given up; waits so many seconds at most."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join(patience)

    def _put(self, job: _Job) -> "Future[Any]":
        with self._changed:
            if not self.alive:
                raise DeadError
            held, more = sum(map(_picture_bytes, self._waiting)), _picture_bytes(job)
            if len(self._waiting) >= self.queue or (held and more and held + more > HELD):
                raise FullError(min(60, math.ceil(self._pace * len(self._waiting) + 0.5)))
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    # In the thread.

    def _run(self) -> None:
        jobs: Sequence[_Job] | None = ()
        try:
            while (jobs := self._next()) is not None:
                try:
                    self._work(jobs)
                except Exception as error:
                    self._break_off([*self._answering, *jobs], error)
        except BaseException:  # nobody would hear of it, and all would wait for ever
            LOG.exception("The model's thread has ended")
            self._die(jobs or ())

    def _next(self) -> list[_Job] | None:
        """What begins now, as soon as there is anything to do; None where there will be nothing any more."""
        with self._changed:
            while self._open and not self._waiting and not self._answering:
                self._changed.wait()
            return self._take() if self._waiting or self._answering else None

    def _work(self, jobs: Sequence[_Job]) -> None:
        self._give_up()
        self._calls([job for job in jobs if isinstance(job, _CallJob)])
        self._embed([job for job in jobs if isinstance(job, _EmbedJob)])
        self._compress([job for job in jobs if isinstance(job, _CompressJob)])
        self._join([job for job in jobs if isinstance(job, _AnswerJob)])
        self._step()

    def _die(self, jobs: Sequence[_Job]) -> None:
        """Everyone is told, and nobody may ask any more."""
        with self._changed:
            self._open = False
            left = [*self._answering, *jobs, *self._waiting]
            self._answering, self._waiting = [], deque()
        for job in left:
            if not job.future.done():
                self._finish(job, DeadError())

    def _take(self) -> list[_Job]:
        """What begins now, in the order in which it came; of each kind as much as fits, and at least one."""
        room = {_AnswerJob: self.batch - len(self._answering), _EmbedJob: TEXTS, _CompressJob: PICTURES, _CallJob: 1}
        pictures = PICTURES
        taken: list[_Job] = []
        left: deque[_Job] = deque()
        whole = dict(room)
        for job in self._waiting:
            kind, size, needs = type(job), _size(job), int(isinstance(job, _AnswerJob) and job.picture is not None)
            fits = size <= room[kind] or (room[kind] == whole[kind] and kind is not _AnswerJob)
            if job.future.cancelled():
                continue
            if fits and needs <= pictures:
                room[kind] -= size
                pictures -= needs
                taken.append(job)
            else:
                room[kind] = 0  # nobody of a kind overtakes another
                left.append(job)
        self._waiting = left
        return taken

    def _give_up(self) -> None:
        gone = [job for job in self._answering if job.future.cancelled()]
        if gone:
            self._answers.leave([job.answer for job in gone if job.answer is not None])
            self._answering = [job for job in self._answering if not job.future.cancelled()]

    def _calls(self, jobs: Sequence[_CallJob]) -> None:
        for job in jobs:
            self._each([job], lambda jobs: [job.function() for job in jobs])

    def _embed(self, jobs: Sequence[_EmbedJob]) -> None:
        def embed(jobs: Sequence[_EmbedJob]) -> list[Floats]:
            texts = [text for job in jobs for text in job.texts]
            vectors = as_array(self.model.embed(texts, num_tokens=self.num_tokens))
            return list(_parts(vectors, [len(job.texts) for job in jobs]))

        self._each(jobs, embed)

    def _compress(self, jobs: Sequence[_CompressJob]) -> None:
        def compress(jobs: Sequence[_CompressJob]) -> list[tuple[Floats, Floats]]:
            pictures = [picture for job in jobs for picture in job.pictures]
            tokens = self.model.compress(pictures, num_tokens=self.num_tokens)
            counts = [len(job.pictures) for job in jobs]
            both = _parts(as_array(tokens), counts), _parts(as_array(self.model.embed(tokens)), counts)
            return list(zip(*both, strict=True))

        self._each(jobs, compress)

    def _join(self, jobs: Sequence[_AnswerJob]) -> None:
        seen = [job for job in jobs if job.picture is not None]
        try:
            if seen:
                pictures = [job.picture for job in seen if job.picture is not None]
                for job, tokens in zip(seen, self.model.compress(pictures, num_tokens=self.num_tokens), strict=True):
                    job.tokens, job.picture = tokens, None
            asked = [Asked(tokens=job.tokens, prompt=job.prompt, max_new_tokens=job.max_new_tokens) for job in jobs]
            answers = self._answers.join(asked) if asked else []
            for job, answer in zip(jobs, answers, strict=True):
                job.answer = answer
            self._answering += jobs
            self._tell(jobs)
        except Exception as error:
            self._break_off([*self._answering, *jobs], error)

    def _step(self) -> None:
        if not self._answering:
            return
        self.steps += 1
        self.rows += len(self._answering)
        try:
            self._answers.step()
            self._tell(self._answering)
        except Exception as error:
            self._break_off(self._answering, error)

    def _tell(self, jobs: Sequence[_AnswerJob]) -> None:
        """Hands out what there is to say, and the answers that are finished."""
        self.tokens += sum(job.answer is not None and job.answer.finish != "stop" for job in jobs)
        ended: list[_AnswerJob] = []
        for job in jobs:
            assert job.answer is not None
            if job.answer.finish is None and not job.stop and job.on_text is None:
                continue
            text, finish = ready(self._answers.text(job.answer), job.answer.finish, job.stop)
            if job.on_text is not None and len(text) > job.said and not job.future.cancelled():
                job.on_text(text[job.said :])
                job.said = len(text)
            if finish is not None:
                ended.append(job)
                self._finish(job, Answered(text=text, tokens=len(job.answer.ids), finish=finish))
        if ended:
            self._answers.leave([job.answer for job in ended if job.answer is not None])
            self._answering = [job for job in self._answering if job not in ended]

    def _break_off(self, jobs: Sequence[_Job], error: Exception) -> None:
        """Out of memory, say: those that share the batch fail together, and the next begin a new one."""
        self._answering = []
        for job in jobs:
            if not job.future.done():
                self._finish(job, error)
        self._answers = self.model.running()

    def _each(self, jobs: Sequence[Any], work: Callable[[Sequence[Any]], list[Any]]) -> None:
        """Together; one by one where something among them is refused."""
        if not jobs:
            return
        try:
            results = work(jobs)
        except Exception as error:
            if len(jobs) == 1 or not isinstance(error, Fwd2BotError):
                results = [error] * len(jobs)
            else:
                for job in jobs:
                    self._each([job], work)
                return
        for job, result in zip(jobs, results, strict=True):
            self._finish(job, result)

    def _finish(self, job: _Job, result: Any) -> None:
        now = time.monotonic()
        self._pace = 0.9 * self._pace + 0.1 * min(10.0, now - self._done_at)
        self._done_at = now
        if job.future.set_running_or_notify_cancel():
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)


def ready(text: str, finish: str | None, stop: Sequence[str]) -> tuple[str, str | None]:
    """What may be said of an answer so far, and what ended it.

    A letter that is not whole yet, and what may become one of the `stop` texts, wait for what follows.
    """
    found = [place for one in stop if (place := text.find(one)) >= 0]
    if found:
        return text[: min(found)], "stop"
    if finish is not None:
        return text, finish
    text = text.rstrip("�")
    held = max((n for one in stop for n in range(1, len(one)) if text.endswith(one[:n])), default=0)
    return text[: len(text) - held], None


def _size(job: _Job) -> int:
    """Rows that it brings to its kind's batch."""
    if isinstance(job, _EmbedJob):
        return len(job.texts)
    return len(job.pictures) if isinstance(job, _CompressJob) else 1


def _picture_bytes(job: _Job) -> int:
    """Of its pictures in memory."""
    alone = [job.picture] if isinstance(job, _AnswerJob) and job.picture is not None else []
    pictures = job.pictures if isinstance(job, _CompressJob) else alone
    return sum(3 * picture.width * picture.height for picture in pictures)


def _parts(rows: Floats, counts: Sequence[int]) -> Iterator[Floats]:
    yield from np.split(rows, np.cumsum(counts)[:-1])
