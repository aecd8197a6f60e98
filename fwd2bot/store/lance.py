"""The store as a Lance data set: what writes and reads its rows.

One process writes at a time, behind a lock that the system releases when the process dies, however it dies. Others
read meanwhile: a commit is a new version of the data set, and appears whole or not at all.
"""

import datetime
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any

import lance
import lance.fragment
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fwd2bot.errors import InputError, StoreError, check_many, no_numbers
from fwd2bot.store import check, guards
from fwd2bot.store.base import Places, Store
from fwd2bot.store.columns import fixed
from fwd2bot.store.disk import LOCK, lock, translated
from fwd2bot.store.filters import EVERYTHING, FIGURES, Figures, Filter
from fwd2bot.store.names import Known, Names, path_of
from fwd2bot.store.quantise import Bytes
from fwd2bot.store.rows import Floats, Header, Row, StoreInfo
from fwd2bot.store.tables import New, schema, table_of, under_names
from fwd2bot.store.versions import address, header_of, manifest, open_newest, to_change

WHO_AND_VECTOR = ("check", "vector_check")
_OWN_PARTS = {LOCK, "_versions", "_transactions", "_deletions", "_indices", "data", guards.FOLDER}
_OF_HEADER = ["model", "source", "fingerprint", "num_tokens", "width", "quantisation", "vector_quantisation"]
_OF_HEADER += ["bytes_per_row", "format"]
FILE_BYTES = 64 * 2**20
"""Of rows in a large file."""
SMALL_FILES = 64
"""More than so many become large ones when a store is tidied; a reader of before must then open the store again."""
COMMITS = 256
"""After so many a store tidies itself."""
RENAMED_BYTES = 256 * 2**20
"""Of rows that one commit writes again, under other names."""
DELETED = 2**16
"""Rows that one commit deletes."""


def is_new(path: Path) -> bool:
    """Whether a store may be created there: nothing is there, or what a creation that was cut off left behind.

    That has neither rows nor guards. Raises StoreError where the folder may not be read.
    """
    with translated(path, "read"):
        if not path.exists():
            return True
        if not path.is_dir():
            return False
        parts = {part.name for part in path.iterdir()}
        kept = ("_versions/*.manifest", "data/*", f"{guards.FOLDER}/*")
        begun = LOCK in parts and parts <= _OWN_PARTS
        return not parts or (begun and not any(any(path.glob(pattern)) for pattern in kept))


def open_store(path: Path) -> "LanceStore":
    """Raises StoreError where there is no store, or it cannot be read."""
    with translated(check_place(path), "read"):
        dataset = open_newest(path, known=set())
        return LanceStore(path, header_of(path, dataset), dataset)


def check_place(path: Path) -> Path:
    """The path. Raises StoreError where it is no folder of a store."""
    with translated(path, "read"):
        if not path.exists() or (is_new(path) and not (path / LOCK).exists()):
            raise StoreError(f"There is no store at {path}: make one with `fwd2bot compress PHOTOS --store {path}`.")
        if is_new(path):
            raise StoreError(f"{path} was begun and never finished: run the same `fwd2bot compress` again.")
        if not path.is_dir():
            raise StoreError(f"{path} is a file, not a store: give the folder of a store, or a new one.")
        if not (path / LOCK).exists() and not (path / "_versions").is_dir():
            raise StoreError(f"{path} is a folder but not a store: give the folder of a store, or a new one.")
    return path


def create_store(path: Path, header: Header) -> "LanceStore":
    """Raises StoreError where the folder holds anything but a creation that was cut off."""
    with translated(path, "written"):
        if is_new(path):
            path.mkdir(parents=True, exist_ok=True)
        elif not (path / LOCK).exists():
            raise StoreError(f"{path} is not a store, and not empty: give the store a folder of its own.")
        with lock(path):
            if not is_new(path):
                raise StoreError(f"{path} holds a store already: open it, or give another folder.")
            dataset = lance.write_dataset(schema(header).empty_table(), address(path), mode="create")
            guards.protect(path)
    return LanceStore(path, header, dataset)


