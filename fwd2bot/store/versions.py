"""The versions of a store as Lance keeps them: the newest is opened, and found to be what its guards say."""

from pathlib import Path
from typing import Any

import lance

from fwd2bot.errors import StoreError
from fwd2bot.store import guards
from fwd2bot.store.disk import translated
from fwd2bot.store.rows import Header
from fwd2bot.store.tables import HEADER_KEY


def open_newest(path: Path, known: set[str]) -> Any:
    """The newest version. Raises StoreError where what says which rows it has, or how to read them, is damaged.

    Data files that are known were looked at before. A version that a writer makes meanwhile is opened instead.
    """
    for _ in range(20):
        newest = guards.newest_manifest(path)
        try:
            dataset = _open_once(path, known)
        except StoreError:
            if guards.newest_manifest(path) == newest:
                raise
        else:
            if guards.newest_manifest(path) == newest:
                return dataset
    return _open_once(path, known)


def _open_once(path: Path, known: set[str]) -> Any:
    guards.check_head(path)
    newest = guards.newest_manifest(path)  # before it is opened: a version that comes meanwhile is newer
    with translated(path, "read"):
        dataset = lance.dataset(address(path))
    if newest is None or manifest(dataset.version) > newest:
        raise StoreError(f"{path} is damaged (an old version came): run `fwd2bot repair {path}`.")
    files = {file.path for fragment in dataset.get_fragments() for file in fragment.data_files()}
    guards.check_form(path, sorted(files - known))
    return dataset


def to_change(path: Path) -> Any:
    """The newest version once more, for a commit: what other threads read through stays at its version meanwhile."""
    return lance.dataset(address(path))


def manifest(version: int) -> str:
    """The name of a version's file."""
    return f"{2**64 - 1 - version:020}.manifest"


def header_of(path: Path, dataset: Any) -> Header:
    text = (dataset.schema.metadata or {}).get(HEADER_KEY)
    if text is None:
        raise StoreError(f"{path} is a Lance data set that fwd2bot did not write: give another folder.")
    return Header.from_json(text.decode(), path)


def address(path: Path) -> str:
    """Lance takes "a:b" for an address, unless it begins with a slash."""
    return str(path.absolute())
