"""The bundled model under lmms-eval, on POPE's files of our own world, and whether it finds what we find.

    python runs/with_lmms_eval.py        # an environment of its own (250 MB), then 50 scenes: a minute on two cores

Tasks are runs/lmms_tasks/, on the files that `fwd2bot world --benchmarks` writes: POPE with lmms-eval's own prompt and
metrics, and the same questions without the sentence behind them, which the world's models were not taught. Answers are
compared with those of `fwd2bot evaluate --benchmarks pope`, to the letter, and metrics with those of `fwd2bot score` on
the same answers. Both go to results/plugins/lmms_eval.json; the exit code is 1 where one differs.

Of what lmms-eval asks for only that is installed which it imports before it loads a model: the rest is for other models
and tasks, and torchvision has no build that goes with the CPU build of torch.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from own_environment import ROOT, python_with, run_inside

WORK = ROOT / "work/plugins"
DATA, FOUND = WORK / "pope", WORK / "lmms_eval"
RESULT = ROOT / "results/plugins/lmms_eval.json"
ALONE = ("lmms-eval==0.7.3",)
PACKAGES = (
    "accelerate", "datasets", "dill", "evaluate", "jinja2", "loguru", "pytablewriter", "pytz", "sacrebleu", "tenacity",
    "tqdm",
)  # fmt: skip
"""What lmms-eval itself imports."""
KINDS = {"random": 10_000_000, "popular": 20_000_000, "adversarial": 0}
"""POPE's files, and what LLaVA adds to their ids."""
FIGURES = {"accuracy": "pope_accuracy,none", "f1": "pope_f1_score,none"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-world")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--scenes", type=int, default=50)
    options = parser.parse_args(arguments)
    write_data(options.scenes)
    python = python_with("lmms_eval", PACKAGES, ALONE)
    out = WORK / f"ours-{options.scenes}-{options.tokens}"
    asked = ("evaluate", "--benchmarks", "pope", "--data", WORK, "--out", out, "--tokens", options.tokens)
    (own,) = json.loads(run_inside(python, "-m", "fwd2bot", *asked, "--model", options.model, "--json"))
    theirs = under_lmms_eval(python, options.model, options.tokens)
    lines = map(json.loads, (out / "pope-test.jsonl").read_text("utf-8").splitlines())
    answers = {int(line["question_id"]): line["text"] for line in lines}
    scored = {way: score(python, way) for way in ("pope", "plain")}
    return compare(own, theirs, answers, scored)


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
        "--tasks", ",".join(f"world_{way}_{kind}" for way in ("pope", "plain") for kind in KINDS),
        "--include_path", ROOT / "runs/lmms_tasks", "--batch_size", 32, "--output_path", FOUND, "--log_samples",
    )  # fmt: skip
    print(told, file=sys.stderr)
    (path,) = FOUND.rglob("*_results.json")
    figures: dict[str, Any] = json.loads(path.read_text("utf-8"))["results"]
    return figures


def answers_of(way: str) -> dict[int, str]:
    """What the model answered under lmms-eval, by LLaVA's ids."""
    found = {}
    for kind, more in KINDS.items():
        (path,) = FOUND.rglob(f"*_samples_world_{way}_{kind}.jsonl")
        questions = [json.loads(line) for line in (DATA / f"coco_pope_{kind}.json").read_text("utf-8").splitlines()]
        for line in path.read_text("utf-8").splitlines():
            sample = json.loads(line)
            found[more + questions[sample["doc_id"]]["question_id"]] = sample["filtered_resps"]
    return found


def score(python: Path, way: str) -> dict[str, float]:
    """Our figures of those answers."""
    path = FOUND / f"{way}.jsonl"
    rows = [json.dumps({"question_id": key, "text": text}) for key, text in answers_of(way).items()]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    told = run_inside(python, "-m", "fwd2bot", "score", "pope", "--data", DATA, "--predictions", path, "--json")
    figures: dict[str, float] = json.loads(told)["figures"]
    return figures


def compare(
    own: dict[str, Any], theirs: dict[str, Any], answers: Mapping[int, str], scored: Mapping[str, Mapping[str, float]]
) -> int:
    """Answers and metrics beside each other, printed and written; 1 where they differ."""
    same = sum(answers[key] == text for key, text in answers_of("pope").items())
    print(f"{same} of {len(answers)} answers are those of fwd2bot evaluate")
    rows = {
        f"{kind}/{figure}": (scored["plain"][f"{kind}/{figure}"], 100 * theirs[f"world_plain_{kind}"][name])
        for kind in KINDS
        for figure, name in FIGURES.items()
    }
    for name, (ours, found) in rows.items():
        print(f"{name:22} ours {ours:7.3f}   lmms-eval {found:7.3f}")
    farthest = max(abs(ours - found) for ours, found in rows.values())
    told = {key: own[key] for key in ("model", "fingerprint", "num_tokens", "commit", "machine")}
    told |= {"version": ALONE[0], "answers": len(answers), "answers_alike": same, "farthest_apart": farthest}
    figures = {who: {name: pair[at] for name, pair in rows.items()} for at, who in enumerate(("ours", "lmms_eval"))}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({**told, **figures}, indent=1) + "\n", encoding="utf-8")
    return int(same < len(answers) or farthest > 1e-6)


if __name__ == "__main__":
    sys.exit(main())
