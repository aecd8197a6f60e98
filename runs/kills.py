"""Kill a training again and again, and compare what it ends with to a run that was never killed.

    python runs/kills.py --kills 50        # about ten minutes on two cores

A short training of a compressor on the bundled base, a checkpoint every other step, is killed (SIGKILL) at random
moments: while it starts, trains, takes figures or writes a checkpoint. Weights, optimizer state and figures at the end
must be bit-equal to those of the run that was left alone.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
SETTINGS: dict[str, Any] = {
    "stage": "compressor",
    "init": {"base": str(ROOT / "fwd2bot/bundled/emoji-world/base")},
    "compressor": {"compressor": "fwd2bot", "num_tokens": 4, "rank": 4, "alpha": 8, "template": "short"},
    "batch_size": 2,
    "validation": 4,
    "compile": False,
    "log_every": 1,
    "checkpoint_every": 2,
    "evaluate_every": 10,
}
TIMED = ("seconds", "rate", "utilisation")


def start(folder: Path, steps: int) -> subprocess.Popen[bytes]:
    """The training as a user starts it, on one thread: sums have one order."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, "out": str(folder / "out"), "steps": steps}))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fwd2bot", "train", str(path)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def ended(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Every tensor of the last checkpoint, and every figure but the times."""
    lines = [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()]
    figures = [{name: value for name, value in line.items() if name not in TIMED} for line in lines]
    return load_file(folder / "out/checkpoint/last.safetensors"), figures


def steps_done(folder: Path) -> int:
    """Lines of figures so far: they grow with every step."""
    path = folder / "out/metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def kill_once(folder: Path, steps: int, rng: random.Random) -> bool:
    """Start, wait for a random moment, kill; False where the training was over before. One in five is killed early."""
    process = start(folder, steps)
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0.0, 8.0))
    else:
        known = steps_done(folder)
        while process.poll() is None and steps_done(folder) <= known:
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 1.5))
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, done = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        assert start(whole, options.steps).wait() == 0
        while done < options.kills and kill_once(killed, options.steps, rng):
            done += 1
            print(f"killed {done} times, {steps_done(killed)} lines of figures", file=sys.stderr)
        assert start(killed, options.steps).wait() == 0
        (expected, figures), (found, other_figures) = ended(whole), ended(killed)
    different = [name for name in expected if not torch.equal(expected[name], found[name])]
    equal = expected.keys() == found.keys() and not different and figures == other_figures
    print(json.dumps({"kills": done, "steps": options.steps, "tensors": len(expected), "equal": equal}))
    return 0 if equal and done == options.kills else 1


if __name__ == "__main__":
    raise SystemExit(main())
