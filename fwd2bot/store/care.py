"""Looking after a store: which of its bytes and rows are not as they were written, and making it whole again.

Files are held against their guards, and every row against its checks. What a guard can give back is given back; rows
that are still hurt after that are dropped, and all others kept.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fwd2bot.errors import StoreError
from fwd2bot.store import check, guards
from fwd2bot.store.disk import LOCK, lock, translated
from fwd2bot.store.lance import check_place, open_store
from fwd2bot.store.parity import Guard
from fwd2bot.store.swap import beside, free_name, real_folder, replace_folder

BLOCK = 1024  # rows that are read at once


@dataclass(frozen=True, kw_only=True)
class DamagedFile:
    """A file of the store that is not as it was written; whether its guard gives it back."""

    file: str
    restorable: bool


@dataclass(frozen=True, kw_only=True)
class HurtImage:
    """An image whose row cannot be read as it was written; whether a repair gives it back."""

    image: str
    restorable: bool


@dataclass(kw_only=True)
class Verified:
    """What is true of a store's files and rows; `unnamed` rows are hurt, and so are their names.

    older: the last commit is lost, and the rows are those before it. unguarded: files that could not be given back if
    they were damaged, since their guards are gone; the next writing command makes new ones.
    """

    store: str
    files: int = 0
    rows: int = 0
    unguarded: int = 0
    damaged: list[DamagedFile] = field(default_factory=list)
    images: list[HurtImage] = field(default_factory=list)
    unnamed: int = 0
    older: bool = False

    @property
    def whole(self) -> bool:
        return not (self.damaged or self.images or self.unnamed)


@dataclass(kw_only=True)
class Repaired:
    """What a repair did. `aside` is where the old state is, None where nothing was to be done."""

    store: str
    rows: int = 0
    restored: list[str] = field(default_factory=list)  # files
    gone: list[str] = field(default_factory=list)  # images
    unnamed: int = 0  # rows that are gone, too
    older: bool = False  # the last commit is lost: what it added is gone, what it deleted is there again
    aside: str | None = None


def verify(path: str | Path) -> Verified:
    """Reads every byte. Raises StoreError where there is no store, it is being written, or no version can be read."""
    path = Path(path)
    with _held(path):
        return _verify(path, _damage(path))


def repair(path: str | Path) -> Repaired:
    """Keeps all that is whole or can be given back. The old state is kept aside, until the user deletes it.

    Killed at any time, the store is as it was, or whole. Raises StoreError as `verify` does, or where the disk is full.
    """
    path = real_folder(Path(path))
    with lock(check_place(path)):
        damage = _damage(path)
        found = _verify(path, damage)
        report = Repaired(store=str(path), rows=found.rows, unnamed=found.unnamed, older=found.older)
        if found.whole:
            return report
        report.restored = [one.file for one in found.damaged if one.restorable]
        report.gone = [one.image for one in found.images if not one.restorable]
        new = beside(path, "repairing")
        with translated(path, "written"):
            shutil.rmtree(new, ignore_errors=True)
            _lay_out(path, new, damage, heal_data=True, link=_hard_link)
            _drop_hurt_rows(new, damage)
            store = open_store(new)
            store.tidy()
            if not _verify(new, _damage(new)).whole:
                raise StoreError(f"{path} cannot be repaired: restore it from a copy, or compress into a new store.")
            report.rows = len(store)
            with lock(new):  # nobody writes before it has its place
                aside = free_name(path, "damaged")
                replace_folder(new, path, aside)
        report.aside = str(aside)
    return report


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """No other writes meanwhile. Where nothing can be written, as in a copy on a disc, nobody else can, either."""
    check_place(path)
    with lock(path) if os.access(path / LOCK, os.W_OK) else nullcontext():
        yield


# Files.

_Damage = dict[str, tuple[Guard | None, list[int]]]  # file -> its guard and bad blocks; a guard itself has none


def _damage(path: Path) -> _Damage:
    found: _Damage = {}
    with translated(path, "read"):
        newest = guards.newest_manifest(path)
        for name, guard in guards.guards(path):
            if guard is None:
                file = name.removesuffix(guards.ENDING)
                gone = newest is None or file < newest or (file == newest and not _can_be_read(path))
                if file.endswith(".manifest") and gone:  # with what would give it back
                    found[f"_versions/{file}"] = (None, [])
                elif guards.unsure(path, name, guard):
                    found[f"_deletions/{file}"] = (None, [])
                else:
                    found[f"{guards.FOLDER}/{name}"] = (None, [])
                continue
            is_manifest = guard.path.startswith("_versions/")
            newer = is_manifest and (newest is None or Path(guard.path).name < newest)
            bad = guard.damaged(path) if (path / guard.path).exists() or newer or not is_manifest else []
            if bad:
                found[guard.path] = (guard, bad)
        if newest and not guards.guard_file(path, newest).exists() and not _can_be_read(path):
            found[f"_versions/{newest}"] = (None, [])  # a writer died before it wrote the guard, and the power went
    lost = [name for name in found if not (path / name).exists() and not name.startswith("_versions/")]
    if lost and f"_versions/{newest}" not in found and (used := _used(path)) is not None:
        for name in lost:
            if name not in used:  # a writer died when it had deleted the file, and not yet its guard
                del found[name]
    return found


def _can_be_read(path: Path) -> bool:
    return _used(path) is not None


def _used(path: Path) -> set[str] | None:
    """Data and deletion files of the newest version, below the store's folder; None where it cannot be read."""
    try:
        with translated(path, "read"):
            parts = lance.dataset(str(path.absolute())).get_fragments()
    except StoreError:
        return None
    return {f"data/{file.path}" for part in parts for file in part.data_files()} | {
        deleted for part in parts if (deleted := part.deletion_file()) is not None
    }


