"""The world in the official layouts of eight benchmarks, so that what scores them scores the world.

A folder a benchmark, as `fwd2bot.evaluation` opens it: files, names and schemas are those that docs/benchmarks.md
tells. Splits that servers score hold the same scenes without their answers. Pictures are links to the world's own, or
copies where the disk has no links; they are PNG whatever the official name ends in.
"""

import base64
import csv
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fwd2bot.data.world.language import NUMBERS, article, plural
from fwd2bot.data.world.questions import PHRASINGS, Question, absent, ask, four_names, questions
from fwd2bot.data.world.scene import COLOURS, PATTERNS, PLACES, SIGN, Scene
from fwd2bot.data.world.sprites import object_names
from fwd2bot.errors import InputError

LETTERS = "ABCD"
_GQA = {
    "exist": ("verify", "obj"), "what": ("query", "obj"), "where": ("query", "rel"), "relation": ("verify", "rel"),
    "size": ("choose", "attr"), "background": ("query", "attr"),
}  # fmt: skip
"""Kinds of questions and GQA's structural and semantic types."""
_VQA = {
    "exist": "yes/no", "relation": "yes/no", "count_all": "number", "count_kind": "number", "what": "other",
    "where": "other", "size": "other", "background": "other",
}  # fmt: skip
_MME_INNER = ("artwork", "celebrity", "landmark", "posters", "scene")
"""MME's subtasks whose pictures and questions lie in folders of their own."""


def write_benchmarks(out: Path, scenes: Sequence[Scene], images: Path) -> None:
    """Write `out`/gqa, `out`/vqav2 and so on; `images` holds the scenes' pictures.

    Raises InputError where the scenes are too few for each benchmark to have a question; OSError.
    """
    for name, write in _WRITERS.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        write(out / name, scenes, images)


def _gqa(out: Path, scenes: Sequence[Scene], images: Path) -> None:
    entries: dict[str, dict[str, Any]] = {}
    for scene in scenes:
        image = Path(scene.name).stem
        _link(images / scene.name, out / "images" / f"{image}.jpg")
        for one in questions(scene, kinds=tuple(_GQA)):
            key = f"{len(entries):08d}"
            structural, semantic = _GQA[one.kind]
            entries[key] = {
                "question": one.text, "imageId": image, "answer": one.answer, "fullAnswer": one.answer,
                "semanticStr": "", "isBalanced": True, "groups": {"global": None, "local": None},
                "types": {"structural": structural, "semantic": semantic, "detailed": one.kind},
                "entailed": [], "equivalent": [key], "semantic": [],
                "annotations": {"question": {}, "answer": {}, "fullAnswer": {}},
            }  # fmt: skip
    _json(out / "testdev_balanced_questions.json", entries)
    asked = ("imageId", "question", "isBalanced")
    _json(out / "submission_all_questions.json", {k: {name: one[name] for name in asked} for k, one in entries.items()})


def _vqav2(out: Path, scenes: Sequence[Scene], images: Path) -> None:
    asked, annotated = [], []
    for number, scene in enumerate(scenes, 1):
        for folder in ("val2014", "test2015"):
            _link(images / scene.name, out / folder / f"COCO_{folder}_{number:012d}.jpg")
        for place, one in enumerate(questions(scene, kinds=tuple(_VQA))):
            ids = {"question_id": number * 1000 + place, "image_id": number}
            asked.append({**ids, "question": one.text})
            types = {"question_type": " ".join(one.text.split()[:2]), "answer_type": _VQA[one.kind]}
            answers = [
                {"answer": answer, "answer_confidence": "yes", "answer_id": human}
                for human, answer in enumerate(_ten_answers(one), 1)
            ]
            annotated.append({**ids, **types, "multiple_choice_answer": one.answer, "answers": answers})
    about: dict[str, Any] = {"info": {}, "license": {}, "data_type": "mscoco"}
    for subset in ("val2014", "test-dev2015", "test2015"):
        head = {**about, "task_type": "Open-Ended", "data_subtype": subset}
        _json(out / f"v2_OpenEnded_mscoco_{subset}_questions.json", {**head, "questions": asked})
    _json(out / "v2_mscoco_val2014_annotations.json", {**about, "data_subtype": "val2014", "annotations": annotated})


