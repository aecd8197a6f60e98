"""Fill the table of speeds in README.md from the newest benchmarks/results/*.json: `python tools/speeds.py`."""

import json
from pathlib import Path
from typing import Any

from sections import write_section

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"


def newest(folder: Path) -> dict[str, Any]:
    """The result with the latest date. Raises SystemExit where there is none."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("speed-*.json"))]
    if not found:
        raise SystemExit(f"there is no speed-*.json in {folder}: run benchmarks/speed.py with --out first")
    result: dict[str, Any] = max(found, key=lambda one: one["date"])
    return result


def section(result: dict[str, Any]) -> str:
    """What a row costs and saves, beside the plain model in the same run."""
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    whole: dict[tuple[int, int], dict[str, Any]] = {}
    for one in result["answer"]:
        (rows if one["from"] == "a row" else whole)[one["tokens"], one["batch"]] = one
    counts, batches = sorted({count for count, _ in rows}, reverse=True), sorted({batch for _, batch in rows})
    ((visual, _), *_) = whole
    memory = result["memory_mb"]
    lines = [f"|  | {visual} visual tokens |" + "".join(f" a row of {count} |" for count in counts)]
    lines.append("| --- |" + " ---: |" * (1 + len(counts)))
    for batch in batches:
        for name, key in (("first token, times sooner", "first_token_ratio"), ("tokens a second", "tokens_ratio")):
            told = "".join(f" {rows[count, batch][key]:.1f} |" for count in counts)
            lines.append(f"| {name}, {batch} at once | 1.0 |{told}")
    told = "".join(f" {memory[f'answer_{count}']:.0f} |" for count in counts)
    lines.append(f"| memory to answer, MB | {memory['answer_all']:.0f} |{told}")
    kept = result["bytes"]
    told = "".join(f" {kept['jpeg'] / kept[f'row_{count}']:.1f} times |" for count in counts)
    lines.append(f"| a row is smaller than the picture's JPEG, of 32 pictures | – |{told}")
    ratio = result["compress"]["ratio"]
    return "\n".join(lines) + (
        f"\n\nTo compress takes one pass: {ratio:.2f} of the images a second of one plain forward of the same LLaVA.\n"
        f"`python benchmarks/speed.py`, {result['date']}, commit `{result['commit'][:7]}`, {result['machine']}."
    )


def main() -> int:
    write_section(ROOT / "README.md", "speed", section(newest(RESULTS)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