def _verify(path: Path, damage: _Damage) -> Verified:
    files = guards.guarded_files(path)
    bare = sum(1 for file in files if file not in damage and not guards.guard_file(path, file).exists())
    report = Verified(store=str(path), files=len(files), unguarded=bare)
    with translated(path, "read"), tempfile.TemporaryDirectory() as folder:
        as_it_is, best, restored = _views(path, damage, Path(folder))
        report.damaged = [DamagedFile(file=name, restorable=name in restored) for name in sorted(damage)]
        used = guards.newest_manifest(Path(best.uri)) or ""
        lost = [Path(name).name for name in damage if name.startswith("_versions/") and name not in restored]
        report.older = any(name < used for name in lost)
        hurt, report.rows = _hurt(as_it_is, damage)
        beyond = set(hurt if best is as_it_is else _hurt(best, damage)[0])
        named = _names(best, hurt, damage)
        report.unnamed = sum(1 for names in named.values() if names is None)
        report.images = sorted(
            (HurtImage(image=name, restorable=at not in beyond) for at, names in named.items() for name in names or []),
            key=lambda one: one.image,
        )
    return report


def _views(path: Path, damage: _Damage, folder: Path) -> tuple[Any, Any, set[str]]:
    """The data set as it is, with what finds its rows given back; with all given back; and which files that are."""
    if not damage and guards.newest_manifest(path) is not None:
        dataset = lance.dataset(str(path.absolute()))
        return dataset, dataset, set()
    now, healed = folder / "now", folder / "healed"
    restored = _lay_out(path, healed, damage, heal_data=True, link=_symbolic_link)
    _lay_out(path, now, damage, heal_data=False, link=_symbolic_link)
    try:
        return _newest(now), _newest(healed), restored
    except StoreError:
        raise StoreError(f"No version of {path} can be read: restore it from a copy, or compress anew.") from None


def _lay_out(path: Path, view: Path, damage: _Damage, *, heal_data: bool, link: Any) -> set[str]:
    """A folder with the store's files, the damaged ones as their guards give them back. Gives what was restored.

    A manifest that cannot be given back is left out, so that the version before it is the newest; a list of deleted
    rows, too, so that Lance does not see it: the rows of its data file are then lost.
    """
    for part in ("data", "_versions", "_deletions", guards.FOLDER):
        (view / part).mkdir(parents=True)
    restored = {name for name in damage if name.startswith(guards.FOLDER)}  # a guard is written again
    for part in ("data", "_versions", "_deletions", guards.FOLDER):
        for file in sorted((path / part).glob("*")):
            if f"{part}/{file.name}" not in damage and file.name != "latest_version_hint.json":
                link(file, view / part / file.name)
    for name, (guard, bad) in damage.items():
        if name in restored:
            continue
        if guard and (heal_data or not name.startswith("data/")) and guard.heal(path, bad, view / name):
            restored.add(name)
            continue
        guards.guard_file(view, name).unlink(missing_ok=True)
        if name.startswith("data/") and (path / name).exists():
            link(path / name, view / name)
    return restored


