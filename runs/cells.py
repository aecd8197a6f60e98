"""What the tables of docs/results.md are made of: trained models, each made and measured once.

    python runs/cells.py fwd2bot-16 average_pool-16        # some; runs/tab1.py and the others name what a table needs
    python runs/cells.py --list

A cell is configs/evidence.yaml with a few values changed, trained from one seed, and measured with each number of
tokens that it gives: about eight minutes and two for each number, on two cores. Trained models go to work/evidence/,
figures to results/evidence/CELL-TOKENS-SEED.json. What is there is not made again; what was stopped goes on.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fwd2bot.provenance import provenance

ROOT = Path(__file__).resolve().parent.parent
WORK = Path("work/evidence")
RESULTS = Path("results/evidence")
RECIPE = ROOT / "configs/evidence.yaml"
IMAGES = 200
BENCHMARKS = (("coco_captions", "test", ("--prompt", "Describe the image.")), ("sugarcrepe", "retrieval", ()))
"""Of methods that answer, and that embed text. LLaVA-1.5's own prompt is none that the world's models were taught."""
GRID = (36, 16, 4)
Figures = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """What differs from the recipe, and the numbers of tokens that are measured."""

    tokens: tuple[int, ...]
    compressor: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)


def rival(name: str, count: int) -> Cell:
    return Cell((count,), {"compressor": name, "num_tokens": count})


def nested(name: str, *counts: int) -> Cell:
    """One training for several numbers of tokens."""
    return Cell(counts, {"compressor": name, "num_tokens": max(counts), "token_counts": sorted(counts)})


def ablation(compressor: dict[str, Any] | None = None, **run: Any) -> Cell:
    """Fwd2Bot with 16 tokens, but for one choice."""
    return Cell((16,), compressor or {}, run)


EACH = (
    "average_pool", "downsample", "prumerge", "prumerge_plus", "visionzip", "core", "token_packer", "token_shuffle",
    "quecc", "fastv", "v2drop", "illava", "text_interaction", "visual_context_compressor",
)  # fmt: skip
"""Methods with a training for each number of tokens."""
CELLS: dict[str, Cell] = {
    "identity": Cell((144,), {"compressor": "identity", "num_tokens": 144}),
    **{f"fwd2bot-{count}": rival("fwd2bot", count) for count in (32, 16, 4)},
    "fwd2bot-prefix": nested("fwd2bot", 4, 16, 32),
    **{f"{name}-{count}": rival(name, count) for name in EACH for count in GRID},
    "matryoshka_multimodal": nested("matryoshka_multimodal", *GRID),
    "matryoshka_query": nested("matryoshka_query", *GRID),
    **{f"compress_only-{count}": rival("compress_only", count) for count in (16, 4)},
    "single_forward-16": rival("single_forward", 16),
    "e5v": Cell((1,), {"compressor": "e5v", "num_tokens": 1}, {"losses": {"contrastive": 1.0}}),
    "vlm2vec": Cell(
        (1,), {"compressor": "vlm2vec", "num_tokens": 1, "temperature": 0.02}, {"losses": {"contrastive": 1.0}}
    ),
    "discriminative": ablation(losses={"contrastive": 1.0}),
    "generative": ablation(losses={"autoregressive": 1.0}),
    "single_lora": ablation({"adapters": "single"}),
    "full_fine_tuning": ablation({"adapters": "full"}, learning_rate=0.0002, other_learning_rate=0.0001),
    "bidirectional": ablation({"attention": "bidirectional"}),
    "from_language_model": ablation(
        init={"tower": "work/emoji-world/tower", "language": "work/emoji-world/language"}, train_parts=["projector"]
    ),
}


def make(name: str, seed: int) -> None:
    """Train a cell from a seed and write its figures, as far as they are not there."""
    cell = CELLS[name]
    missing = [count for count in cell.tokens if not result_path(name, count, seed).exists()]
    if not missing:
        return
    trained = train(name, seed)
    data = world()
    for count in missing:
        write(name, count, seed, measure(trained, count, data))


def train(name: str, seed: int) -> Path:
    """The folder of the trained model."""
    cell, out = CELLS[name], WORK / f"{name}-{seed}"
    config = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    config |= {**cell.run, "out": str(out), "seed": seed}
    config["compressor"] |= cell.compressor
    WORK.mkdir(parents=True, exist_ok=True)
    path = out.with_name(f"{out.name}.yaml")
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    run("train", path)
    return out


def world() -> Path:
    """The test scenes as files of benchmarks."""
    out = WORK / f"world-{IMAGES}"
    if not (out / "written").exists():
        run("world", "--out", out, "--images", IMAGES, "--split", "test", "--benchmarks")
        (out / "written").touch()
    return out / "benchmarks"


def measure(trained: Path, count: int, data: Path) -> dict[str, Any]:
    """Figures of the world, and of captions and, where the method embeds text, compositions."""
    common = ("--model", trained, "--tokens", count, "--out", trained / f"figures-{count}", "--json")
    (of_world,) = json.loads(run("evaluate", "--suite", "world", "--images", IMAGES, *common))
    found: dict[str, Any] = of_world["figures"]
    for benchmark, of, asked in BENCHMARKS:
        if of in found:
            (told,) = json.loads(run("evaluate", "--benchmarks", benchmark, "--data", data, *asked, *common))
            found[benchmark] = told["figures"]
    return found


def write(name: str, count: int, seed: int, figures: dict[str, Any]) -> None:
    done = json.loads((WORK / f"{name}-{seed}" / "done.json").read_text(encoding="utf-8"))
    told = {"cell": name, "tokens": count, "seed": seed, "steps": done["steps"], "seconds": done["seconds"]}
    path = result_path(name, count, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**told, **provenance(), "figures": figures}, indent=1) + "\n", encoding="utf-8")


def result_path(name: str, count: int, seed: int) -> Path:
    return ROOT / RESULTS / f"{name}-{count}-{seed}.json"


def results(name: str, count: int) -> Iterator[Figures]:
    """The figures of a cell, by seed."""
    for path in sorted((ROOT / RESULTS).glob(f"{name}-{count}-*.json")):
        figures: Figures = json.loads(path.read_text("utf-8"))["figures"]
        yield figures


def run(*arguments: object) -> str:
    """What a command of ours prints."""
    command = [sys.executable, "-m", "fwd2bot", *map(str, arguments)]
    return subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", metavar="CELL")
    parser.add_argument("--seeds", type=int, default=1, help="so many trainings of each, from seed 0 on")
    parser.add_argument("--list", action="store_true", help="print the cells")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(CELLS))
        return 0
    if unknown := [name for name in options.cells if name not in CELLS]:
        parser.error(f"there is no cell {unknown[0]!r}: --list names them")
    for seed in range(options.seeds):
        for name in options.cells:
            make(name, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
