"""Fill the tables of docs/results.md from results/evidence/*.json, and draw its plots: `python tools/results.py`.

Our table, what was not run, and the paper's own table (results/paper.yaml). runs/tab1.py and the others make the JSONs;
runs/curves.py what the long trainings had on the way; runs/fig_tokens.py draws.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from sections import write_section

from fwd2bot.compressors.catalogue import CATALOGUE
from fwd2bot.data.world import KINDS
from fwd2bot.evaluation.metrics import above_guessing

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "runs"))
import fig_tokens  # noqa: E402
from cells import CELLS, Figures, called, results  # noqa: E402  # after the path to it
from tables import TABLES, Table  # noqa: E402

DOCUMENT = ROOT / "docs/results.md"
CURVES = ROOT / "results/world/curves.json"
CREPE = ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")
Column = tuple[str, Callable[[Figures], float | None]]


def at(*path: str) -> Callable[[Figures], float | None]:
    """Reads a figure; None where the method has none such."""

    def read(figures: Figures) -> float | None:
        found: Any = figures
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        return None if found is None else float(found)

    return read


def first(*readers: Callable[[Figures], float | None]) -> Callable[[Figures], float | None]:
    """The first that there is."""
    return lambda figures: next((found for read in readers if (found := read(figures)) is not None), None)


def searched(part: str, name: str) -> Callable[[Figures], float | None]:
    """By the method's own vectors; else by the word that it says of a picture."""
    return first(at(part, name), at("one_word", part, name))


def kept(base: str) -> Callable[[Figures], float | None]:
    """The share of the full model's score above guessing, at the same budget; the full model's, the mean over seeds."""

    def read(figures: Figures) -> float | None:
        full = list(results(base, CELLS[base].tokens[0]))
        if not full or "test" not in figures:
            return None
        score, guessing = (statistics.mean(one[part]["mean"] for one in full) for part in ("test", "blank"))
        return None if score <= guessing else above_guessing(figures["test"]["mean"], score, guessing)

    return read


def questions(base: str) -> tuple[Column, ...]:
    """Columns of a table of questions, on a base."""
    return (
        MEAN,
        ("kept", kept(base)),
        ("unseen pairs", at("composition", "mean")),
        *((kind.replace("_", " "), at("test", kind)) for kind in KINDS),
        ("trained, M", at("cost", "trained_millions")),
    )


MEAN: Column = ("mean", at("test", "mean"))
T2I: Column = ("text → image R@1", searched("retrieval", "text_to_image_R@1"))
I2T: Column = ("image → text R@1", searched("retrieval", "image_to_text_R@1"))
CAPTIONS = ("BLEU-4", "CIDEr", "METEOR", "ROUGE-L")
COLUMNS: dict[str, tuple[Column, ...]] = {
    "questions": questions("identity"),
    "larger": questions("larger_identity"),
    "captions": tuple((name, at("coco_captions", name)) for name in CAPTIONS),
    "signs": tuple((name, at("signs", name)) for name in CAPTIONS),
    "retrieval": (
        T2I,
        ("R@10", searched("retrieval", "text_to_image_R@10")),
        I2T,
        ("R@10", searched("retrieval", "image_to_text_R@10")),
    ),
    "compositions": tuple((name.replace("_", " "), searched("sugarcrepe", name)) for name in CREPE),
    "both": (MEAN, ("reading", at("test", "reading")), T2I, I2T),
}
RANKED = {"questions": MEAN[1], "captions": at("coco_captions", "CIDEr")}
"""Tables of every method, and what ranks these."""