class LanceStore(Store):
    """See Store."""

    def __init__(self, path: Path, header: Header, dataset: Any) -> None:
        super().__init__(path, header)
        self._dataset = dataset
        self._folder = path.stat().st_ino
        self._depth = 0
        self._commits = 0
        self._known: tuple[object, Known] | None = None  # of which version
        self._one_reads = RLock()  # threads that read files ask what is known, too
        self._one_writes = RLock()  # the lock on disk is the object's, whichever thread writes

    def __len__(self) -> int:
        return self._lookup().rows

    def _lookup(self) -> Names:
        with self._one_reads:
            if self._index().grown:
                self._known = None
            return self._index().names

    def listing(self, wanted: Filter = EVERYTHING) -> Iterator[Row]:
        with self._reading():
            table = self._who_table()
        found = Names(table)
        figures = _figures(table)
        for names, paths, places in _passing(figures, found, wanted):
            values = zip(*(column[places].tolist() for column in figures.values()), strict=True)
            for name, path, place, row in zip(names, paths, places.tolist(), values, strict=True):
                yield Row(name=name, path=path, hash=found.hash(place), **dict(zip(figures, row, strict=True)))

    def owner(self, name: str) -> tuple[str, str] | None:
        return self._index().owner(name)

    def has(self, key: str) -> bool:
        return self._index().place_of(key) is not None

    def names_of(self, key: str) -> dict[str, str]:
        entry = self._index().entry(key)
        return {} if entry is None else dict(entry.names)

    def info(self) -> StoreInfo:
        with self._reading():
            rows = names = image_bytes = 0
            for batch in self._who():
                counts = np.asarray(pc.list_value_length(batch["names"]))
                rows, names = rows + int((counts > 0).sum()), names + int(counts.sum())
                image_bytes += int(batch["file_bytes"].to_numpy()[counts > 0].sum())
            return StoreInfo(
                path=str(self.path),
                rows=rows,
                names=names,
                disk_bytes=sum(part.stat().st_size for part in self.path.rglob("*") if part.is_file()),
                image_bytes=image_bytes,
                **{name: getattr(self.header, name) for name in _OF_HEADER},
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        if self._depth:  # this object has the right already
            yield
            return
        with lock(self.path):
            self._refresh()
            with suppress(OSError):  # a full disk; the next commit tries again
                guards.protect(self.path)  # what a writer that died committed without coming to it
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def add(self, rows: Iterable[Row]) -> None:
        rows = list(rows)
        for row in rows:
            self._check_row(row)
        with self._one_writes, self.writing(), translated(self.path, "written"):
            self._refresh()  # an interrupt may have come between a commit and its being noted here
            new, renamed = self._changes(rows)
            if renamed:
                table = pa.concat_tables([table_of(self.header, new), self._renamed(renamed)])
                merge = to_change(self.path).merge_insert("hash")
                merge.when_matched_update_all().when_not_matched_insert_all().execute(table)
                self._forget()
            elif new:
                known, first = self._index(), int(self._dataset.count_rows())
                dataset = lance.write_dataset(table_of(self.header, new), self._dataset, mode="append")
                with self._one_reads:  # a thread that asks in between would read all names again
                    self._dataset = dataset
                    known.add(((row.hash, names) for row, names in new), first)
                    self._known = None if known.full else (self._version(), known)
            guards.protect(self.path)
            self._commits += 1
            if self._commits % COMMITS == 0:
                self.tidy()

    def remove(self, names: Iterable[str]) -> None:
        check_many(names, "images")
        names = list(names)
        if not names:
            return
        with self._one_writes, self.writing(), translated(self.path, "written"):
            self._refresh()
            left: dict[str, dict[str, str]] = {}
            for name in dict.fromkeys(names):
                owner = self.owner(name)
                if owner is None:
                    raise InputError(self.unknown(name))
                if owner[0] not in left:
                    left[owner[0]] = self.names_of(owner[0])
                left[owner[0]].pop(name)
            self._rename({key: names for key, names in left.items() if names})
            self._delete([key for key, names in left.items() if not names])
            self._forget()

    def _rename(self, renamed: dict[str, dict[str, str]]) -> None:
        """In commits of as many rows as memory is for; they are read from the version at hand."""
        keys, rows = list(renamed), max(1, RENAMED_BYTES // self.header.bytes_per_row)
        for first in range(0, len(keys), rows):
            table = self._renamed({key: renamed[key] for key in keys[first : first + rows]})
            to_change(self.path).merge_insert("hash").when_matched_update_all().execute(table)
            guards.protect(self.path)

    def _delete(self, keys: list[str]) -> None:
        """Rows by their hashes, unread, in commits; in the order of their places, so that each touches few files."""
        keys.sort(key=self._index().place)
        for first in range(0, len(keys), DELETED):
            some = keys[first : first + DELETED]
            listed = ", ".join(f"X'{key}'" for key in some)
            found = to_change(self.path).delete(f"hash IN ({listed})")["num_deleted_rows"]
            guards.protect(self.path)
            if found != len(some):
                raise self._lacks_rows()

    def tidy(self, *, erase: bool = False) -> None:
        with self._one_writes, self.writing(), translated(self.path, "written"):
            self._refresh()
            if not self._lookup().named.all():
                to_change(self.path).delete("array_length(names) = 0")
                self._forget()
            if erase:
                self._rewrite_without_deleted()
            self._compact()
            # Lists of files of older versions, and files of writers that died: no other can be at work.
            self._dataset.cleanup_old_versions(older_than=datetime.timedelta(0), delete_unverified=True)
            guards.protect(self.path)
            guards.forget(self.path)

    def _rewrite_without_deleted(self) -> None:
        groups = []
        for fragment in self._dataset.get_fragments():
            if fragment.num_deletions:
                parts = []
                if fragment.count_rows():
                    reader = fragment.scanner().to_reader()
                    parts = lance.fragment.write_fragments(reader, self._dataset, schema=reader.schema)
                groups.append(lance.LanceOperation.RewriteGroup([fragment.metadata], parts))
        if groups:
            rewrite = lance.LanceOperation.Rewrite(groups=groups, rewritten_indices=[])
            lance.LanceDataset.commit(address(self.path), rewrite, read_version=self._dataset.version)
            self._forget()

    def _compact(self) -> None:
        """Every commit makes a file; many small ones become few, with rows in their order."""
        rows = max(1, FILE_BYTES // self.header.bytes_per_row)
        small = [part for part in self._dataset.get_fragments() if part.count_rows() < rows]
        if len(small) > SMALL_FILES:
            to_change(self.path).optimize.compact_files(target_rows_per_fragment=rows)
            self._forget()

    def _read(self, names: Sequence[str]) -> list[tuple[Row, bytes]]:
        if not names:
            return []
        places = [self._lookup().place(name) for name in names]
        with self._reading():
            table = self._dataset.take(places, columns=check.columns_of(check.PARTS))
            columns = (table[column].to_pylist() for column in ("hash", "names", "paths"))
            found = [(key.hex(), dict(zip(*pair, strict=True))) for key, *pair in zip(*columns, strict=True)]
            for name, (_, paths), whole in zip(names, found, check.sound(table, check.PARTS), strict=True):
                if not whole or name not in paths:
                    raise StoreError(f"The row of {name} in {self.path} is damaged: run `fwd2bot repair {self.path}`.")
            figures = table.select(list(FIGURES)).to_pylist()
            tokens = table["tokens"].to_pylist()
            vectors = self.header.decoded_vectors(fixed(table["vector"]))
        whose = self.header.fingerprint
        return [
            (Row(name=name, hash=key, path=path_of(paths[name]), fingerprint=whose, vector=vector, **figure), content)
            for name, (key, paths), vector, figure, content in zip(names, found, vectors, figures, tokens, strict=True)
        ]

    def vectors(self) -> Iterator[tuple[list[str], Floats]]:
        with self._reading():
            for batch in self._dataset.to_batches(columns=check.columns_of(WHO_AND_VECTOR), batch_size=8192):
                for part in WHO_AND_VECTOR:
                    self._check(batch, part)
                names = [min(names, default="") for names in batch["names"].to_pylist()]
                vectors = self.header.decoded_vectors(fixed(batch["vector"]))
                named = np.array([name != "" for name in names], dtype=bool)
                yield [name for name in names if name], vectors if named.all() else vectors[named]

    def _version(self) -> object:
        return self._dataset.version

    def _codes(self) -> Iterator[tuple[Places, Bytes]]:
        first, named = 0, self._lookup().named
        with self._reading():
            for batch in self._dataset.to_batches(columns=check.columns_of(["vector_check"]), batch_size=8192):
                self._check(batch, "vector_check")
                chosen = np.flatnonzero(named[first : first + len(batch)])
                yield chosen + first, fixed(batch["vector"])[chosen]
                first += len(batch)

    def _vectors_at(self, places: Places) -> Floats:
        return self.header.decoded_vectors(fixed(self._taken(places, "vector_check")["vector"]))

    def _places_of(self, wanted: Filter) -> Places:
        with self._reading():
            table = self._who_table()
        found = [places for _, _, places in _passing(_figures(table), self._lookup(), wanted)]
        return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)

    def _names_at(self, places: Places, wanted: Filter) -> list[str]:
        table = self._taken(places, "check")
        first: dict[int, str] = {}
        for names, _, rows in _passing(_figures(table), Names(table), wanted):
            for name, row in zip(names, rows.tolist(), strict=True):
                first.setdefault(row, name)
        return [first[row] for row in range(len(places))]

    def _taken(self, places: Places, part: str) -> pa.Table:
        """A part of the rows at these places. Raises StoreError where one is damaged."""
        with self._reading():
            table = self._dataset.take(places, columns=check.columns_of([part]))
            self._check(table, part)
        return table

    def _index(self) -> Known:
        """Who is there: read once, and then kept up with what is added."""
        with self._one_reads:
            version = self._version()
            if self._known is None or self._known[0] != version:
                with self._reading():
                    self._known = (version, Known(Names(self._who_table())))
            return self._known[1]

    def _who(self) -> Iterator[pa.RecordBatch]:
        """Of every row what says who it is, some at a time. Raises StoreError where one is damaged."""
        rows = 0
        for batch in self._dataset.to_batches(columns=check.columns_of(["check"]), batch_size=2**15):
            self._check(batch, "check")
            rows += len(batch)
            yield batch
        if rows != self._dataset.count_rows():
            raise self._lacks_rows()

    def _who_table(self) -> pa.Table:
        """The same as a table in many chunks: all texts together may be more than an array of Arrow's can hold."""
        columns = self._dataset.schema.empty_table().select(check.columns_of(["check"]))
        return pa.Table.from_batches(self._who(), columns.schema)

    def _check(self, table: pa.Table | pa.RecordBatch, part: str) -> None:
        hurt = int((~check.sound(table, [part])).sum())
        if hurt:
            raise StoreError(f"{self.path} is damaged (rows: {hurt:,}): run `fwd2bot repair {self.path}`.")

    def _lacks_rows(self) -> StoreError:
        return StoreError(f"{self.path} is damaged (rows are missing): run `fwd2bot repair {self.path}`.")

    def _forget(self) -> None:
        """Go on with the newest version. Threads that read the one before are waited for: its files may go next."""
        known = {file.path for fragment in self._dataset.get_fragments() for file in fragment.data_files()}
        dataset = open_newest(self.path, known)
        if header_of(self.path, dataset) != self.header:
            raise StoreError(f"{self.path} was changed since it was opened: open it again.")
        with self._one_reads:
            self._dataset, self._known = dataset, None

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with translated(self.path, "read"):
                yield
        except StoreError as error:
            newest, folder = None, None
            with suppress(OSError):  # nothing is there now
                newest, folder = guards.newest_manifest(self.path), self.path.stat().st_ino
            if folder == self._folder and newest == manifest(self._dataset.version):
                raise
            raise StoreError(f"{self.path} was changed since it was opened: open it again.") from error

    def _refresh(self) -> None:
        """Take in what others have committed."""
        with self._reading():
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
            raise StoreError(no_numbers(row.name))

    def _changes(self, rows: Sequence[Row]) -> tuple[list[New], dict[str, dict[str, str]]]:
        """What rows bring: the new ones with their names, and the new names of those that are there."""
        there: dict[str, dict[str, str] | None] = {}  # names of the rows that these touch; None: no such row
        names: dict[str, dict[str, str]] = {}  # the same, as they will be
        moved: dict[str, str] = {}
        new: dict[str, Row] = {}
        for row in rows:
            owner = moved.get(row.name) or (self.owner(row.name) or (None,))[0]
            for key in (owner or row.hash, row.hash):
                if key not in names:
                    entry = self._index().entry(key)
                    there[key] = None if entry is None else entry.names
                    names[key] = dict(there[key] or {})
            if owner is not None:
                names[owner].pop(row.name, None)
            if there[row.hash] is None and new.setdefault(row.hash, row).tokens is None:
                raise StoreError(f"{row.name} comes without tokens, and {self.path} has none for its content yet.")
            names[row.hash][row.name] = row.path
            moved[row.name] = row.hash
        renamed = {key: now for key, now in names.items() if there[key] not in (None, now)}
        return [(row, names[key]) for key, row in new.items() if names[key]], renamed

    def _renamed(self, renamed: dict[str, dict[str, str]]) -> pa.Table:
        """Rows that are there, whole, under their new names."""
        table = self._dataset.take([self._index().place(key) for key in renamed])
        for part in check.PARTS:
            self._check(table, part)
        return under_names(table, list(renamed.values()))


def _figures(table: pa.Table) -> dict[str, NDArray[Any]]:
    return {name: table[name].to_numpy() for name in FIGURES}


def _passing(figures: Figures, names: Names, wanted: Filter) -> Iterator[tuple[list[str], list[str], Places]]:
    """Names that a filter lets through, in order, some at a time, with their paths and the places of their rows."""
    for some, paths, places in names.blocks():
        chosen = np.flatnonzero(wanted.passing(some, paths, {name: column[places] for name, column in figures.items()}))
        numbers = chosen.tolist()
        yield [some[at] for at in numbers], [paths[at] for at in numbers], places[chosen]
