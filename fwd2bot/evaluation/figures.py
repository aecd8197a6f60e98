"""What the scripts of Figures 3 to 6 share: their arguments, and where a figure and its numbers go."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fwd2bot.data.world import Scene, make_scene
from fwd2bot.errors import Fwd2BotError, InputError
from fwd2bot.evaluation.world import write_result
from fwd2bot.model import Fwd2Bot, load
from fwd2bot.provenance import provenance

Made = tuple[dict[str, Any], Callable[[Path], None]]
"""The numbers of a figure, and what draws it."""


def figure_main(
    number: int,
    about: str | None,
    make: Callable[[Sequence[Fwd2Bot], Sequence[Scene]], Made],
    arguments: Sequence[str] | None = None,
) -> int:
    """Load the models, make the figure of them and of test scenes, and write the JSON and the SVG; an exit code."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="bundled name, folder or hub id; default: emoji-world")
    parser.add_argument("--scenes", type=int, default=100, help="scenes of the test split; default: 100")
    parser.add_argument("--out", type=Path, default=Path("results/figures"), help="folder of the JSON")
    parser.add_argument("--docs", type=Path, default=Path("docs/figures"), help="folder of the SVG")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        if options.scenes < 1:
            raise InputError(f"--scenes is {options.scenes}; it must be at least 1.")
        models = [load(name) for name in options.model or ["emoji-world"]]
        numbers, draw = make(models, [make_scene("test", index) for index in range(options.scenes)])
        draw(options.docs / f"fig{number}.svg")
        told: Mapping[str, Any] = {
            "models": {model.name: model.fingerprint for model in models},
            "scenes": options.scenes,
            "seconds": round(time.monotonic() - started),
            **provenance(),
            "figures": numbers,
        }
    except Fwd2BotError as error:
        print(f"fwd2bot: {error}", file=sys.stderr)
        return error.exit_code
    write_result(told, options.out / f"fig{number}.json")
    return 0


def only(models: Sequence[Fwd2Bot]) -> Fwd2Bot:
    """The one model of a figure of one. Raises InputError for several."""
    if len(models) > 1:
        raise InputError(f"This figure is of one model; {len(models)} are given.")
    return models[0]
