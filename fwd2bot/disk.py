"""Files on the disk: there also when the power goes, and known by their content."""

import hashlib
import os
from pathlib import Path


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def gone(path: str) -> bool | None:
    """Whether a file is no longer there; None where it may not be looked at, and so may be there."""
    try:
        os.stat(path)  # noqa: PTH116 (any text)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return None
    return False


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
