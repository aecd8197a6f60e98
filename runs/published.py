"""Whether our scorers give LLaVA-1.5-13B the figures that were published, from its own published predictions.

    git clone https://github.com/haotian-liu/LLaVA && git -C LLaVA fetch origin pull/1199/head
    git clone https://github.com/AoiDragon/POPE
    python runs/published.py LLaVA POPE        # a minute

The pull request holds LLaVA's eval.zip unpacked: question files, the 13B model's predictions, what was sent to the
servers. Its rows are written in each benchmark's own layout, `fwd2bot score` reads them, and what it says goes beside
the published figures into results/published.json, as does whether our files for the servers are those that LLaVA sent.
Exit code 1 where one differs.

Labels are POPE's own, MMBench's are those of LLaVA's upload, ScienceQA's of its question file; of MME's two questions
about a picture the first is the true one. Labels of GQA, VQAv2, VizWiz and TextVQA are in neither repository.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from zipfile import ZipFile

from fwd2bot.provenance import provenance

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "results/published.json"
LLAVA, POPE = "32cebc38", "e3e39262"
EVAL = "playground/data/eval"
MMBENCH = "answers_upload/mmbench_dev_20230712/llava-v1.5-13b.xlsx"
PUBLISHED = {
    "pope": {"f1": 85.9, "random/f1": 87.1, "popular/f1": 86.2, "adversarial/f1": 84.5},
    "mme": {"perception": 1531.3},
    "mmbench": {"accuracy": 67.7},
    "scienceqa": {"image": 71.6},
}
"""LLaVA-1.5's paper (arXiv 2310.03744), tables 3 and 4."""
Table = list[list[str]]


class Clone:
    """A git repository's files as they were in one commit, below a folder."""

    def __init__(self, path: Path, commit: str, folder: str) -> None:
        self._path, self._commit, self._folder = path, commit, folder

    def read(self, name: str) -> bytes:
        place = f"{self._commit}:{self._folder}/{name}"
        shown = subprocess.run(["git", "-C", self._path, "show", place], capture_output=True)
        if shown.returncode:
            raise SystemExit(f"{self._path} has no {place}: clone and fetch it as this script's first lines say.")
        return shown.stdout

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.read(name).splitlines()]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llava", type=Path, help="a clone of haotian-liu/LLaVA with its pull request 1199")
    parser.add_argument("pope", type=Path, help="a clone of AoiDragon/POPE")
    options = parser.parse_args(arguments)
    llava, pope = Clone(options.llava, LLAVA, EVAL), Clone(options.pope, POPE, "output/coco")
    with tempfile.TemporaryDirectory() as folder:
        found = compare(llava, pope, Path(folder))
    RESULT.write_text(json.dumps({**found, "sources": {"LLaVA": LLAVA, "POPE": POPE}, **provenance()}, indent=1) + "\n")
    same = [*found["uploads"].values()]
    for benchmark, figures in found["figures"].items():
        for name, figure in figures.items():
            print(f"{benchmark:10} {name:15} published {figure['published']:8.1f}   here {figure['here']:8.2f}")
            same.append(round(figure["here"], 1) == figure["published"])
    for name, equal in found["uploads"].items():
        print(f"{name:10} the file for the server is {'the one' if equal else 'not the one'} that LLaVA sent")
    return 0 if all(same) else 1


def compare(llava: Clone, pope: Clone, folder: Path) -> dict[str, Any]:
    """{"figures": benchmark -> figure -> published and here, "uploads": benchmark -> whether they are equal}."""
    write_pope(pope, folder / "pope")
    write_mme(llava, folder / "mme")
    write_scienceqa(llava, folder / "scienceqa")
    write_mmbench(llava, folder / "mmbench")
    write_vizwiz(llava, folder / "vizwiz")
    predictions = {
        "pope": llava.lines("pope/answers/llava-v1.5-13b.jsonl"),
        "mme": llava.lines("MME/answers/llava-v1.5-13b.jsonl"),
        "mmbench": llava.lines("mmbench/answers/mmbench_dev_20230712/llava-v1.5-13b.jsonl"),
        "scienceqa": scienceqa_predictions(llava),
        "vizwiz": llava.lines("vizwiz/answers/llava-v1.5-13b.jsonl"),
    }
    for name, rows in predictions.items():
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    figures = {}
    for name, published in PUBLISHED.items():
        here = json.loads(score(folder, name))["figures"]
        figures[name] = {figure: {"published": value, "here": here[figure]} for figure, value in published.items()}
    for name, split in (("mmbench", "dev"), ("vizwiz", "test")):
        score(folder, name, "--split", split, "--submission", folder / "sent")
    uploads = {
        "mmbench": cells((folder / "sent/mmbench_dev.xlsx").read_bytes()) == cells(llava.read(f"mmbench/{MMBENCH}")),
        "vizwiz": json.loads((folder / "sent/vizwiz_test.json").read_bytes())
        == json.loads(llava.read("vizwiz/answers_upload/llava-v1.5-13b.json")),
    }
    return {"figures": figures, "uploads": uploads}