def our_table(table: Table) -> str:
    """Rows of what was run, and a line of what was not.

    Tables of every method go by tokens; of as many, those that can be stored come first, the best at the head.
    """
    columns, rank = COLUMNS[table.columns], RANKED.get(table.columns)
    heads = ["method", "tokens", *(["stored"] if rank else []), *(head for head, _ in columns), "seeds"]
    lines = [_line(heads), "| --- |" + " ---: |" * (len(heads) - 1)]
    missing = []
    rows = [(cell, count) for cell in table.cells for count in CELLS[cell].tokens]
    if rank:
        rows.sort(key=lambda row: (-row[1], not stored(row[0]), -mean_of(rank, *row)))
    for cell, count in rows:
        runs = list(results(cell, count))
        if not runs:
            missing.append(called(cell, count))
            continue
        shown = [told([value for value in map(read, runs) if value is not None]) for _, read in columns]
        kind = ["yes" if stored(cell) else "no"] if rank else []
        if set(shown) != {NONE}:
            lines.append(_line([f"`{cell}`", told_tokens(count, runs[0]), *kind, *shown, str(len(runs))]))
    text = "\n".join(lines) if len(lines) > 2 else ""
    return "\n\n".join(part for part in (text, f"Not run: {', '.join(missing)}." if missing else "") if part)


def _line(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"


def stored(cell: str) -> bool:
    return fig_tokens.storable(fig_tokens.drawn_as(cell))


def mean_of(read: Callable[[Figures], float | None], cell: str, count: int) -> float:
    """Over seeds; 0 where there is no such figure."""
    values = [value for value in map(read, results(cell, count)) if value is not None]
    return statistics.mean(values) if values else 0.0


def told_tokens(count: int, figures: Figures) -> str:
    """With the rows of an image in a layer of the language model where these are more, on the average of the layers."""
    rows = at("cost", "rows_a_layer")(figures) or count
    return f"{count}" if rows == count else f"{count} ({rows:.0f})"


NONE = "–"


def told(values: Sequence[float]) -> str:
    """The mean, and of several seeds half the distance between the extremes."""
    if not values:
        return NONE
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.1f}"


def paper_table(number: int) -> str:
    """The paper's own."""
    table = yaml.safe_load((ROOT / "results/paper.yaml").read_text("utf-8"))[f"table_{number}"]
    counted = any("tokens" in row for row in table["rows"])
    names = ["method", *(["tokens"] if counted else []), *table["columns"]]
    lines = [_line(names), "| --- |" + " ---: |" * (len(names) - 1)]
    for row in table["rows"]:
        values = [NONE if value is None else _as_printed(value) for value in row["values"]]
        count = [str(row.get("tokens", NONE))] if counted else []
        lines.append(_line([row["method"], *count, *values]))
    head = f"<details><summary>The paper's table {number}: {table['title']}</summary>"
    note = [table["note"], ""] if "note" in table else []
    return f"{head}\n\n" + "\n".join([*lines, "", *note, "</details>"])


def _as_printed(value: float) -> str:
    """With one decimal, or as many as the paper has."""
    return f"{value:.1f}" if round(value, 1) == value else str(value)


def curves() -> str:
    """Validation scores of the long trainings by step: is a method behind, or only slower?"""
    scores = {name: curve["scores"] for name, curve in json.loads(CURVES.read_text("utf-8")).items()}
    steps = sorted({int(step) for one in scores.values() for step in one})
    heads = [f"`{method}` with {count}" for method, _, count in (name.rpartition("-") for name in scores)]
    lines = [_line(["steps", *heads]), "|" + " ---: |" * (len(heads) + 1)]
    for step in steps:
        values = [one.get(str(step)) for one in scores.values()]
        shown = [NONE if value is None else f"{value:.1f}" for value in values]
        lines.append(_line([f"{step:,}", *shown]))
    return "\n".join(lines).replace("`fixed`", "`fwd2bot`")


def rivals() -> str:
    """What each method can be used for; where it cannot, tables have no number."""
    lines = ["| method | stored | searched by text | needs the question |", "| --- | --- | --- | --- |"]
    for name, method in CATALOGUE.items():
        facts = (method.storable, method.embeds_text, method.needs_question)
        lines.append(_line([f"`{name}`", *("yes" if fact else "no" for fact in facts)]))
    return "\n".join(lines)


def main() -> int:
    write_section(DOCUMENT, "methods", rivals())
    for number, table in TABLES.items():
        write_section(DOCUMENT, f"table-{number}", f"{our_table(table)}\n\n{paper_table(number)}")
    write_section(DOCUMENT, "curves", curves())
    for name, words in fig_tokens.draw().items():
        write_section(DOCUMENT, f"figure-{name}", words)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
