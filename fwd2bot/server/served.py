"""What all end points share: the model's worker, the album, the limits; and pictures, wherever they are from."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request

from fwd2bot.images import Picture
from fwd2bot.server.album import Album, Floats, read_for_search
from fwd2bot.server.batching import Answered, ServedModel, Worker
from fwd2bot.server.metrics import Metrics
from fwd2bot.server.pictures import Folders, picture_of
from fwd2bot.server.replies import LONGEST_NAME, Limits, finished, text_of, within
from fwd2bot.store import Row, Store
from fwd2bot.store.urls import SCHEME, name_of


@dataclass(eq=False, kw_only=True)
class Served:
    """A model and its store, in use by a server."""

    model: ServedModel
    worker: Worker
    album: Album
    metrics: Metrics
    token: str | None  # who has it may ask; None: everyone
    loopback: bool  # only this machine reaches it
    limits: Limits = field(default_factory=Limits)
    stopping: bool = False
    requests: int = 0  # that are being answered
    large: int = 0  # of these, with a large body

    @classmethod
    def open(
        cls,
        model: ServedModel,
        store: Store,
        *,
        images: Sequence[str | Path] = (),
        token: str | None = None,
        loopback: bool = True,
        batch: int = 32,
        queue: int = 128,
        limits: Limits | None = None,
    ) -> "Served":
        """Raises StoreError where the rows are another model's, ImageError where a folder of `images` is not there."""
        store.check(model.fingerprint, model.name)
        read_for_search(store)
        album = Album(store, Folders(images))
        worker = Worker(model, num_tokens=store.header.num_tokens, batch=batch, queue=queue)
        return cls(
            model=model,
            worker=worker,
            album=album,
            metrics=Metrics(worker),
            token=token,
            loopback=loopback,
            limits=limits or Limits(),
        )

    def close(self, patience: float | None = None) -> None:
        """Ends the threads when what was asked is done, or the model's after so many seconds whatever it does."""
        self.worker.close(patience)
        self.album.close()

    @property
    def num_tokens(self) -> int:
        """Tokens of a picture, stored or sent."""
        return self.album.store.header.num_tokens

    async def image(self, url: str) -> Row | Picture:
        """A stored row, or a picture that was sent or lies below an allowed folder.

        Raises RequestError, ImageError, InputError where there is none.
        """
        if url.startswith(SCHEME):
            name = text_of({"the name in its URL": name_of(url)}, "the name in its URL", longest=LONGEST_NAME)
            return await within(self.limits, self.album.read(self.album.row, name))
        work = self.album.decoded(picture_of, url, self.album.folders, self.limits.pixels)
        return await within(self.limits, work)

    async def vector(self, request: Request, image: Row | Picture) -> Floats:
        """(D,), unit norm."""
        if isinstance(image, Row):
            assert image.vector is not None
            return image.vector
        _, vectors = await finished(request, self.worker.compress([image.image]), self.limits)
        vector: Floats = vectors[0]
        return vector

    def answer(
        self, image: Row | Picture, turns: Sequence[tuple[str, str | None]], max_new_tokens: int = 64, **options: Any
    ) -> "tuple[Future[Answered], int]":
        """The answer to come, and how many tokens the conversation has with its picture.

        Options are those of `Worker.answer`. Raises InputError where the conversation does not fit, FullError.
        """
        prompt = self.model.prompt(turns, self.num_tokens, max_new_tokens)
        about: dict[str, Any] = {"tokens": image.tokens} if isinstance(image, Row) else {"picture": image.image}
        future = self.worker.answer(prompt, max_new_tokens=max_new_tokens, **about, **options)
        return future, len(prompt.ids) + self.num_tokens


def served(request: Request) -> Served:
    found: Served = request.scope["served"]
    return found
