"""Curves of one or several trainings, from their `metrics.jsonl`; needs matplotlib (`pip install fwd2bot[plots]`).

    python -m fwd2bot.training.plots work/emoji-world/fwd2bot work/emoji-world/fixed-16 --out curves.svg

One panel a loss, one for each validation mean and recall, one for the rate. The ending of `--out` says what is written:
svg, png or pdf.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fwd2bot.errors import Fwd2BotError, InputError

SHOWN = re.compile(r"val/(.*/)?(mean|.*R@1.*|recall_1_of_.*|names|places)")
"""Validation figures with a panel; the kinds of questions are left to the file."""
Curves = dict[str, list[tuple[int, float]]]


def read_curves(folder: Path) -> Curves:
    """(step, value) of every figure of a run, by name. Raises InputError where there are none."""
    path = folder / "metrics.jsonl"
    curves: Curves = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row: dict[str, float] = json.loads(line)
            for name, value in row.items():
                if name not in ("step", "seconds"):
                    curves.setdefault(name, []).append((int(row["step"]), float(value)))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; give the folder of a training.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} holds something else than a training's figures; remove that line.") from error
    if not curves:
        raise InputError(f"{path} is empty: the training has told nothing yet.")
    return curves


def panels(runs: dict[str, Curves]) -> list[str]:
    """Names of the figures that are drawn: losses, then validation, then rates."""
    names = list(dict.fromkeys(name for curves in runs.values() for name in curves))
    rates = [name for name in names if name in ("rate", "utilisation")]
    held_out = [name for name in names if SHOWN.fullmatch(name)]
    return [name for name in names if "/" not in name and name not in rates] + held_out + rates


def draw(runs: dict[str, Curves], out: Path) -> None:
    """One picture with a panel a figure and a line a run. Raises InputError where it cannot be drawn or written."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("Plots need matplotlib: run pip install 'fwd2bot[plots]'.") from error
    names = panels(runs)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure: Any = Figure(figsize=(4.6 * columns, 3.0 * rows), layout="constrained")
    for name, axes in zip(names, figure.subplots(rows, columns, squeeze=False).flat, strict=False):
        for run, curves in runs.items():
            points = curves.get(name, [])
            axes.plot(
                [step for step, _ in points],
                [value for _, value in points],
                label=run,
                marker="." if "/" in name else "",
            )
        axes.set_title(name.removeprefix("val/"), fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    for axes in figure.axes[len(names) :]:
        axes.remove()
    if len(runs) > 1:
        figure.axes[0].legend(fontsize=8)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150)
    except (OSError, ValueError) as error:
        raise InputError(f"{out} cannot be written: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the curves of some runs."""
    parser = argparse.ArgumentParser(prog="python -m fwd2bot.training.plots", description="Draw curves of trainings.")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="folder of a training")
    parser.add_argument("--out", type=Path, required=True, help="picture to write: .svg, .png or .pdf")
    options = parser.parse_args(arguments)
    try:
        names = [folder.resolve().name for folder in options.runs]
        alike = len({*names}) < len(names)
        draw(
            {str(one) if alike else name: read_curves(one) for one, name in zip(options.runs, names, strict=True)},
            options.out,
        )
    except Fwd2BotError as error:
        print(f"fwd2bot: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
