"""The store as the server sees it: one thread reads it, the rows of a page of images, pictures, searches.

Source of the end points: `GET /album` and what is below it; docs/serving.md lists them.
"""

import asyncio
import logging
import time
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from unicodedata import normalize
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from fwd2bot.errors import InputError, StoreError
from fwd2bot.images import Picture, content_hash, decode
from fwd2bot.server.pictures import Folders, content_of, thumbnail
from fwd2bot.server.replies import RequestError
from fwd2bot.store import Row, Store, StoreInfo
from fwd2bot.store.filters import pattern
from fwd2bot.store.guards import newest_manifest
from fwd2bot.store.urls import url_of

Floats = NDArray[np.float32]
Result = TypeVar("Result")
LOG = logging.getLogger("fwd2bot.server")
REST = 10
"""Times as long as it took to read the store anew, it is not read again: whoever writes to it, all day long."""
PATIENCE = 0.5
"""Seconds that `GET /album` waits for such rows, so that those of a small store are there at once."""
BLOCK = 1 << 16
"""Names that are compared with a pattern before others have their turn."""
PATTERNS = 4
"""So many are remembered, with the names that fit."""


class Fitting:
    """The places of the names that fit a pattern (* and ?), found a block at a time."""

    def __init__(self, pattern: str) -> None:
        self.pattern = normalize("NFC", pattern)  # as names are
        self._of: Store | None = None

    def look(self, store: Store) -> bool:
        """At the next block, or the first where the store is another; says whether there is nothing left to look at."""
        if self._of is not store:
            self._of, self._next, self._done, self.places = store, 0, False, array("i")
        if not self._done:
            names = store.names(self._next, self._next + BLOCK)
            like = pattern(self.pattern).match
            self.places.extend(place for place, name in enumerate(names, self._next) if like(name))
            self._next, self._done = self._next + BLOCK, len(names) < BLOCK
        return self._done


def read_for_search(store: Store) -> None:
    """Reads what searches need, which the first one would wait for, and all who ask behind it."""
    store.search(np.eye(1, store.header.width, dtype=np.float32)[0], 1)


