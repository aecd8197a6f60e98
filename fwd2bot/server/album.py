"""The store as the server sees it: one thread reads it, the rows of a page of images, pictures, searches.

Source of the end points: `GET /album` and what is below it; docs/serving.md lists them.
"""

import asyncio
import fnmatch
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from fwd2bot.errors import InputError, StoreError
from fwd2bot.images import Picture, content_hash, decode, read_bytes
from fwd2bot.server.pictures import Folders, thumbnail
from fwd2bot.server.replies import RequestError
from fwd2bot.store import Row, Store
from fwd2bot.store.urls import url_of

Floats = NDArray[np.float32]
Result = TypeVar("Result")


class Album:
    """Rows and pictures. What is `async` runs in the store's own thread, everything else is for that thread."""

    def __init__(self, store: Store, folders: Folders) -> None:
        self.store, self.folders = store, folders
        self._info = store.info()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fwd2bot store")
        self._decoders = ThreadPoolExecutor(2, thread_name_prefix="fwd2bot pictures")

    async def read(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """What a function gives that reads the store."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._retried, function, *arguments)

    async def decoded(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """What a function gives that opens a picture: two at a time, whoever asks."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, *arguments)

    def close(self) -> None:
        for pool in (self._thread, self._decoders):
            pool.shutdown(cancel_futures=True)

    def _retried(self, function: Callable[..., Result], *arguments: Any) -> Result:
        try:
            return function(*arguments)
        except StoreError:  # who wrote to it meanwhile may have tidied its files away
            self._open_again()
            return function(*arguments)

    def _open_again(self) -> None:
        """As it is now. Raises StoreError where its rows are of another kind."""
        old, new = self.store.header, Store.open(self.store.path)
        if (new.header.fingerprint, new.header.num_tokens) != (old.fingerprint, old.num_tokens):
            raise StoreError(f"{self.store.path.name} holds rows of another kind now: start the server again.")
        self.store, self._info = new, new.info()

    def about(self) -> dict[str, Any]:
        """Its figures; rows that were added meanwhile are there from now on."""
        if Store.open(self.store.path).info() != self._info:
            self._open_again()
        info = self._info
        shown = {name: getattr(info, name) for name in ("model", "num_tokens", "rows", "bytes_per_row", "image_bytes")}
        return {**shown, "store": self.store.path.name}

    def row(self, image: str) -> Row:
        """The row of an image, by its name or any end of that. Raises RequestError where there is none: an end of a
        path would tell who guesses one where its file lies."""
        with suppress(InputError):
            name = self.store.find(image)
            if f"/{name}".endswith(f"/{image}"):
                return self.store.get([name])[0]
        told = self.store.unknown(image).replace(str(self.store.path), self.store.path.name)
        raise RequestError(404, told, code="image_not_found")

    def images(self, offset: int, limit: int, pattern: str | None) -> dict[str, Any]:
        """A page of the images whose names fit a pattern (* and ?), by name."""
        if pattern is None:
            return {"total": self._info.names, "images": self._shown(self.store.names(offset, offset + limit))}
        names = [name for name in self.store.names() if fnmatch.fnmatchcase(name, pattern)]
        return {"total": len(names), "images": self._shown(names[offset : offset + limit])}

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


def opened_picture(file: tuple[Path, str]) -> Picture:
    """The picture in a file that has this content hash. Raises RequestError where its content has changed."""
    path, key = file
    content = read_bytes(path)
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
