"""What the tables of docs/results.md are made of: trained models, each made and measured once.

    python runs/cells.py fwd2bot-16 average_pool-16        # some; runs/tab1.py and the others name what a table needs
    python runs/cells.py --list

A cell is configs/evidence.yaml with a few values changed, trained from one seed, and measured with each number of
tokens that it gives: 11 to 34 minutes of a core with bfloat16 instructions, one to three and a half hours of one
without. What is published without training is measured on the base as it is, in five; VisionZip and PruMerge, whose
papers have both, with training and without.
Models go to work/evidence/, figures to results/evidence/CELL-TOKENS-SEED.json. What is there is not made again, what
was stopped goes on, and a cell that fails is told at the end, the others being made all the same. Several processes may
run at once, each with a part of the cores (OMP_NUM_THREADS): what one is making, the others leave alone.
"""

import argparse
import fcntl
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from fwd2bot.errors import Fwd2BotError, InputError
from fwd2bot.provenance import provenance

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "work/evidence"
RESULTS = Path("results/evidence")
RECIPE = ROOT / "configs/evidence.yaml"
IMAGES = 200
CAPTION_PROMPT = "Describe the image."
"""LLaVA-1.5's own prompt is none that the world's models were taught."""
SIGN = "a sign that says"
GRID = (36, 16, 4)
Figures = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """What differs from the recipe, and the numbers of tokens that are measured.

    needs: configurations of what it starts from and the repository does not hold; each is trained once, before it.
    tower: nothing more is trained, and what is measured is the last of `needs`.
    untrained: nothing is; the method is put on the base.
    one_word: searched by the words that it says of a picture, too, as LLaVA is without training (Tab. 9, 10).
    blank: measured on a grey picture, too: guessing, where the share that is kept begins.
    """

    tokens: tuple[int, ...]
    compressor: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    tower: bool = False
    untrained: bool = False
    one_word: bool = False
    blank: bool = False


def rival(name: str, count: int, **more: Any) -> Cell:
    return Cell((count,), {"compressor": name, "num_tokens": count}, **more)


def untrained(name: str, count: int) -> Cell:
    """On the base as it was trained: what its projector puts out enters as it is."""
    settings = {"compressor": name, "num_tokens": count, "adapters": "none", "token_scale": 1.0}
    return Cell((count,), settings, untrained=True)


def nested(name: str, *counts: int, one_word: bool = False) -> Cell:
    """One training for several numbers of tokens."""
    settings = {"compressor": name, "num_tokens": max(counts), "token_counts": sorted(counts)}
    return Cell(counts, settings, one_word=one_word)


def ablation(compressor: dict[str, Any] | None = None, needs: tuple[str, ...] = (), **run: Any) -> Cell:
    """Fwd2Bot with 16 tokens, but for one choice."""
    return Cell((16,), compressor or {}, run, needs)


TOWER, LANGUAGE = "configs/emoji-world/tower.yaml", "configs/emoji-world/language.yaml"
LARGER = {
    "run": {"init": {"base": "work/emoji-world-larger/llava"}},
    "needs": (TOWER, *(f"configs/emoji-world-larger/{stage}.yaml" for stage in ("language", "projector", "llava"))),
}
"""On a base with a language model of twice the size."""
EACH = (
    "average_pool", "downsample", "prumerge", "prumerge_plus", "visionzip", "core", "token_packer", "token_shuffle",
    "quecc", "visual_context_compressor",
)  # fmt: skip
"""Methods with a training for each number of tokens."""
UNTRAINED = ("fastv", "v2drop", "illava", "text_interaction")
"""Methods that leave image rows out of a language model that was trained with all of them."""
BOTH_WAYS = ("visionzip", "prumerge")
"""Methods of `EACH` that are published without training, too."""
CELLS: dict[str, Cell] = {
    "identity": rival("identity", 144, one_word=True, blank=True),
    **{f"fwd2bot-{count}": rival("fwd2bot", count) for count in (32, 16, 4)},
    "fwd2bot-prefix": nested("fwd2bot", 4, 16, 32),
    **{
        f"{name}-{count}": rival(name, count, one_word=(name, count) == ("prumerge", 16))
        for name in EACH
        for count in GRID
    },
    "average_pool_unscaled-16": Cell((16,), {"compressor": "average_pool", "num_tokens": 16, "token_scale": 1.0}),
    "base": untrained("identity", 144),
    **{f"{name}-{count}": untrained(name, count) for name in UNTRAINED for count in GRID},
    **{f"{name}_untrained-{count}": untrained(name, count) for name in BOTH_WAYS for count in GRID},
    "matryoshka_multimodal": nested("matryoshka_multimodal", *GRID, one_word=True),
    "matryoshka_query": nested("matryoshka_query", *GRID, one_word=True),
    **{f"compress_only-{count}": rival("compress_only", count) for count in (16, 4)},
    "single_forward-16": rival("single_forward", 16),
    # It learns from texts alone, so it must see pictures as the base learnt them.
    "e5v": Cell((1,), {"compressor": "e5v", "num_tokens": 1, "token_scale": 1.0}, {"losses": {"contrastive": 1.0}}),
    "vlm2vec": Cell(
        (1,), {"compressor": "vlm2vec", "num_tokens": 1, "temperature": 0.02}, {"losses": {"contrastive": 1.0}}
    ),
    "discriminative": ablation(losses={"contrastive": 1.0}),
    "generative": ablation(losses={"autoregressive": 1.0}),
    "single_lora": ablation({"adapters": "single"}),
    # At the rates of the base's own training (configs/emoji-world/llava.yaml).
    "full_fine_tuning": ablation({"adapters": "full"}, learning_rate=0.0012, other_learning_rate=0.0004),
    "bidirectional": ablation({"attention": "bidirectional"}),
    "from_language_model": ablation(
        needs=(TOWER, LANGUAGE),
        init={"tower": "work/emoji-world/tower", "language": "work/emoji-world/language"},
        train_parts=["projector"],
    ),
    "clip": Cell((1,), needs=(TOWER,), tower=True),
    "larger_identity": rival("identity", 144, blank=True, **LARGER),
    **{f"larger_fwd2bot-{count}": rival("fwd2bot", count, **LARGER) for count in (32, 16, 4)},
}


