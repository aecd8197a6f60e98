"""Two folders change places in one step, so that whoever opens a store finds the old one or the new one."""

import ctypes
import sys
from pathlib import Path

_AT_FDCWD = -100
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS


def replace_folder(new: Path, old: Path, aside: Path) -> None:
    """`new` is at `old` afterwards, and what was there at `aside`. Raises OSError where a file system refuses.

    Killed in between, `aside` is the new one: nothing that a later command writes anew, or takes for half made.
    """
    new.rename(aside)
    if not _exchange(aside, old):  # a file system that cannot: for a moment there is nothing at `old`
        aside.rename(new)
        old.rename(aside)
        new.rename(old)


def real_folder(path: Path) -> Path:
    """The folder that a link leads to, and a name for `.`: what can have a neighbour and be replaced."""
    return path.resolve() if path.is_symlink() or path.name in ("", "..") else path


def beside(path: Path, ending: str) -> Path:
    """album.store -> album.store.ending"""
    return path.with_name(f"{path.name}.{ending}")


def free_name(path: Path, ending: str) -> Path:
    """album.store -> album.store.ending, or .ending-2 where that is taken."""
    number, free = 1, beside(path, ending)
    while free.exists():
        number += 1
        free = beside(path, f"{ending}-{number}")
    return free


def _exchange(first: Path, second: Path) -> bool:
    library = ctypes.CDLL(None, use_errno=True)
    names = [str(path.absolute()).encode() for path in (first, second)]
    try:
        if sys.platform == "darwin":
            return int(library.renamex_np(*names, _EXCHANGE)) == 0
        return int(library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE)) == 0
    except AttributeError:  # a C library without it
        return False
