"""Accuracy against tokens and against bytes stored an image, of whatever has been run: seconds, nothing is trained.

    python runs/fig_tokens.py

docs/figures/tokens.svg is of results/evidence/ (runs/tab1.py and runs/tab3.py make them), tokens-bundled.svg there of
results/world/ (runs/train_emoji_world.sh), points of reference of results/thumbnails.json (runs/thumbnails.py). What
was not run is not drawn, and is told. A method that cannot be stored, or searched by text, has no line there.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cells import CELLS, IMAGES, ROOT, Figures, called, results
from tables import RETRIEVAL, UNDERSTANDING

from fwd2bot.compressors.catalogue import CATALOGUE
from fwd2bot.errors import Fwd2BotError
from fwd2bot.evaluation.tradeoff import Panel, draw_tradeoffs
from fwd2bot.store.rows import Header

FIGURES = ROOT / "docs/figures"
WORLD = ROOT / "results/world"
THUMBNAILS = ROOT / "results/thumbnails.json"
BASE = ROOT / "fwd2bot/bundled/emoji-world/base/config.json"
OF_THE_BUNDLED = ("fwd2bot-16", "fwd2bot-4", "fixed-16", "fixed-4", "average_pool-16", "average_pool-4")
LONG = {"fwd2bot": "fwd2bot-prefix", "fixed": "fwd2bot"}
"""Files in results/world whose cells have other names."""
NAMES = {
    "fwd2bot-prefix": "fwd2bot, one training",
    "visionzip_untrained": "visionzip, untrained",
    "prumerge_untrained": "prumerge, untrained",
}
"""Of cells, without their numbers of tokens, that are no method of the catalogue."""
NOT_DRAWN = ("base", "average_pool_unscaled-16")
"""`identity` stands for every visual token, with the budget of the others; the second is a control."""
T2I = "text_to_image_R@1"
ROWS = "rows_a_layer"


@dataclass(frozen=True)
class Drawing:
    """What one figure is made of.

    points: by method (of the catalogue, or of NAMES) and number of tokens. full: of every visual token. tower: of CLIP
    alone. gallery: pictures that were searched. missing: what has not been run, in words.
    """

    points: Mapping[str, Mapping[int, Figures]]
    full: Figures
    tower: Figures
    gallery: int
    missing: Sequence[str]


def drawn_as(cell: str) -> str:
    """The method whose line a cell is a point of."""
    name = next((name for name in NAMES if cell == name or cell.startswith(f"{name}-")), None)
    return CELLS[cell].compressor.get("compressor", cell) if name is None else name


def of_evidence() -> Drawing:
    """Every method with one budget; the mean over seeds."""
    points: dict[str, dict[int, Figures]] = {}
    missing = []
    for cell in dict.fromkeys((*UNDERSTANDING, *RETRIEVAL)):
        if cell in NOT_DRAWN:
            continue
        for count in CELLS[cell].tokens:
            runs = list(results(cell, count))
            if not runs:
                missing.append(called(cell, count))
                continue
            points.setdefault(drawn_as(cell), {})[count] = mean_of(runs)
    full, tower = (next(iter(points.pop(name, {}).values()), {}) for name in ("identity", "clip"))
    return Drawing(points, full, tower, IMAGES, missing)


def of_the_bundled() -> Drawing:
    """The bundled model and its rivals, trained for long."""
    points: dict[str, dict[int, Figures]] = {}
    there = {path.stem: json.loads(path.read_text("utf-8")) for path in WORLD.glob("*.json")}
    found = {name: one["figures"] for name, one in there.items() if "figures" in one}
    for name in OF_THE_BUNDLED:
        method, _, count = name.rpartition("-")
        if name in found:
            points.setdefault(LONG.get(method, method), {})[int(count)] = found[name]
    missing = [f"`{name}`" for name in ("base", *OF_THE_BUNDLED, "tower") if name not in found]
    return Drawing(points, found.get("base", {}), found.get("tower", {}), 1000, missing)


def mean_of(runs: Sequence[Figures]) -> Figures:
    """Of the figures that are drawn, those that there are."""
    found: Figures = {}
    for part, name in (("test", "mean"), ("retrieval", T2I), ("cost", ROWS)):
        if values := [run[part][name] for run in runs if part in run]:
            found[part] = {name: statistics.mean(values)}
    return found


def panels(drawing: Drawing) -> Iterator[Panel]:
    """Question answering, then retrieval, by tokens and by bytes; those that have a line."""
    for part, figure, title, up in (
        ("test", "mean", "Answering questions", "right answers, %, mean over kinds"),
        ("retrieval", T2I, "Search by text", f"text → image R@1 of {drawing.gallery:,}, %"),
    ):
        values = {
            method: {count: found[part][figure] for count, found in sorted(by_count.items()) if part in found}
            for method, by_count in drawing.points.items()
        }
        lines = {
            NAMES.get(method, method): [(rows(drawing, method, count), value) for count, value in by_count.items()]
            for method, by_count in values.items()
            if by_count
        }
        kept = {
            NAMES.get(method, method): [(row_bytes(count), value) for count, value in by_count.items()]
            for method, by_count in values.items()
            if by_count and storable(method)
        }
        levels = {
            name: found[part][figure]
            for name, found in (("every visual token", drawing.full), ("the CLIP tower alone", drawing.tower))
            if part in found
        }
        if lines:
            yield Panel(title, "tokens an image", up, lines, levels)
            marks, marked = reference(part, figure, drawing.gallery)
            yield Panel(title, "bytes stored an image (a row of the store)", up, kept, levels, marks, marked)


def rows(drawing: Drawing, method: str, count: int) -> float:
    """What the language model is given of an image, where a method takes some out on the way the mean over layers."""
    return float(drawing.points[method][count].get("cost", {}).get(ROWS, count))


def storable(method: str) -> bool:
    return method in NAMES or CATALOGUE[method].storable


def row_bytes(count: int) -> int:
    """As `fwd2bot info` tells them."""
    width: int = json.loads(BASE.read_text("utf-8"))["text_config"]["hidden_size"]
    return Header(model="", source="", fingerprint="", num_tokens=count, width=width).bytes_per_row


def reference(part: str, figure: str, gallery: int) -> tuple[list[tuple[float, float, str]], str]:
    """JPEG files in the full model, and what they are called; of retrieval where as many pictures were searched."""
    if not THUMBNAILS.exists():
        return [], ""
    told: dict[str, Any] = json.loads(THUMBNAILS.read_text("utf-8"))
    if part == "retrieval" and told["gallery"] != gallery:
        return [], ""
    points = sorted(told["points"], key=lambda point: point["bytes"])
    marks = [(point["bytes"], point["figures"][part][figure], f"{point['side']} px") for point in points]
    return marks, f"JPEG files in the full model ({told['images']:,} scenes)"


DRAWINGS: dict[str, Callable[[], Drawing]] = {"tokens": of_evidence, "tokens-bundled": of_the_bundled}
"""By the name of the file."""


def draw() -> dict[str, str]:
    """Draw what there is; gives what to say of each figure, with the figure where there is one."""
    said = {}
    for name, gather in DRAWINGS.items():
        drawing = gather()
        drawn = list(panels(drawing))
        if drawn:
            draw_tradeoffs(drawn, FIGURES / f"{name}.svg")
        said[name] = told(name, drawing, there=bool(drawn))
    return said


def told(name: str, drawing: Drawing, *, there: bool) -> str:
    """What a document says of a figure."""
    shown = f"![Accuracy against tokens, and against bytes stored an image](figures/{name}.svg)" if there else ""
    lacking = f"Not run, so not drawn: {', '.join(drawing.missing)}." if drawing.missing else ""
    return "\n\n".join(part for part in (shown, lacking) if part)


def main() -> int:
    try:
        said = draw()
    except Fwd2BotError as error:
        print(f"fwd2bot: {error}", file=sys.stderr)
        return error.exit_code
    print("\n\n".join(f"{name}\n{words}" for name, words in said.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