class Album:
    """Rows and pictures. What is `async` is for the server's thread, everything else for the store's own."""

    def __init__(self, store: Store, folders: Folders) -> None:
        self.store, self.folders = store, folders
        self._info = store.info()
        self._state: object = None  # of the store's folder; None: not known yet, since it may have been opened long ago
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fwd2bot store")
        self._decoders = ThreadPoolExecutor(2, thread_name_prefix="fwd2bot pictures")
        self._renewer = ThreadPoolExecutor(1, thread_name_prefix="fwd2bot renewal")
        self._renewal: Future[None] | None = None
        self._rest = 0.0  # until when nothing is renewed
        self._fitting = lru_cache(PATTERNS)(Fitting)

    async def read(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """What a function gives that reads the store."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._retried, function, *arguments)

    async def decoded(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """What a function gives that opens a picture: two at a time, whoever asks."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, *arguments)

    def close(self) -> None:
        for pool in (self._renewer, self._thread, self._decoders):
            pool.shutdown(cancel_futures=True)

    def _retried(self, function: Callable[..., Result], *arguments: Any) -> Result:
        try:
            return self._on_the_newest(function, *arguments)
        except StoreError as error:  # where the store lies is not told
            raise StoreError(self._without_folder(str(error))) from error

    def _without_folder(self, sentence: str) -> str:
        return sentence.replace(str(self.store.path), self.store.path.name)

    def _on_the_newest(self, function: Callable[..., Result], *arguments: Any) -> Result:
        try:
            return function(*arguments)
        except StoreError:  # who wrote to it meanwhile may have tidied its files away
            if self._state is not None and self._state == _state(self.store.path):
                raise
            self._take(self.store, *self._opened())
            return function(*arguments)

    def _opened(self) -> tuple[Store, StoreInfo, object]:
        """As it is now. Raises StoreError where its rows are of another kind."""
        state = _state(self.store.path)  # before it is opened: what is written meanwhile is newer
        old, new = self.store.header, Store.open(self.store.path)
        if (new.header.fingerprint, new.header.num_tokens) != (old.fingerprint, old.num_tokens):
            raise StoreError(f"{self.store.path.name} holds rows of another kind now: start the server again.")
        return new, new.info(), state

    def _take(self, old: Store, new: Store, info: StoreInfo, state: object) -> None:
        """From now on the new store answers, unless another has taken the place of the old one."""
        if self.store is old:
            self.store, self._info, self._state = new, info, state
            self._fitting.cache_clear()

    def _renew(self) -> None:
        """Takes rows in that were added. Others are answered meanwhile, and nobody then waits for an index to be read.

        What goes wrong is for the next time: a writer may be at work.
        """
        if time.monotonic() < self._rest or _state(self.store.path) == self._state:
            return
        began, old = time.monotonic(), self.store
        try:
            new, info, state = self._opened()
            if self._state is None and info == self._info:
                self._state = state
            else:
                read_for_search(new)
                self._thread.submit(self._take, old, new, info, state).result()
        except Exception as error:
            LOG.warning("New rows are not there yet: %s", error, exc_info=not isinstance(error, StoreError))
        self._rest = time.monotonic() + REST * (time.monotonic() - began)

    async def about(self) -> dict[str, Any]:
        """Its figures, of the rows that answer; those that were added meanwhile are read as soon as may be."""
        if self._renewal is None or self._renewal.done():
            self._renewal = self._renewer.submit(self._renew)
        await asyncio.wait([asyncio.wrap_future(self._renewal)], timeout=PATIENCE)
        info = self._info
        shown = {name: getattr(info, name) for name in ("model", "num_tokens", "rows", "bytes_per_row", "image_bytes")}
        return {**shown, "store": self.store.path.name}

    def row(self, image: str) -> Row:
        """The row of an image, by its name or any end of that. Raises RequestError where there is none: an end of a
        path would tell who guesses one where its file lies."""
        image = normalize("NFC", image)  # as names are; macOS lists files otherwise
        with suppress(InputError):
            name = self.store.find(image)
            if f"/{name}".endswith(f"/{image}"):
                return self.store.get([name])[0]
        raise RequestError(404, self._without_folder(self.store.unknown(image)), code="image_not_found")

    async def images(self, offset: int, limit: int, pattern: str | None) -> dict[str, Any]:
        """A page of the images whose names fit a pattern (* and ?), by name."""
        fitting = None if pattern is None else self._fitting(pattern)
        while (page := await self.read(self._page, offset, limit, fitting)) is None:
            pass
        return page

    def _page(self, offset: int, limit: int, fitting: Fitting | None) -> dict[str, Any] | None:
        """None where names are still to be compared: a block of them was, and others have their turn."""
        if fitting is None:
            return {"total": self._info.names, "images": self._shown(self.store.names(offset, offset + limit))}
        if not fitting.look(self.store):
            return None
        names = [self.store.names(place, place + 1)[0] for place in fitting.places[offset : offset + limit]]
        return {"total": len(fitting.places), "images": self._shown(names)}

    def search(self, vector: Floats, top: int, cutoff: float | None) -> dict[str, Any]:
        """The nearest images to a unit vector, down to a cosine of `cutoff`, as `images` tells them, with scores."""
        found = [one for one in self.store.search(vector, top) if cutoff is None or one[1] >= cutoff]
        shown = self._shown([name for name, _ in found])
        return {"results": [{**one, "score": round(score, 6)} for one, (_, score) in zip(shown, found, strict=True)]}

    def _shown(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """What a person sees of images: where they are, and what they take as files and as rows."""
        header = self.store.header
        return [
            {
                "image": row.name,
                "url": url_of(row.name),
                "width": row.width,
                "height": row.height,
                "file_bytes": row.file_bytes,
                "row_bytes": header.bytes_per_row,
                "tokens": header.num_tokens,
                "picture": None if self._file(row) is None else f"/album/picture?image={quote(row.name, safe='')}",
            }
            for row in self.store.get(names, num_tokens=1)
        ]

    def _file(self, row: Row) -> Path | None:
        """The file of an image, where that is there and may be shown."""
        return self.folders.find(row.path) if Path(row.path).is_absolute() else None

    def picture_file(self, image: str) -> tuple[Path, str]:
        """The file of an image, and the hash of what was compressed. Raises RequestError where it may not be shown."""
        row = self.row(image)
        found = self._file(row)
        if found is None:
            raise RequestError(
                404, f"The file of {row.name!r} is not there, or in no folder that this server may show."
            )
        return found, row.hash


def _state(root: Path) -> object:
    """Another whenever the store in a folder is: the folder itself, its newest version, when that was written."""
    with suppress(OSError):
        if newest := newest_manifest(root):
            return root.stat().st_ino, newest, (root / "_versions" / newest).stat().st_mtime_ns
    return None


def opened_picture(file: tuple[Path, str]) -> Picture:
    """The picture in a file that has this content hash. Raises RequestError where its content has changed."""
    path, key = file
    content = content_of(path, path.name)
    if content_hash(content) != key:
        raise RequestError(404, "The file has changed since it was compressed, so it is not shown.")
    return decode(content, path.name)


def shown_picture(file: tuple[Path, str], size: int) -> bytes:
    """A JPEG of a file, no larger than so many pixels a side. Raises RequestError as `opened_picture` does."""
    return thumbnail(opened_picture(file), size)


def one_of(body: dict[str, Any], names: Sequence[str]) -> str:
    """The one of these fields that is given. Raises RequestError where it is none, or several."""
    given = [name for name in names if body.get(name) is not None]
    if len(given) != 1:
        listed = ", ".join(f'"{name}"' for name in names)
        raise RequestError(400, f"Give one of {listed}.")
    return given[0]
