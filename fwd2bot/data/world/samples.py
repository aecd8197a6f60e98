"""Training samples of the world: scenes with the conversation and the caption that go with them in one step."""

import random
from dataclasses import dataclass

from fwd2bot.data.world.language import captions, full_caption
from fwd2bot.data.world.questions import KINDS, ask
from fwd2bot.data.world.scene import Scene, make_scene

CAPTION_QUESTION = "Describe the image."
_CLOSINGS = ("?", ".")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A scene, turns of (question, answer) with the kind of each, a caption to match it with, and its full text."""

    scene: Scene
    turns: list[tuple[str, str]]
    kinds: list[str]
    caption: str
    description: str


def typed(question: str, rng: random.Random) -> str:
    """The question as people type it: sometimes without its closing mark."""
    return question[:-1] if question.endswith(_CLOSINGS) and rng.random() < 0.3 else question


def draw_sample(split: str, index: int, *, turns: int, max_things: int, captioning: float) -> Sample:
    """Sample number `index`: `turns` questions of random kinds, in a share `captioning` of samples a caption first."""
    scene = make_scene(split, index, max_things=max_things)
    rng = random.Random(scene.seed + 1)
    pairs: list[tuple[str, str]] = []
    kinds: list[str] = []
    if rng.random() < captioning:
        pairs.append((CAPTION_QUESTION, full_caption(scene, rng)))
        kinds.append("caption")
    while len(pairs) < turns:
        kind = rng.choice(KINDS)
        question = ask(scene, kind, rng)
        if question is not None:
            pairs.append((typed(question.text, rng), question.answer))
            kinds.append(kind)
    caption = rng.choice(captions(scene))
    return Sample(scene=scene, turns=pairs, kinds=kinds, caption=caption, description=full_caption(scene, rng))
