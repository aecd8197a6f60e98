"""The store as a Lance data set: the one module that knows Lance, and translates its errors.

One process writes at a time, behind a lock that the system releases when the process dies, however it dies. Others
read meanwhile: a commit is a new version of the data set, and appears whole or not at all.
"""

import datetime
import fcntl
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fwd2bot.errors import Fwd2BotError, StoreError
from fwd2bot.store.base import Floats, Header, Places, Row, Store, StoreInfo
from fwd2bot.store.names import Names
from fwd2bot.store.quantise import Bytes

HEADER_KEY = b"fwd2bot"
LOCK = "writer.lock"
FILE_BYTES = 64 * 2**20
"""Of rows in a large file."""
SMALL_FILES = 64
"""More than so many become large ones when a store is tidied; a reader of before must then open the store again."""
COMMITS = 256
"""After so many a store tidies itself."""
_OWN_PARTS = {LOCK, "_versions", "_transactions", "_deletions", "_indices", "data"}
_OF_HEADER = ["model", "source", "fingerprint", "num_tokens", "width", "quantisation", "vector_quantisation"]
_OF_HEADER += ["bytes_per_row", "format"]
_FIGURES = ["file_bytes", "width", "height"]
_New = tuple[Row, dict[str, str]]  # a row that comes in, and its names with their paths


def is_new(path: Path) -> bool:
    """Whether a store may be created there: nothing is there, or what a creation that was cut off left behind.

    Raises StoreError where the folder may not be read.
    """
    with _translated(path, "read"):
        if not path.exists():
            return True
        if not path.is_dir():
            return False
        parts = {part.name for part in path.iterdir()}
        return not parts or (LOCK in parts and parts <= _OWN_PARTS and not any(path.glob("_versions/*.manifest")))


def open_store(path: Path) -> "LanceStore":
    """Raises StoreError where there is no store, or it cannot be read."""
    with _translated(path, "read"):
        if not path.exists() or (is_new(path) and not (path / LOCK).exists()):
            raise StoreError(f"There is no store at {path}: make one with `fwd2bot compress PHOTOS --store {path}`.")
        if is_new(path):
            raise StoreError(
                f"{path} was begun and never finished: run `fwd2bot compress PHOTOS --store {path}` again."
            )
        if not path.is_dir():
            raise StoreError(f"{path} is a file, not a store: give the folder of a store, or a new one.")
        if not (path / "_versions").is_dir():
            raise StoreError(f"{path} is a folder but not a store: give the folder of a store, or a new one.")
        dataset = lance.dataset(_uri(path))
        text = (dataset.schema.metadata or {}).get(HEADER_KEY)
        if text is None:
            raise StoreError(f"{path} is a Lance data set that fwd2bot did not write: give another folder.")
        return LanceStore(path, Header.from_json(text.decode(), path), dataset)


def create_store(path: Path, header: Header) -> "LanceStore":
    """Raises StoreError where the folder holds anything but a creation that was cut off."""
    with _translated(path, "written"):
        if is_new(path):
            path.mkdir(parents=True, exist_ok=True)
        elif not (path / LOCK).exists():
            raise StoreError(f"{path} is not a store, and not empty: give the store a folder of its own.")
        with _lock(path):
            if not is_new(path):
                raise StoreError(f"{path} holds a store already: open it, or give another folder.")
            dataset = lance.write_dataset(_schema(header).empty_table(), _uri(path), mode="create")
    return LanceStore(path, header, dataset)


@dataclass
class _Entry:
    """What is known of a row without reading it: where it is in the version at hand, and its names."""

    offset: int
    names: dict[str, str]  # name -> path


