"""How the score grows with training: validation scores of the long trainings, as they were written on the way.

    python runs/curves.py        # after runs/train_emoji_world.sh; seconds

Scores by step go to results/world/curves.json, from metrics.jsonl of each training; `tools/results.py` makes a table.
"""

import json
import sys
from typing import Any

from cells import ROOT

WORK = ROOT / "work/emoji-world"
RESULT = ROOT / "results/world/curves.json"
TRAININGS = ("fixed-16", "average_pool-16", "fixed-4", "average_pool-4")
SCORE = "val/mean"


def curve(name: str) -> dict[str, Any]:
    """Of a training: where it comes from, and its scores by step."""
    done = json.loads((WORK / name / "done.json").read_text("utf-8"))
    lines = map(json.loads, (WORK / name / "metrics.jsonl").read_text("utf-8").splitlines())
    config = done["config"]
    return {
        **{key: done[key] for key in ("commit", "command", "machine")},
        **{key: config[key] for key in ("batch_size", "validation")},
        "scores": {str(line["step"]): line[SCORE] for line in lines if SCORE in line},
    }


def main() -> int:
    from fwd2bot.evaluation.files import write_json

    if missing := [name for name in TRAININGS if not (WORK / name / "done.json").exists()]:
        print(f"{missing[0]} is not trained: run runs/train_emoji_world.sh first", file=sys.stderr)
        return 1
    write_json(RESULT, {name: curve(name) for name in TRAININGS})
    return 0


if __name__ == "__main__":
    sys.exit(main())
