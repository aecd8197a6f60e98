"""The command that takes a model's figures: benchmarks or the world in, a table and JSON out."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fwd2bot.cli.commands import DEFAULT_MODEL
from fwd2bot.cli.output import ProgressLine, print_json
from fwd2bot.errors import ImageError, InputError
from fwd2bot.wording import plural


def run_evaluate(options: argparse.Namespace) -> int:
    if (options.benchmarks is None) == (options.suite is None):
        raise InputError("Say what to evaluate on: --benchmarks NAMES, or --suite world.")
    if (options.benchmarks is None) != (options.data is None):
        raise InputError("--benchmarks and --data go together: the names, and the folder that holds a folder of each.")
    if options.suite is None and options.images is not None:
        raise InputError("--images is for --suite world: a benchmark is taken whole; leave --images out.")
    if options.suite is not None and options.prompt is not None:
        raise InputError("--prompt is for captions of --benchmarks: the world asks its own questions; leave it out.")
    from fwd2bot.evaluation.runner import open_benchmarks, run_benchmarks
    from fwd2bot.evaluation.towers import load_any
    from fwd2bot.evaluation.world import run_world

    benchmarks = [] if options.data is None else open_benchmarks(options.benchmarks, options.data, options.prompt)
    model = load_any(options.model or DEFAULT_MODEL, options.device, options.dtype)
    count = options.tokens or model.num_tokens
    out = Path(options.out or "evaluation/" + model.name.replace("/", "-") + (f"-{count}" if count else ""))
    if options.suite is not None:
        images = 1000 if options.images is None else options.images
        results = run_world(model, out, num_tokens=options.tokens, images=images, progress=ProgressLine)
    else:
        results = run_benchmarks(model, benchmarks, out, num_tokens=options.tokens, progress=ProgressLine)
    taken = []
    for result in results:
        taken.append(result)
        if not options.json:
            _print_figures(result)
    if options.json:
        print_json(taken)
    return ImageError.exit_code if any(result.get("failed") for result in taken) else 0


def _print_figures(result: dict[str, Any]) -> None:
    benchmark = result.get("benchmark", "world")
    split = f" ({result['split']})" if "split" in result else ""
    tokens = f", {plural(result['num_tokens'], 'token')} an image" if result["num_tokens"] else ""
    print(f"{benchmark}{split}: {result['model']}{tokens}")
    if result["figures"] is None:
        print(f"  only its server has the answers: send it {result['submission']}")
    rows = dict(_flat(result["figures"] or {}))
    width = max(map(len, rows), default=0)
    for name in sorted(rows, key=lambda name: name != result.get("metric")):  # the one that papers quote comes first
        print(f"  {name:{width}}  {rows[name]:8.2f}")
    for name in ("tokeniser", "METEOR"):
        if name in result:
            print(f"  {name:{width}}  {result[name]}")
    for one in result.get("failed", []):
        print(f"  {plural(one['samples'], 'sample')} counted as unanswered: {one['error']}")


def _flat(figures: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, figure in figures.items():
        if isinstance(figure, dict):
            yield from ((f"{name} {inner}", value) for inner, value in _flat(figure))
        else:
            yield name, figure
