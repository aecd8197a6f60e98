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

from fwd2bot.disk import gone
from fwd2bot.errors import ImageError, no_numbers
from fwd2bot.images import Picture, content_hash, decode, longer_name, read_bytes
from fwd2bot.store import Row, Store

if TYPE_CHECKING:
    from torch import Tensor

    from fwd2bot.engine import Model

COMMIT_ROWS = 256
COMMIT_SECONDS = 30.0
WAITING_BYTES = 128 * 2**20
"""Of rows that wait for new names, with which they are written again, and 1 KB for each name."""
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

    A commit of new rows is as quick in a large store as in a small one, but to give new names to rows that are there it
    looks through all rows. So such names wait for each other: until they are many, until a commit must look anyway
    (a file has changed under its name), or until the end. Where a process dies before, the next one finds them again,
    without the model.
    """

    def __init__(self, model: "Model", store: Store, batch_size: int) -> None:
        self.model, self.store, self.batch_size = model, store, batch_size
        self.report = CompressReport(store=str(store.path))
        self.waiting: list[tuple[Row, Image.Image]] = []
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="fwd2bot model")
        self._running: tuple[list[Row], Future[Made]] | None = None
        self._bad: set[str] = set()  # contents that the model makes no numbers of
        # What the next commit brings, and the store does not know yet:
        self._rows: list[Row] = []  # with tokens
        self._names: list[Row] = []  # other names for new contents
        self._new: set[str] = set()  # contents
        self._owners: dict[str, tuple[str, str] | None] = {}  # of names: content and path; None: it goes
        # What waits for a commit that looks through all rows:
        self._later: list[Row] = []  # other names for contents that are there
        self._moved: dict[str, tuple[str, str]] = {}  # names that go, with content and path
        self._unseen: dict[str, list[str]] = {}  # of such contents: names whose files were not looked for yet
        self._touched = False  # the next one must
        self._most_names = max(COMMIT_ROWS, WAITING_BYTES // (store.header.bytes_per_row + 1024))
        self._start_clock()

    def __contains__(self, key: object) -> bool:
        """Whether a content needs no model: it is in the store, will be, or cannot be."""
        assert isinstance(key, str)
        return key in self._new or key in self._bad or self.store.has(key)

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
        """One more file, and a commit where it is time for one."""
        self._take(name, path, read)
        new, many = len(self._rows) + self._in_work + len(self._names), len(self._later) >= self._most_names
        if many or new >= COMMIT_ROWS or self._seconds() > COMMIT_SECONDS:
            self._commit(whole=many or self._touched)
            self._start_clock()

    def _take(self, name: str, path: str, read: "ReadFile") -> None:
        if read.error is None and read.picture is None and read.row is None and read.hash not in self:
            read = read_file(path, known=())  # its row was there when it was read, and went with its last name
        if read.error is not None or read.hash in self._bad:
            self.report.failed.append((name, read.error or no_numbers(path)))
            return
        name = self._free_name(name, path, read.hash)
        there, pending = self._owner(name), name in self._owners
        if there is not None and there[0] == read.hash and (there[1] == path or not gone(there[1])):
            self.report.present += 1
            return
        self._owners[name] = (read.hash, path)
        if read.hash not in self._new and self.store.has(read.hash):
            self._later.append(Row(name=name, hash=read.hash, path=path))
            if there is not None and there[0] == read.hash:
                self.report.present += 1  # moved with its folder
            elif self._moved_from(read.hash):
                self.report.moved += 1
            else:
                self.report.named += 1
        else:
            self._touched |= there is not None or pending
            self._take_new(name, path, read)

    def commit(self) -> None:
        """Everything that was taken is in the store afterwards."""
        self._commit(whole=True)

    def abandon(self) -> None:
        """What was compressed is in the store afterwards; what was only taken is dropped."""
        dropped = [row for row, _ in self.waiting]
        self.waiting.clear()
        if self._running is not None and self._running[1].exception() is not None:  # waits for the model
            dropped += self._running[0]
            self._running = None
        self._new -= {row.hash for row in dropped}
        self._names = [row for row in self._names if row.hash in self._new]
        self.commit()

    def _commit(self, *, whole: bool) -> None:
        """What is new is in the store afterwards; names for what was there, where it is the whole."""
        self._compress()
        self._finish()
        rows = [*(self._later if whole else []), *self._rows, *self._names]
        if rows:
            self.store.add(rows)
        self._rows, self._names, self._new = [], [], set()
        if whole:
            self.store.remove([name for name, was in self._moved.items() if self.store.owner(name) == was])
            self._later, self._moved, self._unseen, self._owners, self._touched = [], {}, {}, {}, False
        for row in rows:
            self._owners.pop(row.name, None)

    def _moved_from(self, key: str) -> bool:
        """Whether a content that is in the store has a name whose file is gone; that name goes."""
        if key not in self._unseen:
            self._unseen[key] = sorted(self.store.names_of(key), reverse=True)
            self._touched |= not self._unseen[key]  # a row without a name goes when the store is tidied
        while self._unseen[key]:
            name = self._unseen[key].pop()
            there = self._owner(name)
            if there is not None and there[0] == key and gone(there[1]):
                self._moved[name], self._owners[name] = there, None
                return True
        return False

    def _take_new(self, name: str, path: str, read: "ReadFile") -> None:
        """A content that is not in the store yet."""
        if read.hash in self._new:
            self._names.append(Row(name=name, hash=read.hash, path=path))
            self.report.named += 1
            return
        self._new.add(read.hash)
        if read.row is not None:
            self._keep(replace(read.row, name=name, path=path, fingerprint=self.model.fingerprint))
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
        for row, row_tokens, vector in zip(rows, tokens, vectors, strict=True):
            self._keep(replace(row, tokens=row_tokens, vector=vector))
        self._running = None

    def _keep(self, row: Row) -> None:
        """A new row; where its numbers are none, it is as if its content had not been taken."""
        assert row.tokens is not None
        assert row.vector is not None
        if np.isfinite(row.tokens).all() and np.isfinite(row.vector).all():
            self._rows.append(row)
            self.report.added += 1
            return
        others = [other for other in self._names if other.hash == row.hash]
        self._names = [other for other in self._names if other.hash != row.hash]
        self._new.discard(row.hash)
        self._bad.add(row.hash)
        self.report.named -= len(others)
        for one in (row, *others):
            self._owners.pop(one.name, None)
            self.report.failed.append((one.name, no_numbers(one.path)))

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

    def _start_clock(self) -> None:
        self.store.has("")  # reads all names where they must be read anew: that takes no time of the pictures
        self._committed = time.monotonic()

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
    """Files in order, read and decoded by a thread a processor, at most `ahead` before they are asked for."""
    running: deque[tuple[str, str, Future[ReadFile]]] = deque()
    pool = ThreadPoolExecutor(max_workers=min(32, os.cpu_count() or 1))
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