def _ten_answers(question: Question) -> list[str]:
    """Ten people say the same, but for two who write a number as a word."""
    if not question.answer.isdecimal():
        return [question.answer] * 10
    word = NUMBERS[int(question.answer)] if question.answer != "0" else "none"
    return [question.answer] * 8 + [word] * 2


def _vizwiz(out: Path, scenes: Sequence[Scene], images: Path) -> None:
    """One question a picture; every second asks for a sign, which may not be there."""
    val: list[dict[str, Any]] = []
    test: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes):
        rng = random.Random(scene.seed)
        kind = ("what", "reading")[number % 2]
        one = ask(scene, kind, rng) or Question(text=PHRASINGS[kind][0], answer="unanswerable", kind=kind)
        for split, rows in (("val", val), ("test", test)):
            image = f"VizWiz_{split}_{number:08d}.jpg"
            _link(images / scene.name, out / split / image)
            rows.append({"image": image, "question": one.text})
        answerable = one.answer != "unanswerable"
        kind = "other" if answerable else "unanswerable"
        answers = [{"answer": one.answer, "answer_confidence": "yes"}] * 10
        val[-1] |= {"answers": answers, "answer_type": kind, "answerable": int(answerable)}
    _json(out / "Annotations/val.json", val)
    _json(out / "Annotations/test.json", test)


def _textvqa(out: Path, scenes: Sequence[Scene], images: Path) -> None:
    rows: list[dict[str, Any]] = []
    read: list[dict[str, Any]] = []
    for scene in scenes:
        one = ask(scene, "reading", random.Random(scene.seed))
        if one is None:
            continue
        image = Path(scene.name).stem
        for folder in ("train_images", "test_images"):
            _link(images / scene.name, out / folder / f"{image}.jpg")
        rows.append({
            "question_id": len(rows), "image_id": image, "question": one.text, "answers": [one.answer] * 10,
            "question_tokens": one.text.rstrip("?.").split(), "image_classes": sorted(set(scene.names())),
        })  # fmt: skip
        signs = [thing.text for thing in scene.things if thing.text]
        read.append({"image_id": image, "ocr_tokens": signs, "ocr_info": []})
    if not rows:
        raise InputError(f"None of the {len(scenes)} scenes has a sign to read: write more images.")
    for split in ("val", "test"):
        hidden = "answers" if split == "test" else None
        kept = [{name: value for name, value in row.items() if name != hidden} | {"set_name": split} for row in rows]
        _json(out / f"TextVQA_0.5.1_{split}.json", {"data": kept})
        _json(out / f"TextVQA_Rosetta_OCR_v0.2_{split}.json", {"data": read})


def _scienceqa(out: Path, scenes: Sequence[Scene], images: Path) -> None:
    """A question with a picture for each scene, every second with a hint; and one without a picture."""
    problems: dict[str, dict[str, Any]] = {}
    for scene in scenes:
        thing, names = four_names(scene, random.Random(scene.seed))
        _link(images / scene.name, out / f"images/test/{len(problems) + 1}/image.png")
        hint = f"The background is {scene.colour}." if len(problems) % 2 else ""
        text = PHRASINGS["what"][0].format(place=PLACES[thing.place])
        problems[str(len(problems) + 1)] = _problem(text, names, names.index(thing.name), hint, "image.png")
    choices = [scenes[0].things[0].name, scenes[0].colour]
    problems[str(len(problems) + 1)] = _problem("which of these is a color?", choices, 1, "", None)
    _json(out / "problems.json", problems)
    others: dict[str, list[str]] = {
        split: [] for split in ("train", "val", "trainval", "minitrain", "minival", "minitest")
    }
    _json(out / "pid_splits.json", {**others, "test": list(problems)})


def _problem(text: str, choices: list[str], answer: int, hint: str, image: str | None) -> dict[str, Any]:
    rest = dict.fromkeys(("topic", "category", "skill", "lecture", "solution"), "")
    given = {"question": text, "choices": choices, "answer": answer, "hint": hint, "image": image, **rest}
    return {**given, "task": "closed choice", "grade": "grade1", "subject": "natural science", "split": "test"}