def make(name: str, seed: int) -> None:
    """Train a cell from a seed and write its figures, as far as they are not there."""
    cell = CELLS[name]
    with claim(f"{name}-{seed}.making", wait=False) as ours:
        missing = [count for count in cell.tokens if not result_path(name, count, seed).exists()]
        if not ours or not missing:
            return
        trained = train(name, seed)
        data = world()
        for count in missing:
            write(name, count, seed, trained, measure(cell, trained, count, data))


@contextmanager
def claim(name: str, *, wait: bool = True) -> Iterator[bool]:
    """Whether this process alone has what bears the name, within the block; the system frees it of a dead one."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def train(name: str, seed: int) -> Path:
    """The folder of the model."""
    cell, out = CELLS[name], WORK / f"{name}-{seed}"
    needed = [trained_by(ROOT / config) for config in cell.needs]
    if cell.tower:
        return needed[-1]
    config = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    config |= {**cell.run, "out": str(out), "seed": seed}
    config["compressor"] |= cell.compressor
    if cell.untrained:
        return put_on_base(out, config)
    path = out.with_name(f"{out.name}.yaml")
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return trained_by(path)


def put_on_base(out: Path, config: dict[str, Any]) -> Path:
    """The folder of a method that has no weights of its own."""
    from fwd2bot.checkpoint import FORMAT, base_folder
    from fwd2bot.compressors.config import CompressorConfig

    base = os.path.relpath(base_folder(ROOT / config["init"]["base"]), out)
    out.mkdir(parents=True, exist_ok=True)
    told = {"fwd2bot": FORMAT, "base": base, "compressor": CompressorConfig.from_dict(config["compressor"]).to_dict()}
    (out / "config.json").write_text(json.dumps(told), encoding="utf-8")
    (out / "done.json").write_text(json.dumps({"steps": 0, "seconds": 0}), encoding="utf-8")
    return out


def trained_by(config: Path) -> Path:
    """The folder that a configuration trains into. Raises InputError where another recipe made what is there."""
    from fwd2bot.training.config import TrainConfig

    wanted = json.loads(json.dumps(TrainConfig.load(config).to_dict()))
    out = ROOT / wanted["out"]
    with claim(f"{out.name}.training"):
        if not (out / "done.json").exists():
            run("train", config)
    later = {one.name: one.default for one in fields(TrainConfig) if one.default is not MISSING}  # than its training
    made = json.loads(json.dumps(later)) | json.loads((out / "done.json").read_text("utf-8"))["config"]
    if changed := [one for one in wanted if one != "out" and made.get(one) != wanted[one]]:
        raise InputError(f"{out} was trained with another {changed[0]} than {config} says: remove it to train anew.")
    return out


def world() -> Path:
    """The test scenes as files of benchmarks, which show each with its near duplicate."""
    out = WORK / f"world-{IMAGES}"
    with claim(f"{out.name}.writing"):
        if not (out / "written").exists():
            run("world", "--out", out, "--images", IMAGES // 2, "--split", "test", "--benchmarks")
            (out / "written").touch()
    return out / "benchmarks"


def measure(cell: Cell, trained: Path, count: int, data: Path) -> Figures:
    """Figures of questions, captions, retrieval and compositions, as far as the method gives any.

    Answers and vectors are kept beside the model, so that this, too, goes on where it was stopped.
    """
    from fwd2bot.cli.output import ProgressLine
    from fwd2bot.evaluation.base import Benchmark, VectorBenchmark
    from fwd2bot.evaluation.runner import open_benchmarks, run_benchmarks
    from fwd2bot.evaluation.towers import load_any
    from fwd2bot.evaluation.world import WorldQuestions, WorldRetrieval

    model, out = load_any(str(trained)), trained / f"figures-{count}"
    method = None if cell.tower else model.compressor.method
    texts: list[Benchmark | VectorBenchmark] = []
    vectors: list[Benchmark | VectorBenchmark] = []
    if method is not None and method.answers:
        texts += [WorldQuestions(split, IMAGES) for split in ("test", "composition", *(["blank"] * cell.blank))]
        texts += open_benchmarks("coco_captions", data, CAPTION_PROMPT)
    if method is None or method.embeds_text or cell.one_word:
        vectors += [WorldRetrieval(IMAGES), *open_benchmarks("sugarcrepe", data)]
    told = {
        done["split"] if done["benchmark"] == "world" else done["benchmark"]: done["figures"]
        for done in run_benchmarks(
            model, [*texts, *vectors], out, num_tokens=None if cell.tower else count, progress=ProgressLine
        )
    }
    if texts and (signs := of_signs(texts[-1], out)):
        told["signs"] = signs
    told["cost"] = {"trained_millions": parameters(trained), "rows_a_layer": float(count)}
    if method is not None and model.compressor.inside:
        told["cost"]["rows_a_layer"] = rows_a_layer(model.compressor)
    if cell.one_word:
        told["one_word"] = {part: told.pop(part) for part in ("retrieval", "sugarcrepe")}
    return told


def rows_a_layer(compressor: Any) -> float:
    """Of the test scenes, whose pictures may have different numbers of rows."""
    import torch

    from fwd2bot.data.world import make_scene
    from fwd2bot.evaluation.world import pictures

    images = pictures([make_scene("test", number) for number in range(IMAGES)])
    parts = [images[start : start + 20] for start in range(0, IMAGES, 20)]
    with torch.inference_mode():
        rows = [compressor.rows_a_layer(compressor.compress(compressor.llava.pixels(part))) for part in parts]
    return sum(rows) / len(rows)


def of_signs(benchmark: Any, out: Path) -> dict[str, float] | None:
    """The captions once more, of those pictures alone in which a word is to be read, as in TextCaps."""
    from fwd2bot.evaluation.base import read_predictions
    from fwd2bot.evaluation.captions import caption_scores

    captions = read_predictions(benchmark, out / f"{benchmark.name}-{benchmark.split}.jsonl")
    read = [one for one in benchmark.captioned if any(SIGN in text for text in one.captions)]
    return caption_scores([captions[one.key] for one in read], [one.captions for one in read]) if read else None


def parameters(trained: Path) -> float:
    """How many were trained, in millions, as the last checkpoint has them; of what was put on the base, none."""
    from safetensors import safe_open

    checkpoint = trained / "checkpoint/last.safetensors"
    if not checkpoint.exists():
        return 0.0
    with safe_open(checkpoint, "pt") as file:
        names = [name for name in file.keys() if name.startswith("model.")]  # noqa: SIM118  # it is no mapping
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names) / 1e6


def write(name: str, count: int, seed: int, trained: Path, figures: Figures) -> None:
    from fwd2bot.evaluation.files import write_json

    done = json.loads((trained / "done.json").read_text(encoding="utf-8"))
    told = {"cell": name, "tokens": count, "seed": seed}
    told |= {one: done[one] for one in ("steps", "seconds", "precision") if one in done}
    write_json(result_path(name, count, seed), {**told, "images": IMAGES, **provenance(), "figures": figures})


def result_path(name: str, count: int, seed: int) -> Path:
    return ROOT / RESULTS / f"{name}-{count}-{seed}.json"


def results(name: str, count: int) -> Iterator[Figures]:
    """The figures of a cell, by seed."""
    for path in sorted((ROOT / RESULTS).glob(f"{name}-{count}-*.json")):
        figures: Figures = json.loads(path.read_text("utf-8"))["figures"]
        yield figures


def called(name: str, count: int) -> str:
    """A cell at one of its numbers of tokens, in words."""
    return f"`{name}`" if len(CELLS[name].tokens) == 1 else f"`{name}` with {count}"


def run(*arguments: object) -> str:
    """What a command of ours prints."""
    command = [sys.executable, "-m", "fwd2bot", *map(str, arguments)]
    return subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout


def make_all(jobs: Iterable[tuple[str, int]]) -> int:
    """Cells with their seeds, one after the other; what failed is told at the end, and in the exit code."""
    failed = []
    for name, seed in dict.fromkeys(jobs):
        try:
            make(name, seed)
        except (Fwd2BotError, subprocess.CalledProcessError) as error:
            failed.append(f"{name}, seed {seed}: {error}")
            print(f"failed: {failed[-1]}", file=sys.stderr)
    for one in failed:
        print(f"not made: {one}", file=sys.stderr)
    return 1 if failed else 0


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
    return make_all((name, seed) for seed in range(options.seeds) for name in options.cells)


if __name__ == "__main__":
    sys.exit(main())