class LanceStore(Store):
    """See Store."""

    def __init__(self, path: Path, header: Header, dataset: Any) -> None:
        super().__init__(path, header)
        self._dataset = dataset
        self._entries: dict[str, _Entry] | None = None  # by content hash
        self._owners: dict[str, str] = {}  # name -> content hash
        self._sorted: dict[str, tuple[str, str]] | None = None
        self._depth = 0
        self._commits = 0
        self._found: tuple[object, Names] | None = None  # of which version

    def __len__(self) -> int:
        with _translated(self.path, "read"):
            return int(self._dataset.count_rows("array_length(names) > 0"))

    def _lookup(self) -> Names:
        version = self._version()
        if self._found is None or self._found[0] != version:
            with _translated(self.path, "read"):
                self._found = (version, Names(self._dataset.to_table(columns=["names", "paths"])))
        return self._found[1]

    def images(self) -> dict[str, tuple[str, str]]:
        index = self._index()
        if self._sorted is None:
            self._sorted = {name: (key, index[key].names[name]) for name, key in sorted(self._owners.items())}
        return self._sorted

    def info(self) -> StoreInfo:
        with _translated(self.path, "read"):
            table = self._dataset.to_table(columns=["names", "file_bytes"]).combine_chunks()
            names = np.diff(_offsets(table["names"]))
            header = {name: getattr(self.header, name) for name in _OF_HEADER}
            return StoreInfo(
                path=str(self.path),
                rows=int((names > 0).sum()),
                names=int(names.sum()),
                disk_bytes=sum(part.stat().st_size for part in self.path.rglob("*") if part.is_file()),
                image_bytes=int(table["file_bytes"].to_numpy()[names > 0].sum()),
                **header,
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        if self._depth:  # this object has the right already
            yield
            return
        with _lock(self.path):
            self._refresh()
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._check_row(row)
        with self.writing(), _translated(self.path, "written"):
            self._refresh()  # an interrupt may have come between a commit and its being noted here
            new, renamed = self._changes(rows)
            if renamed:
                table = pa.concat_tables([self._table(new), self._renamed(renamed)])
                merge = self._dataset.merge_insert("hash")
                merge.when_matched_update_all().when_not_matched_insert_all().execute(table)
                self._forget()
            elif new:
                first = int(self._dataset.count_rows())
                self._dataset = lance.write_dataset(self._table(new), self._dataset, mode="append")
                self._remember(((row.hash, names) for row, names in new), first)
            self._commits += 1
            if self._commits % COMMITS == 0:
                self.tidy()

    def tidy(self) -> None:
        with self.writing(), _translated(self.path, "written"):
            if any(not entry.names for entry in self._index().values()):
                self._dataset.delete("array_length(names) = 0")
                self._forget()
            self._compact()
            # Lists of files of older versions, and files of writers that died: no other can be at work.
            self._dataset.cleanup_old_versions(older_than=datetime.timedelta(0), delete_unverified=True)

    def _compact(self) -> None:
        """Every commit makes a file; many small ones become few, with rows in their order, so that places stay."""
        rows = max(1, FILE_BYTES // self.header.bytes_per_row)
        small = [part for part in self._dataset.get_fragments() if part.count_rows() < rows]
        if len(small) > SMALL_FILES:
            self._dataset.optimize.compact_files(target_rows_per_fragment=rows)
            self._dataset = lance.dataset(_uri(self.path))

    def _read(self, names: Sequence[str]) -> list[tuple[Row, bytes]]:
        if not names:
            return []
        places = [self._lookup().place(name) for name in names]
        with _translated(self.path, "read"):
            table = self._dataset.take(places, columns=["hash", "names", "paths", *_FIGURES, "tokens", "vector"])
            keys = [key.hex() for key in table["hash"].to_pylist()]
            named = zip(table["names"].to_pylist(), table["paths"].to_pylist(), strict=True)
            paths = [dict(zip(*pair, strict=True)) for pair in named]
            figures = table.select(_FIGURES).to_pylist()
            tokens = table["tokens"].to_pylist()
            vectors = self._decoded(table["vector"])
        return [
            (
                Row(
                    name=name,
                    hash=keys[i],
                    path=paths[i][name],
                    fingerprint=self.header.fingerprint,
                    vector=vectors[i],
                    **figures[i],
                ),
                tokens[i],
            )
            for i, name in enumerate(names)
        ]

    def _vectors(self) -> Iterator[tuple[list[str], Floats]]:
        with _translated(self.path, "read"):
            for batch in self._dataset.to_batches(columns=["names", "vector"], batch_size=8192):
                names = [min(names, default="") for names in batch["names"].to_pylist()]
                vectors = self._decoded(batch["vector"])
                named = np.array([name != "" for name in names], dtype=bool)
                yield [name for name in names if name], vectors if named.all() else vectors[named]

    def _version(self) -> object:
        return self._dataset.version

    def _codes(self) -> Iterator[tuple[Places, Bytes]]:
        first = 0
        with _translated(self.path, "read"):
            for batch in self._dataset.to_batches(columns=["names", "vector"], batch_size=8192):
                named = np.flatnonzero(batch["names"].value_lengths().to_numpy(zero_copy_only=False))
                yield named + first, _fixed(batch["vector"])[named]
                first += len(batch)

    def _vectors_at(self, places: Places) -> Floats:
        with _translated(self.path, "read"):
            return self._decoded(self._dataset.take(places, columns=["vector"])["vector"])

    def _names_at(self, places: Places) -> list[str]:
        with _translated(self.path, "read"):
            return [min(names) for names in self._dataset.take(places, columns=["names"])["names"].to_pylist()]

    def _decoded(self, column: Any) -> Floats:
        return self.header.decoded_vectors(_fixed(column))

    # The index: what add() and find() need of all rows, read once and then kept up.

    def _index(self) -> dict[str, _Entry]:
        if self._entries is None:
            with _translated(self.path, "read"):
                table = self._dataset.to_table(columns=["hash", "names", "paths"])
                columns = (table[name].to_pylist() for name in ("hash", "names", "paths"))
            self._entries, self._owners = {}, {}
            rows = ((key.hex(), dict(zip(*pair, strict=True))) for key, *pair in zip(*columns, strict=True))
            self._remember(rows, first=0)
        return self._entries

    def _remember(self, rows: Iterable[tuple[str, dict[str, str]]], first: int) -> None:
        entries = self._index()
        for offset, (key, names) in enumerate(rows, start=first):
            entries[key] = _Entry(offset, names)
            self._owners.update(dict.fromkeys(names, key))
        self._sorted = None

    def _forget(self) -> None:
        self._dataset = lance.dataset(_uri(self.path))
        self._entries = None
        self._sorted = None

    def _refresh(self) -> None:
        """Take in what others have committed."""
        with _translated(self.path, "read"):
            if self._dataset.latest_version != self._dataset.version:
                self._forget()

    # From rows to tables.

    def _check_row(self, row: Row) -> None:
        if row.tokens is None and row.vector is None:
            return
        self.check(row.fingerprint, "the model that wrote these rows")
        shapes = tuple(None if part is None else part.shape for part in (row.tokens, row.vector))
        wanted = ((self.header.num_tokens, self.header.width), (self.header.width,))
        if row.tokens is None or row.vector is None or shapes != wanted:
            raise StoreError(f"Rows of {self.path} hold tokens and a vector of shapes {wanted}, not {shapes}.")
        if not (np.isfinite(row.tokens).all() and np.isfinite(row.vector).all()):
            raise StoreError(f"The model gave no finite numbers for {row.name}: try --dtype float32.")

    def _changes(self, rows: Sequence[Row]) -> tuple[list[_New], dict[str, dict[str, str]]]:
        """What rows bring: the new ones with their names, and the new names of those that are there."""
        index, owners = self._index(), self._owners
        moved: dict[str, str] = {}
        names: dict[str, dict[str, str]] = {}  # of every row that these touch
        new: dict[str, Row] = {}
        for row in rows:
            owner = moved.get(row.name, owners.get(row.name))
            for key in (owner or row.hash, row.hash):
                names.setdefault(key, dict(index[key].names) if key in index else {})
            if owner is not None:
                names[owner].pop(row.name, None)
            if row.hash not in index and new.setdefault(row.hash, row).tokens is None:
                raise StoreError(f"{row.name} comes without tokens, and {self.path} has none for its content yet.")
            names[row.hash][row.name] = row.path
            moved[row.name] = row.hash
        renamed = {key: now for key, now in names.items() if key in index and now != index[key].names}
        return [(row, names[key]) for key, row in new.items() if names[key]], renamed

    def _table(self, new: list[_New]) -> pa.Table:
        tokens = np.zeros((len(new), self.header.num_tokens, self.header.width), dtype=np.float32)
        vectors = np.zeros((len(new), self.header.width), dtype=np.float32)
        for place, (row, _) in enumerate(new):
            tokens[place], vectors[place] = row.tokens, row.vector
        columns = {
            "hash": [bytes.fromhex(row.hash) for row, _ in new],
            "names": [list(names) for _, names in new],
            "paths": [list(names.values()) for _, names in new],
            "file_bytes": [row.file_bytes for row, _ in new],
            "width": [row.width for row, _ in new],
            "height": [row.height for row, _ in new],
            "tokens": [codes.tobytes() for codes in self.header.quantiser.encode(tokens)],
            "vector": [codes.tobytes() for codes in self.header.vector_quantiser.encode(vectors)],
            "time": [int(time.time())] * len(new),
        }
        return pa.table(columns, schema=_schema(self.header))

    def _renamed(self, renamed: dict[str, dict[str, str]]) -> pa.Table:
        """Rows that are there, whole, under their new names."""
        table = self._dataset.take([self._index()[key].offset for key in renamed])
        for column, values in (
            ("names", [list(names) for names in renamed.values()]),
            ("paths", [list(names.values()) for names in renamed.values()]),
        ):
            field = table.schema.field(column)
            table = table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))
        return table


