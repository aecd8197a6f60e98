"""What a training would need, worked out without weights, data or network: memory, FLOPs, hours, bytes on disk.

`fwd2bot train CONFIG.yaml --plan` prints it. Every number is arithmetic on the configuration, the base's shapes
(`shapes.py`) and the work of a step (`workload.py`); what none of them says is an assumption, told with the plan.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from fwd2bot.errors import InputError
from fwd2bot.training.config import AHEAD, TrainConfig
from fwd2bot.training.costs import Flops
from fwd2bot.training.shapes import GPUS, Base, Gpu, read_base
from fwd2bot.training.workload import CAPTION_TOKENS, COMPOSITION, LABELLED, Load, Memory, Work

MFU = 0.35
"""Assumed share of the GPU's peak that the products reach, those that are computed again counted as well."""
TEXT_TOKENS = 300
"""Assumed of an average conversation about a picture, with its padding, where rows come from files."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A kind of step. flops: over all GPUs. seconds: by FLOPs, or by `weight_seconds`, what reading the weights takes,
    where that is longer."""

    load: Load
    flops: dict[str, Flops]
    seconds: float
    weight_seconds: float
    tokens: int

    @property
    def total(self) -> int:
        return sum(part.total for part in self.flops.values())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that `--plan` tells. most_rows: the most rows a GPU that fit, 0 where not even one does. host: the bytes
    outside the GPU that each process needs as it starts."""

    config: TrainConfig
    base: Base
    gpu: Gpu
    gpus: int
    mfu: float
    trained: dict[str, int]
    memory: Memory
    most_rows: int
    host: int
    steps: tuple[Step, ...]
    disk: dict[str, int]
    assumptions: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.gpu.memory

    @property
    def hours(self) -> float:
        return self._whole_run(lambda step: step.seconds) / 3600

    @property
    def images_a_second(self) -> float:
        return self._whole_run(lambda step: step.load.images) / (3600 * self.hours)

    def seen(self, what: str) -> int:
        """How many "conversations", "pairs" or "images" the whole run sees."""
        return round(self._whole_run(lambda step: getattr(step.load, what)))

    @property
    def flops(self) -> float:
        return self._whole_run(lambda step: step.total)

    @property
    def tokens(self) -> int:
        """Positions that the language model reads in the whole run, in both passes and the text branch."""
        return round(self._whole_run(lambda step: step.tokens))

    def _whole_run(self, of: Callable[[Step], float]) -> float:
        return self.config.steps * sum(step.load.share * of(step) for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`: bytes, FLOPs, seconds and hours."""
        memory = {**asdict(self.memory), "total": self.memory.total, "gpu": round(self.gpu.memory)}
        return {
            "base": self.base.name,
            "parameters": {"base": self.base.parameters, "trained": self.trained},
            "gpu": asdict(self.gpu),
            "gpus": self.gpus,
            "mfu": self.mfu,
            "memory": {**memory, "fits": self.fits, "most_rows": self.most_rows, "host": self.host},
            "steps": [{**asdict(step), "total_flops": step.total} for step in self.steps],
            "run": {
                "steps": self.config.steps,
                **{what: self.seen(what) for what in ("conversations", "pairs", "images")},
                "tokens": self.tokens,
                "flops": self.flops,
                "images_a_second": self.images_a_second,
                "hours": self.hours,
                "gpu_hours": self.hours * self.gpus,
            },
            "disk": self.disk,
            "assumptions": self.assumptions,
        }


def make_plan(
    config: TrainConfig, *, gpus: int = 1, gpu: str = "h100", mfu: float = MFU, text_tokens: int | None = None
) -> Plan:
    """The plan of a run on so many GPUs of a kind, at this share of their peak; text_tokens: of an average row.

    Raises InputError for a stage that is not `compressor`, an unknown base, GPU or method, and numbers that cannot be.
    """
    average = _checked(config, gpus, gpu, mfu, text_tokens)
    work = Work(config, read_base(config.init))
    loads = work.loads

    def memory(rows: int) -> Memory:
        return max((work.memory(load, rows, gpus) for load in loads), key=lambda one: one.total)

    rows = math.ceil(config.batch_size / gpus)
    return Plan(
        config=config,
        base=work.base,
        gpu=GPUS[gpu],
        gpus=gpus,
        mfu=mfu,
        trained=work.trained(),
        memory=memory(rows),
        most_rows=_most(lambda count: memory(count).total <= GPUS[gpu].memory),
        host=work.host_bytes(),
        steps=tuple(_step(work, load, GPUS[gpu], gpus, mfu, average) for load in loads),
        disk=work.disk(),
        assumptions=tuple(_assumptions(work, loads, average, gpus)),
    )