def score(folder: Path, name: str, *more: str | Path) -> str:
    """What `fwd2bot score --json` says."""
    told = ["score", name, "--data", folder / name, "--predictions", folder / f"{name}.jsonl", "--json", *more]
    return subprocess.run(
        [sys.executable, "-m", "fwd2bot", *told], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ).stdout


# Each benchmark's own layout.


def write_pope(pope: Clone, folder: Path) -> None:
    folder.mkdir()
    for name in ("random", "popular", "adversarial"):
        (folder / f"coco_pope_{name}.json").write_bytes(pope.read(f"coco_pope_{name}.json"))


def write_mme(llava: Clone, folder: Path) -> None:
    pictures: dict[str, list[str]] = defaultdict(list)
    for row in llava.lines("MME/llava_mme.jsonl"):
        pictures[row["image"]].append(row["text"].split("\n")[0])
    for image, (true, untrue) in pictures.items():
        subtask, _, name = image.partition("/")
        file = folder / subtask / Path(name).name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        file.with_suffix(".txt").write_text(f"{true}\tYes\n{untrue}\tNo\n")


def write_scienceqa(llava: Clone, folder: Path) -> None:
    folder.mkdir()
    problems = {}
    for row in json.loads(llava.read("scienceqa/llava_test_CQM-A.json")):
        asked, answer = (turn["value"] for turn in row["conversations"])
        choices = [line for line in asked.split("\n") if line[:3] in {f"{letter}. " for letter in "ABCDE"}]
        problems[row["id"]] = {
            "question": asked,
            "choices": choices,
            "answer": "ABCDE".index(answer),
            "hint": "",
            "image": row.get("image"),
            "subject": "",
        }
    (folder / "problems.json").write_text(json.dumps(problems))
    (folder / "pid_splits.json").write_text(json.dumps({"test": [*problems]}))


def scienceqa_predictions(llava: Clone) -> list[dict[str, str]]:
    """The answers stand in LLaVA's scored file; that of answers alone has but one."""
    scored: Mapping[str, list[dict[str, str]]] = json.loads(llava.read("scienceqa/answers/llava-v1.5-13b_output.jsonl"))
    return [{"question_id": row["question_id"], "text": row["pred"]} for rows in scored.values() for row in rows]


def write_mmbench(llava: Clone, folder: Path) -> None:
    folder.mkdir()
    head, *rows = cells(llava.read(f"mmbench/{MMBENCH}"))
    text = StringIO(newline="")
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow([*head, "hint", "image", "category", "l2-category"])
    writer.writerows([*row, "", "", "", ""] for row in rows)
    (folder / "mmbench_dev_20230712.tsv").write_text(text.getvalue())


def write_vizwiz(llava: Clone, folder: Path) -> None:
    folder.mkdir()
    rows = [{"image": row["image"], "question": row["text"]} for row in llava.lines("vizwiz/llava_test.jsonl")]
    (folder / "test.json").write_text(json.dumps(rows))


def cells(content: bytes) -> Table:
    """The first sheet of an .xlsx file whose texts stand within their cells."""
    with ZipFile(BytesIO(content)) as archive:
        root = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))

    def named(element: ElementTree.Element, *names: str) -> Iterable[ElementTree.Element]:
        return (part for part in element.iter() if part.tag.rpartition("}")[2] in names)

    return [["".join(part.text or "" for part in named(cell, "t", "v")) for cell in named(row, "c")]
            for row in named(root, "row")]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
