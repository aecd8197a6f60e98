"""The world on disk: pictures, questions and captions of our own, and the official shapes of LLaVA's training data.

    images/                  one PNG a scene
    questions.jsonl          {"image", "question", "answer", "kind"}, one question of each kind a scene
    captions.jsonl           {"image", "captions"}, five a scene, from complete to partial
    llava_conversations.json LLaVA-665k: [{"id", "image", "conversations": [{"from", "value"}, ...]}, ...]
    cc3m_pairs.json          LLaVA's CC3M-595K: the same shape, one instruction and one caption
    scenes.jsonl             the records that all of it follows from

With `benchmarks`, too, below benchmarks/: the same scenes in the official layouts of benchmarks (see benchmarks.py
and benchmark_captions.py).

Every `image` is a name below images/, which is the image folder to give to others' loaders.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from fwd2bot.data.world.benchmark_captions import write_caption_benchmarks
from fwd2bot.data.world.benchmarks import write_benchmarks
from fwd2bot.data.world.language import captions
from fwd2bot.data.world.questions import questions
from fwd2bot.data.world.render import render
from fwd2bot.data.world.scene import SIGN, SPLITS, Scene, make_scene
from fwd2bot.errors import InputError

INSTRUCTIONS = (
    "Describe the image.",
    "Give a brief description of the image.",
    "Share a concise interpretation of the image provided.",
    "What is in the photo?",
)
"""Ways to ask for a caption, as LLaVA's pairs have them."""
PICTURE = 192
"""Side of a written picture in pixels: twice what the bundled model looks at, so that people see it well."""


def write_world(
    out: Path | str,
    images: int,
    split: str = "test",
    *,
    seed: int = 0,
    size: int = PICTURE,
    benchmarks: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `images` scenes of a split, the first of them number `seed * 1_000_000`; gives the folder.

    Raises InputError for an unknown split, a number below 1, too few scenes for `benchmarks`, or a folder that cannot
    be written.
    """
    out = Path(out)
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r}: choose one of {', '.join(SPLITS)}.")
    if images < 1:
        raise InputError(f"The number of images is {images}; it must be at least 1.")
    scenes = []
    try:
        (out / "images").mkdir(parents=True, exist_ok=True)
        for number in range(images):
            scene = make_scene(split, seed * 1_000_000 + number)
            Image.fromarray(render(scene, size=size)).save(out / "images" / scene.name)
            scenes.append(scene)
            if progress is not None:
                progress(number + 1, images)
        _write_annotations(out, scenes)
        if benchmarks:
            write_benchmarks(out / "benchmarks", scenes, out / "images")
            write_caption_benchmarks(out / "benchmarks", scenes)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror or error}.") from error
    return out


def _write_annotations(out: Path, scenes: list[Scene]) -> None:
    _write_lines(out / "questions.jsonl", question_rows(scenes))
    _write_lines(out / "captions.jsonl", ({"image": scene.name, "captions": captions(scene)} for scene in scenes))
    _write_lines(out / "scenes.jsonl", (asdict(scene) for scene in scenes))
    _write_json(out / "llava_conversations.json", [llava_conversation(scene) for scene in scenes])
    _write_json(out / "cc3m_pairs.json", [cc3m_pair(scene) for scene in scenes])


def question_rows(scenes: list[Scene]) -> Iterator[dict[str, str]]:
    """One question of each kind that a scene allows."""
    for scene in scenes:
        for question in questions(scene):
            yield {"image": scene.name, "question": question.text, "answer": question.answer, "kind": question.kind}


def llava_conversation(scene: Scene) -> dict[str, Any]:
    """A scene as an entry of LLaVA-665k: the picture's placeholder in the first question only."""
    turns: list[dict[str, str]] = []
    for question in questions(scene):
        turns.append({"from": "human", "value": question.text if turns else f"<image>\n{question.text}"})
        turns.append({"from": "gpt", "value": question.answer})
    return {"id": Path(scene.name).stem, "image": scene.name, "conversations": turns}


def cc3m_pair(scene: Scene) -> dict[str, Any]:
    """A scene as an entry of LLaVA's CC3M-595K `chat.json`: the placeholder before or after one of its instructions."""
    instruction = INSTRUCTIONS[scene.seed % len(INSTRUCTIONS)]
    first = scene.seed // len(INSTRUCTIONS) % 2 == 0
    turns = [
        {"from": "human", "value": f"<image>\n{instruction}" if first else f"{instruction}\n<image>"},
        {"from": "gpt", "value": captions(scene)[0]},
    ]
    return {"id": Path(scene.name).stem, "image": scene.name, "conversations": turns}


def write_album(out: Path, images: int = 24) -> Path:
    """The sample album: pictures named by one thing that they show, with questions and captions."""
    out.mkdir(parents=True, exist_ok=True)
    renamed: dict[str, str] = {}
    scenes: list[Scene] = []
    number = 0
    while len(scenes) < images:
        scene = make_scene("test", 500_000 + number)
        number += 1
        name = next((t.name for t in scene.unique() if t.name != SIGN and " " not in t.name), "") + ".png"
        if len(scene.things) < 3 or name == ".png" or name in renamed.values():
            continue
        renamed[scene.name] = name
        scenes.append(scene)
        Image.fromarray(render(scene, size=PICTURE)).save(out / name, optimize=True)
    rows = [{**row, "image": renamed[row["image"]]} for row in question_rows(scenes)]
    _write_lines(out / "questions.jsonl", rows)
    _write_lines(out / "captions.jsonl", ({"image": renamed[s.name], "captions": captions(s)} for s in scenes))
    return out


def _write_lines(path: Path, rows: Any) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