def _checked(config: TrainConfig, gpus: int, gpu: str, mfu: float, text_tokens: int | None) -> int:
    """Gives the text of an average row."""
    if config.stage != "compressor":
        raise InputError(f"--plan is for runs of stage compressor; this one is of stage {config.stage}.")
    if gpu not in GPUS:
        raise InputError(f"--gpu is {gpu!r}; it must be one of {', '.join(GPUS)}.")
    if not 1 <= gpus <= config.batch_size:
        raise InputError(f"--gpus is {gpus}; it must be from 1 to batch_size, which is {config.batch_size}.")
    if not 0 < mfu <= 1:
        raise InputError(f"--mfu is {mfu:g}; it must be above 0 and at most 1.")
    length = int(config.data["length"])
    if text_tokens is None:
        return min(length, TEXT_TOKENS) if config.data["sources"] else length
    if not 1 <= text_tokens <= length:
        raise InputError(f"--text-tokens is {text_tokens}; it must be from 1 to data.length, which is {length}.")
    return text_tokens


def _step(work: Work, load: Load, gpu: Gpu, gpus: int, mfu: float, text: int) -> Step:
    text = text if load.images else int(work.config.data["length"])
    flops = work.flops(load, text)
    weights = work.weight_bytes(load) / gpu.bandwidth
    products = sum(part.total for part in flops.values()) / (gpus * gpu.peak * mfu)
    tokens = sum(one.places for one in work.passes(load, text, CAPTION_TOKENS).values())
    return Step(load=load, flops=flops, seconds=max(products, weights), weight_seconds=weights, tokens=tokens)


def _most(fits: Callable[[int], bool]) -> int:
    """The largest number that fits, by halving; memory grows with it."""
    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high) and high < 1 << 20:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _assumptions(work: Work, loads: list[Load], text: int, gpus: int) -> list[str]:
    length, names = work.config.data["length"], [load.name for load in loads]
    told = []
    if any(load.conversations for load in loads):
        told.append(f"a conversation about a picture has {text} tokens of text, with its padding (--text-tokens)")
        told.append(f"{LABELLED:.0%} of them are learnt; memory is for rows of {length} that are all learnt")
    if work.config.data["sources"] and set(names) - {"pairs"}:
        both, other, text_alone = (f"{count / sum(COMPOSITION.values()):.0%}" for count in COMPOSITION.values())
        told.append(f"conversations are as in LLaVA-665k: {both} about pictures with captions, where a file of "
                    f"captions is named, {other} about others, {text_alone} without a picture")  # fmt: skip
    if "text" in names:
        told.append(f"text alone comes in rows of {length}")
    if any(load.pairs for load in loads):
        told.append(f"the longest caption of a batch has {CAPTION_TOKENS} tokens")
    if work.own and work.base.tokenizer is None:
        told.append(f"the prompt has {work.prompts[0]} tokens, one for 4 characters (the tokenizer is not here)")
    if gpus > 1 and work.config.sharded:
        told.append("weights, gradients and optimizer state are spread over the GPUs (sharded), the batch, too")
    elif gpus > 1:
        told.append("each GPU holds the whole model and an equal part of the batch")
    told.append("a step takes what its matrix products take at this share of the dense bfloat16 peak (--mfu), those "
                "computed again counted; reading pictures, checkpoints and validation come on top")  # fmt: skip
    if work.config.workers:
        size = 12 * work.base.tower.image**2 * max(load.images for load in loads) / gpus
        ahead = f"{work.config.workers * AHEAD} batches, of {size / 1e9:.2g} GB at most"
        told.append(f"beside it, {ahead}, wait in each process's part of the shared memory (/dev/shm)")
    if work.config.compile:
        told.append("activations are those without torch.compile, which keeps fewer")
    return told
