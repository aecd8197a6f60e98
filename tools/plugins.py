"""Fill the tables of docs/plugins.md from results/plugins/*.json: `python tools/plugins.py`.

runs/with_mteb.py and runs/with_lmms_eval.py write the JSONs.
"""

import json
from pathlib import Path

from sections import write_section

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/plugins.md"
RESULTS = ROOT / "results/plugins"
PROGRAMS = {"mteb": "MTEB", "lmms_eval": "lmms-eval"}
"""By the names of files and sections."""


def table(name: str) -> str:
    """Figures of each side, and what gave them."""
    told = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    sides = [side for side, figures in told.items() if isinstance(figures, dict)]
    lines = ["| | " + " | ".join(PROGRAMS.get(side, side) for side in sides) + " |", "| --- |" + " ---: |" * len(sides)]
    for figure in told["ours"]:
        lines.append(f"| {figure} | " + " | ".join(f"{told[side][figure]:.3f}" for side in sides) + " |")
    alike = f" {told['answers_alike']} of {told['answers']} answers are alike." if "answers" in told else ""
    made = f"`{told['model']}` with {told['num_tokens']} tokens, `{told['version']}`, commit `{told['commit'][:7]}`."
    return "\n".join(lines) + f"\n\nPer cent.{alike} {made}"


def main() -> int:
    for name in PROGRAMS:
        write_section(DOCUMENT, name, table(name))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
