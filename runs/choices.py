"""Measure what the paper leaves open, one setting at a time against those of the bundled model.

    python runs/choices.py               # 8 short trainings of 4 to 5 minutes on two cores; resumable

Each training is configs/emoji-world/fwd2bot.yaml with one setting changed and STEPS steps, on the same scenes in the
same order. Figures on validation scenes go to results/world/choices.json; docs/log.md says what was concluded.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from fwd2bot.provenance import provenance
from fwd2bot.training.card import last_figures

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "work/choices"
RESULT = ROOT / "results/world/choices.json"
STEPS = 100
CHOICES: dict[str, dict[str, Any]] = {
    "as bundled": {},
    "temperature 0.02": {"temperature": 0.02},
    "temperature 0.1": {"temperature": 0.1},
    "rank 8": {"rank": 8, "alpha": 16},
    "rank 64": {"rank": 64, "alpha": 128},
    "initial embeddings eos": {"initial_embeddings": "eos"},
    "token scale 1": {"token_scale": 1.0},
    "tokens before the final norm": {"tokens": "pre_norm"},
}


def train(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Train one choice, or go on with it; its figures and seconds."""
    config = yaml.safe_load((ROOT / "configs/emoji-world/fwd2bot.yaml").read_text())
    out = WORK / name.replace(" ", "-")
    config |= {"out": str(out), "steps": STEPS, "evaluate_every": STEPS, "validation": 512}
    config["compressor"] |= changes
    WORK.mkdir(parents=True, exist_ok=True)
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    subprocess.run([sys.executable, "-m", "fwd2bot", "train", path], check=True, cwd=ROOT)
    seconds = json.loads((out / "done.json").read_text())["seconds"]
    return {"changes": changes, "seconds": seconds, "figures": last_figures(out / "metrics.jsonl")}


def main() -> int:
    measured: dict[str, Any] = {}
    for name, changes in CHOICES.items():
        measured[name] = train(name, changes)
        RESULT.write_text(json.dumps({**provenance(), "steps": STEPS, "choices": measured}, indent=1) + "\n")
        figures = measured[name]["figures"]
        print(f"{name:30s}", {key: round(value, 1) for key, value in figures.items() if "mean" in key or "R@1" in key})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
