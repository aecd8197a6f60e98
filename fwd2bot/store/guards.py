"""The guards of a store's files, in its folder `care`: what is written beside every commit, and looked at on opening.

Data files get a guard that heals small damage; deletion files and the newest manifest, without which no row is found,
are kept twice. Lists of files of older versions and notes on transactions are never read again, and have none.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fwd2bot.disk import to_disk
from fwd2bot.errors import StoreError
from fwd2bot.store.layout import plain_ranges
from fwd2bot.store.parity import Guard

FOLDER = "care"
ENDING = ".guard"


def protect(root: Path) -> None:
    """Every file that is read has its guard afterwards, and both lie on the disk. Raises OSError."""
    have = set(_names(root, FOLDER))
    files = guarded_files(root)
    new = [path for path in files if Path(path).name + ENDING not in have]
    _keep(root, [path for path in new if not path.startswith("_versions/")])
    _keep(root, [path for path in new if path.startswith("_versions/")])  # what it lists is there
    newest = files[-1] if files else ""
    for name in have:  # of older manifests, each as long as all before it
        if name.endswith(".manifest" + ENDING) and name != Path(newest).name + ENDING:
            (root / FOLDER / name).unlink(missing_ok=True)


def _keep(root: Path, files: Sequence[str]) -> None:
    """The files are on the disk, then their guards."""
    for path in files:
        to_disk(root / path)
    for folder in {(root / path).parent for path in files}:
        to_disk(folder)
    for path in files:
        data = path.startswith("data/")
        write_guard(root, Guard.of(root, path, copy=not data, plain=plain_ranges(root / path) if data else ()))
    if files:
        to_disk(root / FOLDER)


def forget(root: Path) -> None:
    """Drops the guards of files that are no longer read, and what was cut off while it was written."""
    wanted = {Path(path).name + ENDING for path in guarded_files(root)}
    for name in _names(root, FOLDER):
        if name not in wanted:
            (root / FOLDER / name).unlink(missing_ok=True)


def guarded_files(root: Path) -> list[str]:
    """Data files, deletion files and, last, the newest manifest, below the store's folder."""
    data = [f"data/{name}" for name in _names(root, "data") if name.endswith(".lance")]
    deletions = [f"_deletions/{name}" for name in _names(root, "_deletions") if name.endswith((".arrow", ".bin"))]
    newest = newest_manifest(root)
    return [*data, *deletions, *([f"_versions/{newest}"] if newest else [])]


def newest_manifest(root: Path) -> str | None:
    """Manifests are named by 2^64 - 1 - version, in 20 digits."""
    return next((name for name in _names(root, "_versions") if name.endswith(".manifest")), None)


def _names(root: Path, part: str) -> list[str]:
    try:
        return sorted(os.listdir(root / part))  # noqa: PTH208 (of many thousands, names are enough)
    except FileNotFoundError:
        return []


def guards(root: Path) -> Iterator[tuple[str, Guard | None]]:
    """(name of the guard's file, the guard), None where the guard itself is damaged."""
    for path in sorted((root / FOLDER).glob("*" + ENDING)):
        yield path.name, read_guard(path)


def read_guard(path: Path, *, parity: bool = True) -> Guard | None:
    try:
        return Guard.read(path, parity=parity)
    except (ValueError, KeyError, TypeError, OSError):
        return None


def guard_file(root: Path, file: str) -> Path:
    """Where the guard of a file lies."""
    return root / FOLDER / (Path(file).name + ENDING)


def write_guard(root: Path, guard: Guard) -> None:
    (root / FOLDER).mkdir(exist_ok=True)
    path = guard_file(root, guard.path)
    half = path.with_suffix(".half")
    try:
        half.write_bytes(guard.to_bytes())
        to_disk(half)  # cut short, it would leave out a sound file
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def check_head(root: Path) -> None:
    """Raises StoreError where what says which rows there are is not as it was written: it is small, and read whole."""
    found = list(guards_of_head(root))  # before the manifests are listed: a writer may be at work
    newest = newest_manifest(root)
    for name, guard in found:
        lost = name.endswith(".manifest" + ENDING) and (newest is None or name < newest)
        if lost or unsure(root, name, guard) or (guard and guard.damaged(root) and (root / guard.path).exists()):
            raise StoreError(f"{root} is damaged ({name.removesuffix(ENDING)}): run `fwd2bot repair {root}`.")


def unsure(root: Path, name: str, guard: Guard | None) -> bool:
    """Whether a guard of this name, which cannot be read as a whole, leaves a deletion file that may not be sound.

    Lance must not see such a file: it may ask for more memory than there is. What finds damage may have been kept where
    the copy is hurt.
    """
    if guard is not None or not name.endswith((".arrow" + ENDING, ".bin" + ENDING)):
        return False
    sums = read_guard(root / FOLDER / name, parity=False)
    return sums is None or not sums.can_be_read(root)


def check_form(root: Path, names: Iterable[str]) -> None:
    """Raises StoreError where one of these data files could lead Lance astray; their rows have checks of their own."""
    for name in names:
        guard = read_guard(guard_file(root, name), parity=False)
        if guard is not None and not guard.can_be_read(root):
            raise StoreError(f"{root} is damaged (data/{name}): run `fwd2bot repair {root}`.")


def guards_of_head(root: Path) -> Iterator[tuple[str, Guard | None]]:
    for path in sorted((root / FOLDER).glob("*" + ENDING)):
        if not path.name.endswith(".lance" + ENDING):
            yield path.name, read_guard(path)
