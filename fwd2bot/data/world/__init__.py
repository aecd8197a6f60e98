"""A seeded world of emoji scenes: a structured record first, then its picture, captions and questions.

`make_scene(split, index)` gives the same record on every machine; `render(scene)` its picture; `captions(scene)` and
`questions(scene)` its words. What writes files is in `writers.py`.
"""

from fwd2bot.data.world.language import captions
from fwd2bot.data.world.questions import KINDS, Question, questions
from fwd2bot.data.world.render import render
from fwd2bot.data.world.scene import SPLITS, Scene, Thing, make_scene

__all__ = ["KINDS", "SPLITS", "Question", "Scene", "Thing", "captions", "make_scene", "questions", "render"]
