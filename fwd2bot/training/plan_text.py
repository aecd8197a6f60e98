"""A plan as a person reads it."""

from collections.abc import Iterator
from functools import reduce
from operator import add
from textwrap import wrap

from fwd2bot.training.plan import Plan, Step

WIDTH = 79
KINDS = {
    "both": "Conversations about pictures with captions",
    "pairs": "Pairs of picture and caption",
    "conversations": "Conversations about pictures",
    "text": "Conversations without a picture",
}


def plan_text(plan: Plan) -> str:
    """Tables of parameters, memory, FLOPs, time and disk, and what was assumed."""
    sections = (_parameters, _memory, _flops, _run, _disk, _assumptions)
    name = plan.config.compressor.get("compressor", "fwd2bot")
    gpus = f"{plan.gpus} {plan.gpu.name}" if plan.gpus > 1 else f"one {plan.gpu.name}"
    head = f"{name} on {plan.base.name}, {plan.config.steps:,} steps of {plan.config.batch_size}, on {gpus}"
    return "\n\n".join(["\n".join(wrap(head, WIDTH)), *("\n".join(section(plan)) for section in sections)])


def _parameters(plan: Plan) -> Iterator[str]:
    total, trained = sum(plan.base.parameters.values()), sum(plan.trained.values())
    yield _row("parameters", f"{total + _added(plan):,}")
    yield from (_row(f"  base, {name}", f"{count:,}") for name, count in plan.base.parameters.items())
    yield _row("trained", f"{trained:,}")
    yield from (_row(f"  {name}", f"{count:,}") for name, count in plan.trained.items())


def _added(plan: Plan) -> int:
    return sum(count for name, count in plan.trained.items() if name not in plan.base.parameters)


def _memory(plan: Plan) -> Iterator[str]:
    memory, gpu = plan.memory, plan.gpu.memory
    yield _row(f"memory a GPU, {memory.rows} rows", _bytes(memory.total))
    yield from (_row(f"  {name}", _bytes(count)) for name, count in memory.parts.items() if count)
    name = f"the {_bytes(gpu)} of one {plan.gpu.name}"
    if plan.fits:
        more = f"; {plan.most_rows:,} would" if plan.most_rows > memory.rows else ""
        yield from _said(f"fits into {name}: {memory.rows} rows a GPU{more}")
    elif plan.most_rows:
        yield from _said(
            f"does NOT fit into {name}, where {plan.most_rows:,} rows a GPU would: take more GPUs, or a smaller "
            "batch_size or data.length"
        )
    else:
        yield from _said(f"does NOT fit into {name}, not even one row: take GPUs with more memory")
    on = plan.config.gradient_checkpointing
    other = _bytes(memory.activations["without" if on else "with"])
    yield from _said(f"{'without' if on else 'with'} gradient checkpointing the activations would be {other}")
    yield _row("host memory a process, while it reads the base", _bytes(plan.host))
    if plan.gpus > 1:
        yield _row(f"  {plan.gpus} of them on one machine", _bytes(plan.gpus * plan.host))


def _flops(plan: Plan) -> Iterator[str]:
    yield f"{'FLOPs of a step':16}{'forward':>12}{'backward':>12}{'again':>12}{'all':>12}{'share':>10}"
    for step in plan.steps:
        load = step.load
        counts = {"images": load.images, "conversations": load.conversations, "pairs": load.pairs}
        what = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        cached = " by gradient caching" if load.cached else ""
        yield f" {KINDS[load.name]}, {load.share:.0%} of the steps"
        yield f" {what}{cached}: {step.seconds:.3g} s (weights alone {step.weight_seconds:.2g} s)"
        yield from _parts(step)


def _parts(step: Step) -> Iterator[str]:
    whole = reduce(add, step.flops.values())
    for name, part in {**step.flops, "all": whole}.items():
        numbers = "".join(f"{_si(number):>12}" for number in (part.forward, part.backward, part.again, part.total))
        yield f"  {name:14}{numbers}{part.total / whole.total:>10.1%}"


def _run(plan: Plan) -> Iterator[str]:
    yield _row("the run, FLOPs", _si(plan.flops))
    for what in ("conversations", "pairs", "images"):
        yield _row(f"  {what} seen", f"{plan.seen(what):,}")
    yield _row("  tokens through the language model", f"{plan.tokens:,}")
    yield _row("  images a second", f"{plan.images_a_second:,.0f}")
    yield _row(f"  hours at {plan.mfu:.0%} of the peak", f"{plan.hours:,.{0 if plan.hours >= 100 else 1}f}")
    if plan.gpus > 1:
        yield _row("  GPU hours", f"{plan.hours * plan.gpus:,.0f}")


def _disk(plan: Plan) -> Iterator[str]:
    yield _row("disk, at most", _bytes(3 * plan.disk["checkpoint"] + plan.disk["model"]))
    yield _row("  a checkpoint (two are kept, a third while it is written)", _bytes(plan.disk["checkpoint"]))
    yield _row("  the model folder", _bytes(plan.disk["model"]))
    yield _row("  the base's own files, beside it", _bytes(plan.disk["base"]))


def _assumptions(plan: Plan) -> Iterator[str]:
    yield "assumed"
    for one in plan.assumptions:
        yield from _said(one, "- ")


def _said(text: str, mark: str = "") -> list[str]:
    return wrap(text, WIDTH, initial_indent=f"  {mark}", subsequent_indent="  " + " " * len(mark))


def _row(name: str, value: str) -> str:
    return f"{name:{WIDTH - 18}}{value:>18}"


def _bytes(count: float) -> str:
    """Powers of ten: a GB is 10^9."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _si(count: float) -> str:
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if count >= 100 * size or (count >= size and unit != "E"):
            return f"{count / size:.4g} {unit}"
    return f"{count / 1e6:.4g} M" if count else "-"