def _pope(out: Path, scenes: Sequence[Scene], images: Path) -> None:
    """Up to three things that are there, and as many that are not: any, the frequent, those seen beside the present."""
    often = Counter(name for scene in scenes for name in scene.names())
    beside = {name: Counter[str]() for name in often}
    for scene in scenes:
        for name in scene.names():
            beside[name].update(scene.names())
    rows: dict[str, list[dict[str, Any]]] = {"random": [], "popular": [], "adversarial": []}
    for number, scene in enumerate(scenes, 1):
        rng = random.Random(scene.seed)
        image = f"COCO_val2014_{number:012d}.jpg"
        _link(images / scene.name, out / "val2014" / image)
        there = scene.names()[:3]
        anything = rng.sample(object_names(), len(object_names()))
        near = sum((beside[name] for name in scene.names()), Counter[str]())
        ranked = {
            "random": anything,
            "popular": [name for name, _ in often.most_common()],
            "adversarial": [name for name, _ in near.most_common()],
        }
        for kind, order in ranked.items():
            gone = [name for name in dict.fromkeys([*order, *anything]) if scene.count(name) == 0]
            labelled = [(name, "yes") for name in there] + [(name, "no") for name in gone[: len(there)]]
            for name, label in labelled:
                asked = {"image": image, "text": f"is there {article(name)} in the picture?", "label": label}
                rows[kind].append({"question_id": len(rows[kind]) + 1, **asked})
    for kind, lines in rows.items():
        (out / f"coco_pope_{kind}.json").write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")


def _mme(out: Path, scenes: Sequence[Scene], images: Path) -> None:
    written = Counter[str]()
    for subtask in MME_SUBTASKS:  # whose files are found by looking: those of an earlier world would be, too
        for file in (out / subtask).rglob("[0-9]" * 6 + ".*"):
            file.unlink()
    for number, scene in enumerate(scenes):
        for subtask, pair in mme_pairs(scene).items():
            inner = subtask in _MME_INNER
            _link(images / scene.name, out / subtask / ("images" if inner else "") / f"{number:06d}.png")
            lines = [
                f"{asked} Please answer yes or no.\t{said}\n" for asked, said in zip(pair, ("Yes", "No"), strict=True)
            ]
            file = out / subtask / ("questions_answers_YN" if inner else "") / f"{number:06d}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(lines), encoding="utf-8")
            written[subtask] += 1
    lacking = [name for name in MME_SUBTASKS if not written[name]]
    if lacking:
        raise InputError(
            f"None of the {len(scenes)} scenes has a question for {', '.join(lacking)}: write more images."
        )


MME_SUBTASKS = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
    "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning",
)  # fmt: skip


def mme_pairs(scene: Scene) -> dict[str, tuple[str, str]]:
    """MME's subtasks that the scene allows, each with a question that is true of it and one that is not.

    What the world has no counterpart of (films, faces, monuments, paintings) asks for what it has instead: how many of
    a kind, what stands at a place, where something stands, how large it is.
    """
    rng = random.Random(scene.seed)
    count, other = len(scene.things), absent(scene, rng)
    thing = rng.choice(scene.things)
    kind, where = plural(thing.name), PLACES[thing.place]
    pairs: dict[str, tuple[str | int, str | int, str]] = {
        "existence": (thing.name, other, "is there {a} in this image?"),
        "count": (count, count + 1, "are there {} objects in this image?"),
        "color": (scene.colour, _another(COLOURS, scene.colour, rng), "is the background {}?"),
        "posters": (scene.count(thing.name), scene.count(thing.name) + 1, f"is the number of {kind} here {{}}?"),
        "celebrity": (thing.name, other, f"is the object at the {where} {{a}}?"),
        "scene": (scene.pattern, _another(PATTERNS, scene.pattern, rng), "is the pattern of the background {}?"),
        "numerical_calculation": (count + 3, count + 4, "is the number of objects plus three {}?"),
        "code_reasoning": (count, count + 1, "does print(len(objects)) print {} for the objects in this image?"),
    }
    made = {name: _pair(*three) for name, three in pairs.items()}
    return {**made, **_unique_pairs(scene, rng), **_sign_pairs(scene)}


