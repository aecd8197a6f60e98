"""Draw docs/world.png and fill the examples in docs/world.md: `python tools/world_picture.py`. Deterministic."""

from pathlib import Path

from PIL import Image
from sections import write_section

from fwd2bot.data.world import KINDS, Question, Scene, captions, make_scene, questions, render

DOCS = Path(__file__).resolve().parent.parent / "docs"
SCENES = 12
COLUMNS = 4
SIDE = 192
GAP = 8
CAPTIONED = 3  # the picture whose five captions are shown, counted from 1


def shown_scenes() -> list[Scene]:
    """The first scenes of the test split."""
    return [make_scene("test", index) for index in range(SCENES)]


def grid(scenes: list[Scene]) -> Image.Image:
    """The scenes row by row, with transparent gaps."""
    rows = -(-len(scenes) // COLUMNS)
    size = COLUMNS * (SIDE + GAP) - GAP, rows * (SIDE + GAP) - GAP
    picture = Image.new("RGBA", size)
    for number, scene in enumerate(scenes):
        place = number % COLUMNS * (SIDE + GAP), number // COLUMNS * (SIDE + GAP)
        picture.paste(Image.fromarray(render(scene, size=SIDE)), place)
    return picture


def question_table(scenes: list[Scene]) -> str:
    """Two questions of every kind, about different pictures as far as there are."""
    lines = ["| kind | picture | question | answer |", "|---|---|---|---|"]
    for place, kind in enumerate(KINDS):
        found = [(number, question) for number, question in _numbered(scenes) if question.kind == kind]
        start = 2 * place % len(found)  # so that the pictures take turns
        for number, question in (found[start:] + found[:start])[:2]:
            lines.append(f"| `{kind}` | {number} | {question.text} | {question.answer} |")
    return "\n".join(lines)


def _numbered(scenes: list[Scene]) -> list[tuple[int, Question]]:
    return [(number, question) for number, scene in enumerate(scenes, start=1) for question in questions(scene)]


def caption_list(scene: Scene) -> str:
    """The five captions as a numbered list."""
    return "\n".join(f"{number}. {caption}" for number, caption in enumerate(captions(scene), start=1))


def main() -> int:
    scenes = shown_scenes()
    grid(scenes).save(DOCS / "world.png", optimize=True)
    write_section(DOCS / "world.md", "questions", question_table(scenes))
    write_section(DOCS / "world.md", "captions", caption_list(scenes[CAPTIONED - 1]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
