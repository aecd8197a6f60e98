"""Small official files of the benchmarks, written by hand."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from fwd2bot.evaluation.base import Benchmark
from fwd2bot.evaluation.catalogue import CATALOGUE, open_benchmark
from fwd2bot.evaluation.yes_no import MME

WORD = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
QUESTIONS = [name for name, place in CATALOGUE.items() if re.search(r"\.(gqa|vqa|choice|yes_no):", place)]
"""The benchmarks of questions."""


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def texts(benchmark: Benchmark) -> dict[str, str]:
    return {sample.key: sample.text for sample in benchmark.samples()}


def people(*answers: str) -> list[dict[str, Any]]:
    return [{"answer": answer, "answer_confidence": "yes", "answer_id": n} for n, answer in enumerate(answers, 1)]


def gqa_entry(answer: str, structural: str, semantic: str, balanced: bool = True) -> dict[str, Any]:
    types = {"structural": structural, "semantic": semantic, "detailed": "x"}
    return {"question": "Is it Red?", "imageId": "n7", "answer": answer, "isBalanced": balanced, "types": types}


def vqav2(folder: Path, answers: dict[int, list[dict[str, Any]]], types: tuple[str, ...] = ("other",)) -> Benchmark:
    asked = [{"question_id": key, "image_id": 9, "question": "What is It?"} for key in answers]
    write(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": asked})
    rows = [
        {"question_id": key, "question_type": "what is", "answer_type": types[n % len(types)], "answers": ten}
        for n, (key, ten) in enumerate(answers.items())
    ]
    write(folder / "v2_mscoco_val2014_annotations.json", {"annotations": rows})
    return open_benchmark("vqav2", folder)


def vizwiz_row(image: str, answers: list[str], kind: str) -> dict[str, Any]:
    given = [{"answer": answer, "answer_confidence": "yes"} for answer in answers]
    return {"image": image, "question": "what IS this? Tell", "answers": given, "answer_type": kind, "answerable": 1}


def textvqa(folder: Path, name: str = "textvqa") -> Benchmark:
    rows = [
        {"question_id": 5, "image_id": "ab12", "question": "what Brand?", "answers": ["Acme's"] * 2 + ["acme"] * 8},
        {"question_id": 6, "image_id": "ab12", "question": "which one?", "answers": ["1"] * 10},
        {"question_id": 7, "image_id": "cd34", "question": "which one?", "answers": ["x"] * 10},
    ]
    write(folder / "TextVQA_0.5.1_val.json", {"data": rows})
    read = [{"image_id": "ab12", "ocr_tokens": ["ACME", "Co"]}, {"image_id": "cd34", "ocr_tokens": []}]
    write(folder / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": read})
    return open_benchmark(name, folder)


def scienceqa(folder: Path) -> Benchmark:
    problem = {"question": "Which  is\nsoft?", "choices": ["rock", "wool"], "answer": 1, "hint": ""}
    pictured = {**problem, "image": "image.png", "subject": "natural science"}
    problems = dict.fromkeys("1234", pictured) | {"5": {**problem, "image": None, "subject": "language science"}}
    problems["2"] = {**pictured, "hint": " Look. "}
    write(folder / "problems.json", problems)
    write(folder / "pid_splits.json", {"test": list("12345"), "val": []})
    return open_benchmark("scienceqa", folder)


def pope(folder: Path) -> Benchmark:
    for name in ("adversarial", "random", "popular"):
        rows = [
            {"question_id": n, "image": "COCO_1.jpg", "text": f"Is there a {thing}?", "label": label}
            for n, (thing, label) in enumerate([("cup", "yes"), ("fork", "no"), ("dog", "yes"), ("cat", "no")], 1)
        ]
        write(folder / f"coco_pope_{name}.json", "".join(json.dumps(row) + "\n" for row in rows))
    return open_benchmark("pope", folder)


def mme(folder: Path) -> Benchmark:
    for subtask in (*MME.PERCEPTION, *MME.COGNITION):
        inner = subtask in ("artwork", "celebrity", "landmark", "posters", "scene")
        for name in ("a", "b"):
            place = folder / subtask / ("questions_answers_YN" if inner else "") / f"{name}.txt"
            write(place, f"Is it {name}?  Please answer yes or no.\tYes\nIs it c? Please answer yes or no.\tNo\n")
            write(folder / subtask / ("images" if inner else "") / f"{name}.png", "")
    return open_benchmark("mme", folder)


HEAD = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tsource\tl2-category\tcomment\tsplit\n"


def mmbench(folder: Path, *rows: str) -> Benchmark:
    picture = base64.b64encode(b"PNG" * 40).decode()
    lines = [f"{row}\t{category}\t{picture}\ts\tsee\t\tdev" for row, category in zip(rows, "kkkkll", strict=False)]
    write(folder / "mmbench_dev_20230712.tsv", HEAD + "".join(line + "\n" for line in lines))
    return open_benchmark("mmbench", folder)


ROWS = (
    "3\tWhat?\t\tcat\tdog\tNone\tcow\tB",
    "1000003\tWhat?\t\tdog\tcat\t\t\tA",
    '5\t"Why\nso?"\tLook.\tred car\tblue car\tgreen car\t\tC',
    "1000005\tWhy?\tnan\tgreen car\tred car\tblue car\t\tA",
)
