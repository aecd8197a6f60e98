"""Pictures on their way into a store: read ahead by threads, compressed in batches, committed from time to time."""

import os
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fwd2bot.errors import ImageError
from fwd2bot.images import Picture, content_hash, decode, longer_name, read_bytes
from fwd2bot.store import Row, Store

if TYPE_CHECKING:
    from torch import Tensor

    from fwd2bot.engine import Model

COMMIT_ROWS = 256
COMMIT_SECONDS = 30.0
Made: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]  # tokens (B, K, D), vectors (B, D)


@dataclass(kw_only=True)
class CompressReport:
    """What became of the pictures; `failed` holds (name, reason)."""

    store: str
    added: int = 0
    present: int = 0  # were there already, under this name
    named: int = 0  # the same content is there under another name: both names answer
    moved: int = 0  # the same content was there under a name whose file is gone: only the new name answers
    failed: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return self.added + self.present + self.named + self.moved + len(self.failed)


class Ingest:
    """Pictures on their way into the store: waiting for the model, in its hands, then waiting for the next commit.

    The model works in a thread of its own. While it has one batch, files of the next are read and decoded, and pixels
    are made of them.
    """

    def __init__(self, model: "Model", store: Store, batch_size: int) -> None:
        self.model, self.store, self.batch_size = model, store, batch_size
        self.report = CompressReport(store=str(store.path))
        self.waiting: list[tuple[Row, Image.Image]] = []
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="fwd2bot model")
        self._running: tuple[list[Row], Future[Made]] | None = None
        self._rows: list[Row] = []  # with tokens
        self._names: list[Row] = []  # other names for contents
        # What the next commit brings, and the store does not know yet:
        self._new: set[str] = set()  # contents
        self._owners: dict[str, tuple[str, str] | None] = {}  # of names: content and path; None: it goes
        self._moved: dict[str, tuple[str, str]] = {}  # names that go, with content and path
        self._committed = time.monotonic()

    def __contains__(self, key: object) -> bool:
        """Whether a content is in the store, or will be."""
        assert isinstance(key, str)
        return key in self._new or self.store.has(key)

    def run(self, found: Sequence[tuple[str, str]], progress: Callable[[int, int], None] | None) -> CompressReport:
        """Takes all of them and commits; what was compressed before it is stopped is committed, too."""
        try:
            for done, (name, path, read) in enumerate(read_ahead(found, self, self.batch_size), start=1):
                self.take(name, path, read)
                if progress is not None:
                    progress(done - len(self.waiting) - self._in_work, len(found))
            self.commit()
        except BaseException:  # Ctrl-C, no memory: what was compressed is kept
            self.abandon()
            raise
        return self.report

    def take(self, name: str, path: str, read: "ReadFile") -> None:
        if read.error is None and read.picture is None and read.row is None and read.hash not in self:
            read = read_file(path, known=())  # its row was there when it was read, and went with its last name
        if read.error is not None:
            self.report.failed.append((name, read.error))
            return
        name = self._free_name(name, path, read.hash)
        there = self._owner(name)
        if there == (read.hash, path):
            self.report.present += 1
            return
        self._owners[name] = (read.hash, path)
        if read.hash in self:
            self._names.append(Row(name=name, hash=read.hash, path=path))
            if there is not None and there[0] == read.hash:
                self.report.present += 1  # moved with its folder
            elif self._moved_from(read.hash):
                self.report.moved += 1
            else:
                self.report.named += 1
        else:
            self._wait(name, path, read)
        if len(self._rows) + self._in_work + len(self._names) >= COMMIT_ROWS or self._seconds() > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Everything that was taken is in the store afterwards."""
        self._compress()
        self._finish()
        rows = [*self._rows, *self._names]
        if rows:
            self.store.add(rows)
            self._rows, self._names = [], []
            self.store.remove([name for name, was in self._moved.items() if self.store.owner(name) == was])
        self._new, self._owners, self._moved = set(), {}, {}
        self._committed = time.monotonic()

    def abandon(self) -> None:
        """What was compressed is in the store afterwards; what was only taken is dropped."""
        dropped = [row for row, _ in self.waiting]
        self.waiting.clear()
        if self._running is not None and self._running[1].exception() is not None:  # waits for the model
            dropped += self._running[0]
            self._running = None
        self._new -= {row.hash for row in dropped}
        self._names = [row for row in self._names if row.hash in self]
        self.commit()

    def _moved_from(self, key: str) -> bool:
        """Whether the content has a name whose file is gone; that name goes."""
        for name in sorted(self.store.names_of(key)):
            there = self._owner(name)
            if there is not None and there[0] == key and not os.path.exists(there[1]):  # noqa: PTH110 (any text)
                self._moved[name], self._owners[name] = there, None
                return True
        return False

    def _wait(self, name: str, path: str, read: "ReadFile") -> None:
        self._new.add(read.hash)
        if read.row is not None:
            self._rows.append(replace(read.row, name=name, path=path, fingerprint=self.model.fingerprint))
            self.report.added += 1
            return
        picture = read.picture
        assert picture is not None, "contents that are not known come with their picture"
        row = Row(
            name=name,
            hash=read.hash,
            path=path,
            file_bytes=picture.file_bytes,
            modified=read.modified,
            width=picture.width,
            height=picture.height,
            fingerprint=self.model.fingerprint,
        )
        self.waiting.append((row, picture.image))
        if len(self.waiting) >= self.batch_size:
            self._compress()

    def _compress(self) -> None:
        """Hand what waits to the model."""
        if not self.waiting:
            return
        prepared = self.model.prepare([image for _, image in self.waiting])
        self._finish()
        self._running = ([row for row, _ in self.waiting], self._worker.submit(self._made, prepared))
        self.waiting.clear()

    def _made(self, prepared: Any) -> Made:
        tokens = self.model.compress(prepared, num_tokens=self.store.header.num_tokens)
        return as_array(tokens), as_array(self.model.embed(tokens))

    def _finish(self) -> None:
        """Take what the model was handed last."""
        if self._running is None:
            return
        rows, made = self._running
        tokens, vectors = made.result()
        self._rows += [
            replace(row, tokens=row_tokens, vector=vector)
            for row, row_tokens, vector in zip(rows, tokens, vectors, strict=True)
        ]
        self.report.added += len(rows)
        self._running = None

    @property
    def _in_work(self) -> int:
        return 0 if self._running is None else len(self._running[0])

    def _free_name(self, name: str, path: str, key: str) -> str:
        """The name, unless another picture of another folder has it: then with more of its own folders before it."""
        while True:
            there = self._owner(name)
            longer = longer_name(name, path)
            if there is None or there[0] == key or there[1] == path or longer == name:
                return name
            name = longer

    def _owner(self, name: str) -> tuple[str, str] | None:
        """The content and the path of a name, as the next commit leaves it."""
        return self._owners[name] if name in self._owners else self.store.owner(name)

    def _seconds(self) -> float:
        return time.monotonic() - self._committed


@dataclass(frozen=True, kw_only=True)
class ReadFile:
    """A file that was read. No picture: its content is known already. An error: it could not be read.

    A row: it was compressed elsewhere (`bulk.py`), and only its name is to be found.
    """

    hash: str = ""
    picture: Picture | None = None
    modified: int = 0
    row: Row | None = None
    error: str | None = None


def read_file(path: str, known: Container[str]) -> ReadFile:
    """A file, without its picture where its content is known."""
    try:
        content = read_bytes(Path(path))
        key = content_hash(content)
        modified = max(int(Path(path).stat().st_mtime), 0)
        picture = None if key in known else decode(content, path)
        return ReadFile(hash=key, picture=picture, modified=modified)
    except (ImageError, OSError) as error:
        return ReadFile(error=str(error))


def read_ahead(
    found: Sequence[tuple[str, str]], known: Container[str], ahead: int
) -> Iterator[tuple[str, str, ReadFile]]:
    """Files in order, read and decoded by a few threads, at most `ahead` before they are asked for."""
    running: deque[tuple[str, str, Future[ReadFile]]] = deque()
    pool = ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1))
    try:
        for name, path in found:
            running.append((name, path, pool.submit(read_file, path, known)))
            if len(running) > ahead:
                name, path, future = running.popleft()
                yield name, path, future.result()
        for name, path, future in running:
            yield name, path, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def as_array(tensor: "Tensor") -> NDArray[np.float32]:
    """A tensor of any device and dtype as float32 in numpy."""
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array