def _hard_link(file: Path, to: Path) -> None:
    try:
        os.link(file, to)
    except OSError:  # a file system without them
        shutil.copyfile(file, to)


def _symbolic_link(file: Path, to: Path) -> None:
    to.symlink_to(file.absolute())


def _newest(view: Path) -> Any:
    """The newest version that can be read. Raises StoreError where none can."""
    while (newest := guards.newest_manifest(view)) is not None:
        try:
            with translated(view, "read"):
                return lance.dataset(str(view.absolute()))
        except StoreError:
            (view / "_versions" / newest).unlink()
    raise StoreError(f"{view} has no version that can be read.")


# Rows.


def _hurt(dataset: Any, damage: _Damage) -> tuple[list[int], int]:
    """Positions of rows that are not as they were written; and how many of the others have a name."""
    hurt: list[int] = []
    named = 0
    for fragment, positions in _fragments(dataset):
        if not _can_be_opened(dataset, [file.path for file in fragment.data_files()], damage):
            hurt += positions
            continue
        for start in range(0, len(positions), BLOCK):
            for piece, table in _pieces(dataset, positions[start : start + BLOCK], check.columns_of(check.PARTS)):
                if table is None:
                    hurt += piece
                    continue
                whole = check.sound(table, check.PARTS)
                hurt += [piece[at] for at in np.flatnonzero(~whole)]
                named += int((whole & (np.asarray(pc.list_value_length(table["names"])) > 0)).sum())
    return hurt, named


def _fragments(dataset: Any) -> Iterator[tuple[Any, range]]:
    """Each with the positions of its rows."""
    first = 0
    for fragment in dataset.get_fragments():
        positions = range(first, first + fragment.count_rows())
        first = positions.stop
        yield fragment, positions


def _names(dataset: Any, positions: Iterable[int], damage: _Damage) -> dict[int, list[str] | None]:
    """The names of rows, None where they cannot be read."""
    named: dict[int, list[str] | None] = {}
    wanted = set(positions)
    for fragment, own in _fragments(dataset):
        here = [at for at in own if at in wanted]
        if not _can_be_opened(dataset, [file.path for file in fragment.data_files()], damage):
            named.update(dict.fromkeys(here))
            continue
        for piece, table in _pieces(dataset, here, check.columns_of(["check"])):
            known = [False] if table is None else check.sound(table, ["check"]).tolist()
            names = [None] if table is None else table["names"].to_pylist()
            named.update({at: row if fine else None for at, row, fine in zip(piece, names, known, strict=True)})
    return named


def _can_be_opened(dataset: Any, files: Iterable[str], damage: _Damage) -> bool:
    """Whether Lance may see these files: what tells it how to read them is as it was."""
    root = Path(dataset.uri)
    for file in files:
        guard = damage.get(f"data/{file}", (None,))[0]
        if guard is not None and not guard.can_be_read(root):
            return False
    return True


def _pieces(dataset: Any, positions: Sequence[int], columns: list[str]) -> Iterator[tuple[list[int], pa.Table | None]]:
    """Rows in the largest pieces that can be read; None for a row that cannot."""
    if not positions:
        return
    try:
        with translated(Path(dataset.uri), "read"):
            table = dataset.take(list(positions), columns=columns)
            for part in check.PARTS:
                if part in columns:
                    check.sound(table, [part])  # whatever cannot be summed cannot be read
        yield list(positions), table
    except StoreError:
        if len(positions) == 1:
            yield list(positions), None
            return
        half = len(positions) // 2
        yield from _pieces(dataset, positions[:half], columns)
        yield from _pieces(dataset, positions[half:], columns)


def _drop_hurt_rows(new: Path, damage: _Damage) -> None:
    """Rewrites the fragments that have such rows with all their others."""
    dataset = _newest(new)
    hurt = set(_hurt(dataset, damage)[0])
    away, kept = [], []
    for fragment, positions in _fragments(dataset):
        if hurt.isdisjoint(positions):
            continue
        away.append(fragment.fragment_id)
        fine = [at for at in positions if at not in hurt]
        kept += [table for _, table in _pieces(dataset, fine, dataset.schema.names) if table is not None]
    if not away:
        return
    operation = lance.LanceOperation.Delete(updated_fragments=[], deleted_fragment_ids=away, predicate="hurt")
    dataset = lance.LanceDataset.commit(str(new.absolute()), operation, read_version=dataset.version)
    if kept:
        lance.write_dataset(pa.concat_tables(kept), dataset, mode="append")
