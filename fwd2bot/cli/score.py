"""`fwd2bot score`: predictions of any model against a benchmark's official files. Loads no model and no torch."""

import argparse
from pathlib import Path

from fwd2bot.cli.output import note, print_json
from fwd2bot.errors import InputError
from fwd2bot.evaluation.base import Benchmark, read_predictions
from fwd2bot.evaluation.catalogue import open_benchmark
from fwd2bot.wording import plural


def run_score(options: argparse.Namespace) -> int:
    benchmark = open_benchmark(options.benchmark, Path(options.data), options.split)
    if not isinstance(benchmark, Benchmark):
        raise InputError(f"{benchmark.name} compares vectors, not predictions: `fwd2bot evaluate` takes its figures.")
    predictions = read_predictions(benchmark, Path(options.predictions))
    missing = sum(key not in predictions for key in benchmark.needed())
    counts = {"predictions": len(predictions), "missing": missing}
    if options.submission is not None:
        path = _write_submission(benchmark, predictions, Path(options.submission))
        if missing:
            note(f"fwd2bot: {plural(missing, 'sample')} without a prediction; the answer in the file is empty")
        if options.json:
            print_json({"benchmark": benchmark.name, "split": benchmark.split, "submission": str(path), **counts})
        else:
            print(path)
        return 0
    if missing and benchmark.missing is not None:
        note(f"fwd2bot: {plural(missing, 'sample')} without a prediction; the official scorer {benchmark.missing}")
    figures = benchmark.score(predictions)
    settings = benchmark.settings()
    if benchmark.metric not in figures:
        raise InputError(f"No prediction in {options.predictions} counts for {benchmark.name}'s {benchmark.metric}.")
    if options.json:
        print_json(
            {
                "benchmark": benchmark.name,
                "split": benchmark.split,
                "metric": benchmark.metric,
                "value": figures[benchmark.metric],
                "figures": figures,
                **counts,
                **settings,
            }
        )
        return 0
    print(f"{benchmark.name} {benchmark.split}, {plural(len(predictions), 'prediction')}")
    width = max(map(len, figures))
    for name in sorted(figures, key=lambda name: name != benchmark.metric):  # the one that papers quote comes first
        print(f"  {name:{width}}  {figures[name]:8.2f}")
    for name, setting in settings.items():
        print(f"{name}: {setting}")
    return 0


def _write_submission(benchmark: Benchmark, predictions: dict[str, str], folder: Path) -> Path:
    made = benchmark.submission(predictions)
    if made is None:
        raise InputError(f"{benchmark.name} {benchmark.split} goes to no server: leave out --submission.")
    name, content = made
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    except OSError as error:
        raise InputError(f"{folder / name} cannot be written: {error.strerror or error}.") from error
    return folder / name
