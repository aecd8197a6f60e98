"""Checkpoints of a run whose weights and optimizer state are spread over processes (FSDP2): one file a process.

Safetensors that say where in the whole each part stands (torch's DCP), so another number of processes can go on from
them. Written to one side, forced to the disk and renamed; checksums stand beside them, and the one before is kept.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from fwd2bot.disk import file_hash, to_disk
from fwd2bot.errors import Fwd2BotError
from fwd2bot.training import distributed
from fwd2bot.training.checkpoints import DamagedError, make_newest, newest_whole, unwritable

LAST, PREVIOUS, NEW, TOLD = "last", "previous", "new", "told.json"


def save_shards(folder: Path, step: int, seconds: float, tensors: dict[str, Tensor]) -> None:
    """Make this the newest checkpoint; every process calls it. Raises Fwd2BotError where it cannot be written."""
    new, last = folder / NEW, folder / LAST
    if distributed.leads():
        shutil.rmtree(new, ignore_errors=True)
    distributed.wait()
    reason = None
    try:
        save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(new), save_distributed=True))
        sums = {path.name: file_hash(path) for path in sorted(new.glob(f"shard-{distributed.rank() + 1:05}-*"))}
    except Exception as error:  # torch wraps those of all processes into one that is no OSError
        reason, sums = " ".join(str(error).split())[:200], {}
    everyone = _told_to_all((reason, sums))
    if failed := [said for said, _ in everyone if said]:
        raise unwritable(last, failed[0])
    reason = None
    if distributed.leads():
        whole = {name: digest for _, part in everyone for name, digest in part.items()}
        try:
            (new / TOLD).write_text(json.dumps({"step": step, "seconds": seconds, "files": whole}))
            for path in new.iterdir():
                to_disk(path)
            make_newest(new, last, folder / PREVIOUS)
        except OSError as error:
            reason = error.strerror or str(error)
    if failed := [said for said in _told_to_all(reason) if said]:
        raise unwritable(last, failed[0])


def load_shards(folder: Path, tensors: dict[str, Tensor]) -> tuple[int, float] | None:
    """Fill the tensors in place from the newest whole checkpoint; gives its step and seconds. None: there is none.

    Every process calls it. Taken out of `tensors` is the optimizer's state that the checkpoint lacks, of weights that
    had no gradient yet. Raises Fwd2BotError where all are damaged, or they are another model's.
    """
    path = newest_whole(folder, (folder / LAST, folder / PREVIOUS), _whole)
    if path is None:
        return None
    reader = HuggingFaceStorageReader(str(path))
    kept = reader.read_metadata().state_dict_metadata
    shapes = {name: getattr(one, "size", None) for name, one in kept.items()}
    for name in [name for name in tensors if name.startswith("optimizer.") and name not in shapes]:
        del tensors[name]
    if shapes != {name: tensor.shape for name, tensor in tensors.items()}:
        raise Fwd2BotError(f"The checkpoint in {folder} is of another model; remove it or take another `out`.")
    load(tensors, storage_reader=reader)
    told = json.loads((path / TOLD).read_text("utf-8"))
    return int(told["step"]), float(told["seconds"])


def _whole(path: Path) -> Path:
    """The path of a checkpoint. Raises DamagedError, in every process, where one of them finds its share changed."""
    if damaged := [said for said in _told_to_all(_damage(path)) if said]:
        raise DamagedError(damaged[0])
    return path


def _damage(path: Path) -> str | None:
    """What is wrong with this process's share of the files, if anything is."""
    try:
        files: dict[str, str] = json.loads((path / TOLD).read_text("utf-8"))["files"]
        for name in sorted(files)[distributed.rank() :: distributed.count()]:
            if file_hash(path / name) != files[name]:
                return f"{name} has changed since it was written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return str(error)
    return None


def _told_to_all(said: Any) -> list[Any]:
    """What each process says, by rank."""
    everyone: list[Any] = [said] * distributed.count()
    if distributed.count() > 1:
        dist.all_gather_object(everyone, said)
    return everyone
