"""The bundled model under MTEB, on a task of our own world, and whether MTEB finds what we find.

    python runs/with_mteb.py        # an environment of its own (600 MB), then 50 scenes: a minute on two cores

The task is retrieval both ways on the COCO files that `fwd2bot world --benchmarks` writes, as MTEB defines such tasks.
Figures of MTEB, which rounds to five digits, and of `fwd2bot evaluate --benchmarks coco_retrieval` go to
results/plugins/mteb.json. Where two captions are equal, and so are their vectors, ours counts the wrong one first; so
there stands, too, what comes out where the right one is first. The exit code is 1 where MTEB is not between the two.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from own_environment import ROOT, python_with, run_inside

from fwd2bot.evaluation.caption_files import read_coco
from fwd2bot.evaluation.embedders import distinct

WORK = ROOT / "work/plugins"
RESULT = ROOT / "results/plugins/mteb.json"
PACKAGES = ("mteb>=2.20",)
RANKS = (1, 5, 10)
PAIRS = {
    f"{way}_R@{rank}": (task, f"{figure}_at_{rank}")
    for way, task, figure in (
        ("text_to_image", "WorldT2IRetrieval", "recall"),
        ("image_to_text", "WorldI2TRetrieval", "hit_rate"),
    )
    for rank in RANKS
}
"""Our figure, and MTEB's task and figure: of a picture's five captions one must be found."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-world")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--scenes", type=int, default=50, help="half as many as pictures; default: 50")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        print(json.dumps(under_mteb(options.model, options.tokens, options.inside)))
        return 0
    data = WORK / f"world-{options.scenes}"
    ours = [sys.executable, "-m", "fwd2bot"]
    if not (data / "benchmarks/coco/dataset_coco.json").exists():
        world = ["world", "--out", data, "--images", str(options.scenes), "--split", "test", "--benchmarks"]
        subprocess.run([*ours, *world], check=True, cwd=ROOT)
    python = python_with("mteb", PACKAGES)
    common = ("--model", options.model, "--tokens", options.tokens)
    out = WORK / f"ours-{options.scenes}-{options.tokens}"
    asked = ("evaluate", "--benchmarks", "coco_retrieval", "--data", data / "benchmarks", "--out", out)
    (own,) = json.loads(run_inside(python, "-m", "fwd2bot", *asked, *common, "--json"))
    theirs = json.loads(run_inside(python, __file__, "--inside", data / "benchmarks/coco", *common))
    images, texts = (np.load(out / f"coco_retrieval-test.{unit}.npy") for unit in ("images", "texts"))
    captioned = read_coco(data / "benchmarks/coco", "test")
    owners = np.array([number for number, one in enumerate(captioned) for _ in one.captions])
    _, places = distinct([caption for one in captioned for caption in one.captions])  # each text is kept once
    return compare(own, lucky(images, texts[places], owners), theirs)


def lucky(images: NDArray[np.float32], texts: NDArray[np.float32], owners: NDArray[np.int64]) -> dict[str, float]:
    """Recalls where of equal similarities the right one comes first."""
    right = np.arange(len(images))[:, None] == owners[None]  # (I, T)
    scores, found = images @ texts.T, {}
    for way, found_by, own in (("text_to_image", scores.T, right.T), ("image_to_text", scores, right)):
        best = np.where(own, found_by, -np.inf).max(axis=1, keepdims=True)
        before = ((found_by > best + 1e-6) & ~own).sum(axis=1)
        found |= {f"{way}_R@{rank}": 100.0 * float((before < rank).mean()) for rank in RANKS}
    return found


def compare(own: dict[str, Any], best: Mapping[str, float], theirs: dict[str, Any]) -> int:
    """All beside each other, printed and written; 1 where MTEB is not where it should be."""
    rows = {
        ours: (own["figures"][ours], best[ours], 100 * theirs[task][figure]) for ours, (task, figure) in PAIRS.items()
    }
    for name, (ours, most, found) in rows.items():
        print(f"{name:20} ours {ours:7.3f} to {most:7.3f}   MTEB {found:7.3f}")
    told = {key: own[key] for key in ("model", "fingerprint", "num_tokens", "images", "texts", "commit", "machine")}
    told |= {key: theirs[key] for key in ("version", "name", "revision")}
    sides = ("ours", "ours, equal ones in our favour", "mteb")
    figures = {who: {name: found[at] for name, found in rows.items()} for at, who in enumerate(sides)}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({**told, **figures}, indent=1) + "\n", encoding="utf-8")
    return int(any(not ours - 1e-3 <= found <= most + 1e-3 for ours, most, found in rows.values()))


def under_mteb(model: str, tokens: int, coco: Path) -> dict[str, Any]:
    """MTEB's figures by task; runs in its environment."""
    import mteb

    from fwd2bot.plugins.mteb import Fwd2BotEncoder

    encoder = Fwd2BotEncoder(model, num_tokens=tokens)
    tasks = [world_task(coco, text_to_image=True), world_task(coco, text_to_image=False)]
    results = mteb.evaluate(encoder, tasks, cache=None, show_progress_bar=False)
    found = {one.task_name: one.scores["test"][0] for one in results.task_results}
    kept = {figure for _, figure in PAIRS.values()}
    told = {name: {key: value for key, value in scores.items() if key in kept} for name, scores in found.items()}
    meta = encoder.mteb_model_meta
    return {**told, "version": f"mteb=={mteb.__version__}", "name": meta.name, "revision": meta.revision}


def world_task(coco: Path, *, text_to_image: bool) -> Any:
    """Our COCO files as a task of MTEB's."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata
    from PIL import Image

    captioned = read_coco(coco, "test")
    pictures = {"id": [f"p{number}" for number in range(len(captioned))]}
    pictures["image"] = [Image.open(one.image).convert("RGB") for one in captioned]
    named = [
        (f"p{number}", f"t{number}-{at}", text)
        for number, one in enumerate(captioned)
        for at, text in enumerate(one.captions)
    ]
    texts = {"id": [key for _, key, _ in named], "text": [text for *_, text in named]}
    relevant: dict[str, dict[str, int]] = {}
    for picture, text, _ in named:
        query, document = (text, picture) if text_to_image else (picture, text)
        relevant.setdefault(query, {})[document] = 1
    queries, corpus = (texts, pictures) if text_to_image else (pictures, texts)

    class WorldTask(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="WorldT2IRetrieval" if text_to_image else "WorldI2TRetrieval",
            description="Captions and pictures of a generated world.",
            dataset={"path": "local", "revision": "1"},
            type="Any2AnyRetrieval",
            category="t2i" if text_to_image else "i2t",
            modalities=["text", "image"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="recall_at_1",
        )

        def load_data(self, *_: Any, **__: Any) -> None:
            split = RetrievalSplitData(
                queries=Dataset.from_dict(queries),
                corpus=Dataset.from_dict(corpus),
                relevant_docs=relevant,
                top_ranked=None,
            )
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return WorldTask()


if __name__ == "__main__":
    sys.exit(main())
