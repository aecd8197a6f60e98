"""The bundled model under lmms-eval, on POPE's files of our own world, and whether it finds what we find.

    python runs/with_lmms_eval.py        # an environment of its own (250 MB), then 50 scenes: a minute on two cores

Tasks are runs/lmms_tasks/: lmms-eval's own prompt and metrics of POPE on the files that `fwd2bot world --benchmarks`
writes. Figures of lmms-eval and of `fwd2bot evaluate --benchmarks pope` go to results/plugins/lmms_eval.json. The exit
code is 1 where one differs. Of what lmms-eval asks for only that is installed which it imports before it loads a model:
the rest is for other models and tasks, and torchvision has no build that goes with the CPU build of torch.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from own_environment import ROOT, python_with, run_inside

WORK = ROOT / "work/plugins"
DATA, FOUND = WORK / "pope", WORK / "lmms_eval"
RESULT = ROOT / "results/plugins/lmms_eval.json"
ALONE = ("lmms-eval==0.7.3",)
PACKAGES = (
    "accelerate", "datasets", "dill", "evaluate", "jinja2", "loguru", "pytz", "sacrebleu", "tenacity", "tqdm",
)  # fmt: skip
"""What lmms-eval imports before it knows a model."""
KINDS = ("random", "popular", "adversarial")
PAIRS = {
    f"{kind}/{ours}": (f"world_pope_{kind}", f"pope_{theirs},none")
    for kind in KINDS
    for ours, theirs in (("accuracy", "accuracy"), ("f1", "f1_score"))
}
"""Our figure, and lmms-eval's task and figure."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-world")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--scenes", type=int, default=50)
    options = parser.parse_args(arguments)
    write_data(options.scenes)
    python = python_with("lmms_eval", PACKAGES, ALONE)
    asked = (
        "evaluate",
        "--benchmarks",
        "pope",
        "--data",
        WORK,
        "--out",
        WORK / f"ours-{options.scenes}-{options.tokens}",
    )
    (own,) = json.loads(
        run_inside(python, "-m", "fwd2bot", *asked, "--model", options.model, "--tokens", options.tokens, "--json")
    )
    return compare(own, under_lmms_eval(python, options.model, options.tokens))


def write_data(scenes: int) -> None:
    """POPE's files of the world, where the tasks look for them."""
    world = WORK / f"world-{scenes}"
    if not (world / "benchmarks/pope").exists():
        command = ["world", "--out", world, "--images", str(scenes), "--split", "test", "--benchmarks"]
        subprocess.run([sys.executable, "-m", "fwd2bot", *command], check=True, cwd=ROOT)
    shutil.rmtree(DATA, ignore_errors=True)
    shutil.copytree(world / "benchmarks/pope", DATA)


def under_lmms_eval(python: Path, model: str, tokens: int) -> dict[str, Any]:
    """lmms-eval's figures by task."""
    shutil.rmtree(FOUND, ignore_errors=True)
    told = run_inside(
        python, "-m", "lmms_eval",
        "--model", "fwd2bot", "--model_args", f"pretrained={model},num_tokens={tokens}",
        "--tasks", ",".join(f"world_pope_{kind}" for kind in KINDS), "--include_path", ROOT / "runs/lmms_tasks",
        "--batch_size", 32, "--output_path", FOUND,
    )  # fmt: skip
    print(told, file=sys.stderr)
    (path,) = FOUND.rglob("*results.json")
    figures: dict[str, Any] = json.loads(path.read_text("utf-8"))["results"]
    return figures


def compare(own: dict[str, Any], theirs: dict[str, Any]) -> int:
    """Both beside each other, printed and written; 1 where they differ."""
    rows = {ours: (own["figures"][ours], 100 * theirs[task][figure]) for ours, (task, figure) in PAIRS.items()}
    for name, (mine, found) in rows.items():
        print(f"{name:22} ours {mine:7.3f}   lmms-eval {found:7.3f}")
    farthest = max(abs(mine - found) for mine, found in rows.values())
    told = {key: own[key] for key in ("model", "fingerprint", "num_tokens", "samples", "commit", "machine")}
    figures = {"ours": own["figures"], "lmms_eval": {name: found for name, (_, found) in rows.items()}}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(
        json.dumps({**told, "version": ALONE[0], **figures, "farthest_apart": farthest}, indent=1) + "\n",
        encoding="utf-8",
    )
    return int(farthest > 1e-6)


if __name__ == "__main__":
    sys.exit(main())
