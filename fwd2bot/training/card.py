"""Model cards: written from what a finished run knows, scores put in later from the evaluation's results.

python -m fwd2bot.training.card FOLDER results/world/*.json
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fwd2bot.errors import Fwd2BotError, InputError

BEGIN, END = "<!-- scores: python -m fwd2bot.training.card -->", "<!-- end of scores -->"
_WHAT = {
    "tower": "CLIP tower that sees the generated world of emoji scenes",
    "language": "language model that speaks about the generated world of emoji scenes, trained on text alone",
    "projector": "LLaVA put together from a tower and a language model, its projector trained and nothing else",
    "identity": "LLaVA that reads every visual token",
    "compressor": "LLaVA with the compressor `{compressor}`",
}

_UNKNOWN = "not known"


def write_card(folder: Path, done: Mapping[str, Any], figures: Mapping[str, float]) -> Path:
    """README.md of a trained folder. `done` is what its done.json holds, `figures` the last on validation scenes."""
    config = done["config"]
    name = config["compressor"].get("compressor", "fwd2bot")
    what = _WHAT["identity" if name == "identity" else config["stage"]].format(compressor=name)
    stages = _stages(folder, done)
    files = [str(source["path"]) for source in config["data"].get("sources", [])]
    ours = _UNKNOWN not in stages and not files
    origin = "; nothing of it comes from elsewhere" if ours else ""
    data = (
        f"On the records of {', '.join(f'`{file}`' for file in files)}."
        if files
        else "On scenes that the package makes itself (`fwd2bot.data.world`; the sprites are Noto Color Emoji), each "
        "seen once."
    )
    text = f"""---
{"license: apache-2.0" + chr(10) if ours else ""}library_name: fwd2bot
---

# {folder.resolve().name}

A {what}. Trained with fwd2bot{origin}.

## How it was trained

{stages}

{data}
Machine of the last stage: {done["machine"]}, matrix products in {done["precision"]}. Its command: `{done["command"]}`.
Its configuration:

```yaml
{yaml.safe_dump(_told(config), sort_keys=False, width=110).strip()}
```

## On {"records held out" if files else "validation scenes"}, at the end of training

{_table(["figure", "value"], [[name, f"{value:.1f}"] for name, value in figures.items()])}

## Scores

{BEGIN}
Not taken yet.
{END}
"""
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def last_figures(metrics: Path) -> dict[str, float]:
    """The newest validation figures of a run's metrics.jsonl."""
    for line in reversed(metrics.read_text(encoding="utf-8").splitlines()):
        values = json.loads(line)
        found = {name.removeprefix("val/"): value for name, value in values.items() if name.startswith("val/")}
        if found:
            return found
    return {}


def add_scores(folder: Path, results: Sequence[Mapping[str, Any]]) -> Path:
    """Put the evaluation's results, each with a `name`, into the card, in place of those that it held.

    Raises InputError where there is no card, or it has no place for scores.
    """
    path = folder / "README.md"
    if not path.exists():
        raise InputError(f"{folder} has no README.md: a finished training writes one.")
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.find(END) < text.find(BEGIN):
        raise InputError(f"{path} has no place for scores: it lacks the lines {BEGIN} and {END}.")
    before, _, rest = text.partition(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{scores(results)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return path


def scores(results: Sequence[Mapping[str, Any]]) -> str:
    """Tables of what `fwd2bot.evaluation.world` writes, in the order given: a line a result, then match by kind."""
    lines = [
        [
            str(one["name"]),
            str(one["num_tokens"] or ""),
            *(_figure(one, *place) for place in _PLACES),
            f"`{one['commit'][:9]}`",
        ]
        for one in results
    ]
    titles = ["result", "tokens", "test", "composition", "blank", "text to image R@1", "image to text R@1", "commit"]
    asked = [one for one in results if "test" in one["figures"]]
    kinds = dict.fromkeys(kind for one in asked for kind in one["figures"]["test"] if kind != "mean")
    by_kind = [[kind, *(_figure(one, "test", kind) for one in asked)] for kind in kinds]
    heads = ["kind", *(str(one["name"]) for one in asked)]
    images = " or ".join(sorted({f"{one['images']:,}" for one in asked}))
    gallery = " or ".join(sorted({f"{one['gallery']:,}" for one in results}))
    return f"""\
Exact match in per cent, the mean over kinds of questions, on {images} scenes of the split test and of the split
composition (things at places where training never had them), and with a blank picture, which is what guessing gives.
Retrieval: recall at 1 in per cent over {gallery} pictures, half of them near duplicates, with five captions each.

{_table(titles, lines)}

By kind of question, on the split test:

{_table(heads, by_kind)}"""


_PLACES = (
    ("test", "mean"),
    ("composition", "mean"),
    ("blank", "mean"),
    ("retrieval", "text_to_image_R@1"),
    ("retrieval", "image_to_text_R@1"),
)


def _figure(result: Mapping[str, Any], part: str, name: str) -> str:
    value = result["figures"].get(part, {}).get(name)
    return "" if value is None else f"{value:.1f}"


def _stages(folder: Path, done: Mapping[str, Any]) -> str:
    """A table of the stages that led here, the first first."""
    rows: dict[str, list[str]] = {}
    _trace(folder.resolve().name, done, rows)
    return _table(["stage", "kind", "steps", "scenes a step", "minutes", "commit"], list(rows.values()))


def _trace(name: str, done: Mapping[str, Any], rows: dict[str, list[str]]) -> None:
    config = done["config"]
    for place in config["init"].values():
        path = Path(place) / "done.json"
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if "config" in earlier:
            _trace(Path(place).name, earlier, rows)
        else:
            rows.setdefault(Path(place).name, [Path(place).name, _UNKNOWN, "", "", "", ""])
    minutes, commit = f"{done['seconds'] / 60:.0f}", f"`{done['commit'][:9]}`"
    rows[name] = [name, config["stage"], str(done["steps"]), str(config["batch_size"]), minutes, commit]


def _told(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without what is empty."""
    return {name: value for name, value in config.items() if value not in ({}, [], ())}


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Merge results into a card."""
    parser = argparse.ArgumentParser(prog="python -m fwd2bot.training.card", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("results", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    try:
        print(add_scores(options.folder, [_result(path) for path in options.results]))
    except Fwd2BotError as error:
        print(f"fwd2bot: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _result(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a result: {error}.") from error
    if not isinstance(content, dict) or not {"model", "num_tokens", "figures", "commit"} <= content.keys():
        raise InputError(f"{path} is no result of fwd2bot.evaluation.world.")
    return {**content, "name": path.stem}


if __name__ == "__main__":
    sys.exit(main())