def _schema(header: Header) -> pa.Schema:
    size = header.num_tokens * header.quantiser.token_bytes(header.width)
    fields: list[tuple[str, pa.DataType]] = [
        ("hash", pa.binary(32)),
        ("names", pa.list_(pa.string())),
        ("paths", pa.list_(pa.string())),  # as many as names: where each was when it was compressed
        ("file_bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("tokens", pa.binary(size)),  # token by token, as the quantiser writes one
        ("vector", pa.binary(header.vector_quantiser.token_bytes(header.width))),
        ("time", pa.int64()),  # seconds since 1970
    ]
    return pa.schema(fields, metadata={HEADER_KEY: header.to_json().encode()})


def _offsets(lists: Any) -> NDArray[np.int64]:
    """Where each list of a column in one piece begins, and the last ends; [0] of an empty column."""
    return np.concatenate([chunk.offsets.to_numpy() for chunk in lists.chunks] or [np.zeros(1)]).astype(np.int64)


def _uri(path: Path) -> str:
    """Lance takes "a:b" for an address, unless it begins with a slash."""
    return str(path.absolute())


def _fixed(column: Any) -> Bytes:
    """(n, bytes) of a column of as many bytes a row."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    size = column.type.byte_width
    content = np.frombuffer(column.buffers()[1] or b"", dtype=np.uint8)
    return content[column.offset * size : (column.offset + len(column)) * size].reshape(-1, size)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """The right to write, held until this block or this process ends. Raises StoreError where another has it."""
    with _translated(path, "written"):
        lock = (path / LOCK).open("a+")
    with lock:
        with _translated(path, "written"):
            _take(lock, path)
        yield


def _take(lock: TextIO, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise StoreError(
            f"{path} is being written by process {lock.read().strip() or '?'}: wait for it to end, then run again "
            "(only what is missing will be compressed)."
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()


@contextmanager
def _translated(path: Path, doing: str) -> Iterator[None]:
    """Errors of Lance and of the system as StoreError. A panic of Lance's is no Exception, hence the wide net."""
    try:
        yield
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"
        if isinstance(error, Fwd2BotError) or not (panic or isinstance(error, _LANCE_ERRORS)):
            raise
        raise StoreError(_sentence(path, doing, error)) from error


_LANCE_ERRORS = (OSError, ValueError, RuntimeError, KeyError, pa.ArrowException)


def _sentence(path: Path, doing: str, error: BaseException) -> str:
    reason = " ".join(str(error).split())[:160]
    if isinstance(error, PermissionError) or "ermission denied" in reason:
        return f"{path} may not be {doing}: permission denied."
    if "No space left" in reason:
        return f"{path} cannot be {doing}: the disk is full; what was committed before is safe."
    if doing == "written":
        return f"{path} cannot be written ({reason}); what was committed before is safe."
    return f"{path} is damaged: restore it from a copy, or compress the images anew into another store ({reason})."
