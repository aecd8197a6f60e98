"""Fill the tables of docs/store.md: `python tools/store_tables.py`.

Bytes against answers and retrieval come from results/rows.json (runs/rows.py), the table of large stores from the
newest benchmarks/results/store-*.json (benchmarks/store.py), where there is one.
"""

import json
from pathlib import Path
from typing import Any

from sections import write_section

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/store.md"
ROWS = ROOT / "results/rows.json"
BENCHMARKS = ROOT / "benchmarks/results"
SHAPES = {"bundled": (16, 256), "7B": (16, 4096)}


def rows_section(result: dict[str, Any]) -> str:
    """Bytes a row against answers and retrieval, the defaults in bold."""
    found, chosen = result["figures"], result["defaults"]
    lines = [
        "|  | tokens, bytes | answers | vector, bytes | text → image | image → text | 7B: tokens | 7B: vector |",
        "| --- |" + " ---: |" * 7,
    ]
    for name, figures in found.items():
        sizes = {(part, shape): _bytes(figures, name, part, shape) for part in ("token", "vector") for shape in SHAPES}
        told = {part: "**{}**" if chosen[part] == name else "{}" for part in ("token", "vector")}
        cells = [
            name,
            told["token"].format(f"{sizes['token', 'bundled']:,}"),
            told["token"].format(f"{figures['answers']:.1f}"),
            told["vector"].format(f"{sizes['vector', 'bundled']:,}"),
            told["vector"].format(f"{figures['text_to_image']:.1f}"),
            told["vector"].format(f"{figures['image_to_text']:.1f}"),
            f"{sizes['token', '7B']:,}",
            f"{sizes['vector', '7B']:,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    row, large = (_default_row(found, chosen, shape) for shape in SHAPES)
    in_bf16 = _default_row(found, {"token": "bf16", "vector": "bf16"}, "7B")
    file, small = (f"{result['files'][kind]:,.0f}" for kind in ("JPEG", "thumbnail"))
    return "\n".join(lines) + (
        f"\n\nA row with both defaults takes {row:,} bytes; its picture {file} as a JPEG, a thumbnail of half its side "
        f"{small}.\nAt the width of a 7B model a row takes {large:,} bytes; in bf16 it would be {in_bf16:,}.\n"
        f"`python runs/{result['command']}`, commit `{result['commit'][:7]}`; {result['scenes']:,} scenes asked about, "
        f"{result['gallery']:,} searched."
    )


def _default_row(found: dict[str, Any], chosen: dict[str, str], shape: str) -> int:
    return sum(_bytes(found[name], name, part, shape) for part, name in chosen.items())


def _bytes(figures: dict[str, Any], name: str, part: str, shape: str) -> int:
    """Of a row's tokens, or of its vector."""
    count, width = SHAPES[shape]
    if name == "float32":
        return 4 * width * (count if part == "token" else 1)
    return int(figures[f"{part}_bytes_{shape}"])


def newest(folder: Path) -> dict[str, Any] | None:
    """The result with the latest date."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("store-*.json"))]
    return max(found, key=lambda one: str(one["date"])) if found else None


def search_section(result: dict[str, Any] | None) -> str:
    """A column a size of store; empty where nothing has been measured."""
    if result is None:
        return ""
    sizes = result["sizes"]
    lines = ["|  |" + "".join(f" {one['rows']:,} rows |" for one in sizes), "| --- |" + " ---: |" * len(sizes)]
    for what, key, form in (
        ("rows added a second", "rows_per_s", "{:,.0f}"),
        ("bytes on disk over those of the rows", "disk_ratio", "{:.3f}"),
        ("search, median, ms", "p50_ms", "{:.1f}"),
        ("search, 99th percentile, ms", "p99_ms", "{:.1f}"),
        (f"recall@{result['top']} against all rows compared", "recall", "{:.4f}"),
        ("all rows compared, 50 queries at once, ms a query", "exact_ms", "{:,.0f}"),
        ("first search after opening, s", "first_search_s", "{:.2f}"),
        ("a row by name, ms", "get_ms", "{:.1f}"),
        ("first row by name after opening, s", "first_get_s", "{:.2f}"),
        ("first search among a tenth, s", "search_tenth_s", "{:.1f}"),
        ("search among a hundredth, s", "search_hundredth_s", "{:.1f}"),
        ("1,000 files moved, s", "move_s", "{:.1f}"),
        ("1,000 images deleted, s", "delete_s", "{:.1f}"),
        ("every byte verified, s", "verify_s", "{:.1f}"),
        ("duplicates found, s", "duplicates_s", "{:,.0f}"),
        ("memory to fill, MB", "fill_memory_mb", "{:,.0f}"),
        ("memory to search, MB", "search_memory_mb", "{:,.0f}"),
        ("memory to look after it, MB", "look_after_memory_mb", "{:,.0f}"),
    ):
        lines.append(f"| {what} |" + "".join(f" {form.format(one[key]) if key in one else '–'} |" for one in sizes))
    return "\n".join(lines) + (
        f"\n\n`python benchmarks/{result['command']}`, {result['date']}, commit `{result['commit'][:7]}`, "
        f"{result['machine']}."
    )


def main() -> int:
    write_section(DOCUMENT, "rows", rows_section(json.loads(ROWS.read_text("utf-8"))))
    write_section(DOCUMENT, "search", search_section(newest(BENCHMARKS)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
