"""The processes of one run, as torchrun starts them: which one this is, its part of a batch, what they tell each other.

Several processes take the very steps of one: a batch is split between them, every loss is a mean over the whole batch,
and gradients are means over the processes. Alone, every function here is the identity.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fwd2bot.errors import Fwd2BotError, InputError
from fwd2bot.training.config import TrainConfig

if TYPE_CHECKING:  # torch takes a second to import these; few runs need them
    from torch.distributed.fsdp import FSDPModule

Row = TypeVar("Row")


def start() -> None:
    """Join the other processes of the run, where torchrun has started them: NCCL between GPUs, gloo without."""
    if started() and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(device())
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def started() -> bool:
    """Whether torchrun has started this process, alone or with others."""
    return "RANK" in os.environ


def count() -> int:
    """How many processes there are. From the environment, so that workers that prepare batches know it, too."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which one this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def leads() -> bool:
    """Whether this is the one that writes files and tells how far the run is."""
    return rank() == 0


def device() -> torch.device:
    """This process's own GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it has instructions that products in bfloat16 use; a processor without takes 50 to 100 times as long."""
    if device.type != "cpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def tell(words: str) -> None:
    """To the user, once for all processes."""
    if leads():
        print(words, file=sys.stderr, flush=True)


def wait() -> None:
    """Until every process is here."""
    if count() > 1:
        dist.barrier()


def stop(error: Fwd2BotError) -> NoReturn:
    """Raise what every process knows. Of several the first says it, and none goes before: torchrun then ends all."""
    if count() == 1:
        raise error
    tell(f"fwd2bot: {error}")
    wait()
    raise SystemExit(error.exit_code)


def agree(number: int, what: str) -> None:
    """Raises Fwd2BotError, in every process, where not all have found the same number."""
    if count() == 1:
        return
    found = torch.tensor([number, -number], device=device())
    dist.all_reduce(found, dist.ReduceOp.MAX)
    most, least = int(found[0]), -int(found[1])
    if most != least:
        stop(
            Fwd2BotError(
                f"The processes have found different {what}: {least} to {most}. `out` must be a folder that all of "
                "them share."
            )
        )


@contextmanager
def together() -> Iterator[None]:
    """Raises Fwd2BotError in place of what torch says when another process of the run is gone."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)
        if count() == 1 or not lost:
            raise
        raise Fwd2BotError(
            f"Process {rank()} of {count()} has lost another one, whose own words are above or below; put right what "
            "stopped it and start the same command: the run goes on from its last checkpoint."
        ) from error


def check(config: TrainConfig) -> None:
    """Raises InputError where a batch cannot be split evenly, or the model is to be spread over no processes."""
    if config.batch_size % count():
        raise InputError(
            f"batch_size is {config.batch_size}; it must be a multiple of the {count()} processes that share it."
        )
    if config.sharded and not started():
        raise InputError(
            "sharded is true, which spreads the model over processes: start them with torchrun "
            "(torchrun --nproc-per-node 8 -m fwd2bot train ...), or set sharded: false."
        )


def part(rows: Sequence[Row]) -> Sequence[Row]:
    """This process's rows of a batch: an even stretch, so that all stretches together are the batch."""
    size = len(rows) // count()
    return rows[rank() * size : (rank() + 1) * size]


def share(counted: Tensor) -> float:
    """What a mean over `counted` (a number or a sum of weights) of this process is multiplied by.

    The mean over processes is then the mean over all that they counted.
    """
    if count() == 1:
        return 1.0
    total = counted.detach().double()
    dist.all_reduce(total)
    return float(counted) * count() / float(total) if total else 0.0


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes in the order of the batch: (B / processes, D) -> (B, D).

    For a loss that every process takes on all rows. Each passes gradients to its own rows alone, times the number of
    processes: their mean is then the gradient of that one loss.
    """
    if count() == 1:
        return rows
    everyone = [torch.empty_like(rows) for _ in range(count())]
    dist.all_gather(everyone, rows.detach().contiguous())
    everyone[rank()] = rows.detach() + count() * (rows - rows.detach())
    return torch.cat(everyone)


def means(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Means over the processes, by name; all of them have the same names."""
    stacked = torch.stack([value.detach().double() for value in values.values()])
    if count() > 1:
        dist.all_reduce(stacked)
    return dict(zip(values, (stacked / count()).tolist(), strict=True))


def shard(module: nn.Module, layers: Sequence[nn.Module], *, autocast: bool) -> "FSDPModule":
    """Spread weights, gradients and optimizer state over the processes (FSDP2); `layers` are gathered one at a time.

    With autocast, weights travel and products are taken in bfloat16, gradients are summed in float32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device().type, (count(),))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if autocast else MixedPrecisionPolicy()
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    return fully_shard(module, mesh=mesh, mp_policy=policy)


def full(tensor: Tensor) -> Tensor:
    """The whole of what may be spread over processes; every process calls it."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def gathered_outside(module: nn.Module) -> Iterator[None]:
    """Within the block, parts of a sharded module can be called without the module itself."""
    if not hasattr(module, "unshard"):
        yield
        return
    sharded = cast("FSDPModule", module)
    sharded.unshard()
    yield
    sharded.reshard()


def replicate(module: nn.Module, *, varied: bool) -> nn.Module:
    """The module with gradients that are means over the processes (DDP).

    varied: in some steps the losses depend on a part of what is trained only.
    """
    if count() == 1:
        return module
    own = [device().index] if device().type == "cuda" else None
    return nn.parallel.DistributedDataParallel(
        module, device_ids=own, forward_sync_buffers=False, find_unused_parameters=varied
    )
