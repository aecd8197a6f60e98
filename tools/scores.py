"""Fill the tables of scores in README.md from results/world/*.json: `python tools/scores.py`.

The JSONs are what `fwd2bot.evaluation.world` writes; see runs/train_emoji_world.sh.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sections import write_section

from fwd2bot.data.world import KINDS
from fwd2bot.evaluation.metrics import above_guessing

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results/world"
BASE = "base"
METHODS = {
    BASE: "the base: every visual token",
    "fwd2bot-16": "**Fwd2Bot**",
    "fwd2bot-4": "**Fwd2Bot**",
    "fixed-16": "Fwd2Bot, trained for 16 alone",
    "fixed-4": "**Fwd2Bot**, trained for 4 alone",
    "average_pool-16": "average pooling",
    "average_pool-4": "average pooling",
    "tower": "the CLIP tower alone",
}
"""What each file of results is of, in the tables' order."""
NONE = "–"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of the tables. Scores in per cent; None where there is no such figure."""

    name: str
    tokens: int | None
    commit: str
    test: dict[str, float]
    composition: float | None = None
    kept: float | None = None
    text_to_image: float | None = None
    image_to_text: float | None = None


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """The JSONs that there are, by name. Raises SystemExit where the base's is missing: all others lean on it."""
    paths = {name: folder / f"{name}.json" for name in METHODS}
    found = {name: json.loads(path.read_text("utf-8")) for name, path in paths.items() if path.exists()}
    if BASE not in found:
        raise SystemExit(f"there is no {paths[BASE]}: run runs/train_emoji_world.sh first")
    return found


def lines(results: dict[str, dict[str, Any]]) -> list[Line]:
    """The rows, the blank image last: it says what guessing gives."""
    base = results[BASE]["figures"]
    full, guessing = base["test"]["mean"], base["blank"]["mean"]
    rows = []
    for name, result in results.items():
        figures = result["figures"]
        test, retrieval = figures.get("test", {}), figures.get("retrieval", {})
        row = Line(
            name=METHODS[name],
            tokens=result.get("num_tokens"),
            commit=result["commit"][:7],
            test=test,
            composition=figures.get("composition", {}).get("mean"),
            kept=above_guessing(test["mean"], full, guessing) if test and full > guessing else None,
            text_to_image=retrieval.get("text_to_image_R@1"),
            image_to_text=retrieval.get("image_to_text_R@1"),
        )
        rows.append(row)
    commit, tokens = results[BASE]["commit"][:7], results[BASE]["num_tokens"]
    rows.append(Line(name="a blank image: guessing", tokens=tokens, commit=commit, test=base["blank"], kept=0.0))
    return rows


def summary_table(rows: list[Line]) -> str:
    """Means, what is kept above guessing, retrieval."""
    head = ["", "tokens", "answers", "kept", "unseen pairs", "text → image", "image → text", "commit"]
    body = [
        [
            *(row.name, NONE if row.tokens is None else str(row.tokens), _shown(row.test.get("mean"))),
            *(_shown(row.kept), _shown(row.composition), _shown(row.text_to_image), _shown(row.image_to_text)),
            f"`{row.commit}`",
        ]
        for row in rows
    ]
    return _table(head, body)


def kinds_table(rows: list[Line]) -> str:
    """Exact match by kind of question."""
    head = ["", "tokens", *(kind.replace("_", " ") for kind in KINDS), "commit"]
    body = [
        [row.name, str(row.tokens), *(_shown(row.test.get(kind)) for kind in KINDS), f"`{row.commit}`"]
        for row in rows
        if row.test
    ]
    return _table(head, body)


def section(folder: Path) -> str:
    """Both tables, with what they are taken on."""
    results = read_results(folder)
    rows = lines(results)
    images, gallery = results[BASE]["images"], results[BASE]["gallery"]
    return f"""{summary_table(rows)}

By kind of question:

{kinds_table(rows)}

Per cent; {images:,} images of the test split, {gallery:,} images and five captions each for retrieval."""


def _shown(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"


def _table(head: list[str], body: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *body))


def main() -> int:
    write_section(ROOT / "README.md", "scores", section(RESULTS))
    print("README.md has the scores of", ", ".join(read_results(RESULTS)), file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
