"""Checkpoints of a run: one safetensors file with a checksum, written to one side, forced to the disk and renamed.

The one before is kept. Killed at any moment, or with the newest damaged, a run goes on from a whole one.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fwd2bot.disk import to_disk
from fwd2bot.errors import Fwd2BotError
from fwd2bot.training.distributed import tell

Found = TypeVar("Found")
LAST, PREVIOUS, NEW = "last.safetensors", "previous.safetensors", "new.safetensors"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come: steps, seconds of training, and every tensor that it goes on with."""

    step: int
    seconds: float
    tensors: dict[str, Tensor]


def save_progress(folder: Path, progress: Progress) -> None:
    """Make this the newest checkpoint. Raises Fwd2BotError where it cannot be written; the older ones are then kept."""
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in progress.tensors.items()}
    told = {"step": str(progress.step), "seconds": str(progress.seconds), "checksum": checksum(tensors)}
    new, last = folder / NEW, folder / LAST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, new, metadata=told)
        to_disk(new)
        make_newest(new, last, folder / PREVIOUS)
    except (OSError, SafetensorError) as error:
        raise unwritable(last, getattr(error, "strerror", None) or error) from error


def load_progress(folder: Path) -> Progress | None:
    """The newest whole checkpoint; None where there is none. Of a damaged one it tells, and takes the one before.

    Raises Fwd2BotError where there are checkpoints, and all are damaged.
    """
    return newest_whole(folder, (folder / LAST, folder / PREVIOUS), _read)


class DamagedError(Exception):
    """A checkpoint is not as it was written; says how."""


def newest_whole(folder: Path, paths: Sequence[Path], read: Callable[[Path], Found]) -> Found | None:
    """What `read` makes of the first path for which it raises no DamagedError; None: there is none.

    Tells of the damage; raises Fwd2BotError where all are damaged.
    """
    reasons: list[str] = []
    for path in filter(Path.exists, paths):
        try:
            found = read(path)
        except DamagedError as error:
            reasons.append(f"{path} is damaged ({' '.join(str(error).split())[:100]})")
            continue
        if reasons:
            tell(f"fwd2bot: {reasons[0]}; going on from the checkpoint before it.")
        return found
    if not reasons:
        return None
    raise Fwd2BotError(f"The checkpoint {' and '.join(reasons)}; remove {folder} to start anew.")


def make_newest(new: Path, last: Path, previous: Path) -> None:
    """Rename what was written to one side (a file or a folder), and keep the last one as the one before."""
    if previous.is_dir():
        shutil.rmtree(previous)
    if last.exists():
        last.replace(previous)
    new.replace(last)
    to_disk(last.parent)


def unwritable(path: Path, reason: object) -> Fwd2BotError:
    """What is said where a checkpoint cannot be written."""
    return Fwd2BotError(f"The checkpoint {path} cannot be written ({reason}); make room and run again.")


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and contents."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _read(path: Path) -> Progress:
    try:
        with safe_open(path, "pt") as file:
            told: dict[str, str] = file.metadata() or {}
            names: list[str] = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
        if "checksum" in told and told["checksum"] != checksum(tensors):
            raise DamagedError("its content has changed since it was written")
        return Progress(step=int(told["step"]), seconds=float(told["seconds"]), tensors=tensors)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DamagedError(str(error)) from error
