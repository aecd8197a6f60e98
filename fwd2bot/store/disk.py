"""Who may write to a store's folder, and what the disk and Lance say when something fails, as one sentence."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import pyarrow as pa

from fwd2bot.errors import Fwd2BotError, StoreError

LOCK = "writer.lock"


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """The right to write, held until this block or this process ends. Raises StoreError where another has it."""
    with translated(path, "written"):
        held = (path / LOCK).open("a+")
    with held:
        with translated(path, "written"):
            _take(held, path)
        yield


def _take(lock: TextIO, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise StoreError(
            f"{path} is being written by process {lock.read().strip() or '?'}: wait for it to end, then run again."
        ) from None
    with suppress(OSError):  # the disk is full: the right is there without it, and tidying may make room
        os.ftruncate(lock.fileno(), 0)
        os.write(lock.fileno(), str(os.getpid()).encode())


@contextmanager
def translated(path: Path, doing: str) -> Iterator[None]:
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
    return f"{path} is damaged: run `fwd2bot repair {path}` ({reason})."