def _unique_pairs(scene: Scene, rng: random.Random) -> dict[str, tuple[str, str]]:
    """Of things whose names occur once: places, sizes, and how two stand to each other."""
    made: dict[str, tuple[str, str]] = {}
    things = scene.unique()
    for thing in things[:1]:
        elsewhere = _another(PLACES, PLACES[thing.place], rng)
        made["landmark"] = _pair(PLACES[thing.place], elsewhere, f"is the {thing.name} at the {{}}?")
    for thing in [thing for thing in things if thing.name != SIGN][:1]:
        sizes = (thing.size, _another(("small", "large"), thing.size, rng))
        made["artwork"] = _pair(*sizes, f"is the {thing.name} {{}}?")
    for first in things:
        for second in things:
            if first.place % 3 < second.place % 3:
                made["position"] = _pair("left", "right", f"is the {first.name} {{}} of the {second.name}?")
            if first.place // 3 < second.place // 3:
                text = f"would the {first.name} have to move {{}} to be level with the {second.name}?"
                made["commonsense_reasoning"] = _pair("down", "up", text)
    return made


def _sign_pairs(scene: Scene) -> dict[str, tuple[str, str]]:
    for thing in scene.things:
        if thing.text:
            low = thing.text.lower()
            return {
                "OCR": _pair(thing.text, thing.text[::-1], 'does the sign say "{}"?'),
                "text_translation": _pair(low, low[::-1], 'is the sign in small letters "{}"?'),
            }
    return {}


def _pair(right: str | int, wrong: str | int, text: str) -> tuple[str, str]:
    first, second = (text.format(word, a=article(str(word))) for word in (right, wrong))
    return first, second


def _another(words: Sequence[str] | dict[str, Any], word: str, rng: random.Random) -> str:
    return rng.choice([one for one in words if one != word])


def _mmbench(out: Path, scenes: Sequence[Scene], images: Path) -> None:
    head = [
        "index", "question", "hint", *LETTERS, "answer", "category", "image", "source", "l2-category", "comment",
        "split",
    ]  # fmt: skip
    rows = [row for number, scene in enumerate(scenes) for row in _mmbench_rows(number * 2, scene, images)]
    for name, columns in (
        ("mmbench_dev_20230712", head),
        ("MMBench_DEV_EN", head),
        ("MMBench_TEST_EN", [one for one in head if one != "answer"]),
    ):
        with (out / f"{name}.tsv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n", extrasaction="ignore")
            table.writeheader()
            table.writerows({**row, "split": "test" if "TEST" in name else "dev"} for row in rows)


def _mmbench_rows(index: int, scene: Scene, images: Path) -> Iterator[dict[str, Any]]:
    """What stands at a place, of four; where one is alone of its name, its size, of two: a row a rotation of them."""
    rng = random.Random(scene.seed)
    thing, names = four_names(scene, rng)
    text = PHRASINGS["what"][0].format(place=PLACES[thing.place])
    picture = base64.b64encode((images / scene.name).read_bytes()).decode()
    asked = [(text, names, thing.name, "object_localization", "finegrained_perception (instance-level)")]
    size = ask(scene, "size", rng)
    if size is not None:
        two = ["small", "large"]
        asked.append((size.text, two, size.answer, "attribute_recognition", "attribute_perception"))
    for number, (question, options, answer, category, wider) in enumerate(asked):
        for turn in range(len(options)):
            turned = options[-turn:] + options[:-turn] if turn else options
            yield {
                "index": index + number + turn * 1_000_000, "question": question, "hint": "", "source": "world",
                **dict(zip(LETTERS, turned, strict=False)), "answer": LETTERS[turned.index(answer)],
                "category": category, "image": picture, "l2-category": wider, "comment": "",
            }  # fmt: skip


_WRITERS: dict[str, Callable[[Path, Sequence[Scene], Path], None]] = {
    "gqa": _gqa, "vqav2": _vqav2, "vizwiz": _vizwiz, "textvqa": _textvqa, "scienceqa": _scienceqa, "pope": _pope,
    "mme": _mme, "mmbench": _mmbench,
}  # fmt: skip


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
