"""Training samples of the world: scenes with the conversation and the caption that go with them in one step."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from fwd2bot.data.world.language import captions, full_caption, inventory
from fwd2bot.data.world.questions import KINDS, ask
from fwd2bot.data.world.scene import Scene, make_scene, near_duplicate

CAPTION_QUESTION = "Describe the image."
INVENTORY_QUESTION = "List the objects."
TRAINED = (*KINDS, "count_kind", "relation", "choice", "reading", "reading")
"""What training asks for: every kind, the slow ones more often."""
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


def draw_sample(
    split: str,
    index: int,
    *,
    turns: int,
    captioning: float = 0.0,
    listing: float = 0.0,
    kinds: Sequence[str] = TRAINED,
) -> Sample:
    """Sample number `index`: `turns` questions of random kinds; in shares of the samples first a caption, a list.

    At least one of the kinds must be one that every scene allows (not where, relation, size or reading).
    """
    scene = make_scene(split, index)
    rng = random.Random(scene.seed + 1)
    pairs: list[tuple[str, str]] = []
    asked: list[str] = []
    if rng.random() < captioning:
        pairs.append((CAPTION_QUESTION, full_caption(scene, rng)))
        asked.append("caption")
    if rng.random() < listing:
        pairs.append((INVENTORY_QUESTION, inventory(scene, rng)))
        asked.append("inventory")
    while len(pairs) < turns:
        kind = rng.choice(kinds)
        question = ask(scene, kind, rng)
        if question is not None:
            pairs.append((typed(question.text, rng), question.answer))
            asked.append(kind)
    caption = rng.choice(captions(scene))
    return Sample(scene=scene, turns=pairs, kinds=asked, caption=caption, description=full_caption(scene, rng))


def draw_triplet(split: str, index: int) -> tuple[str, str, str]:
    """Three texts: a scene in full; the same in other words, in full or in part; its near duplicate in full.

    Only a full caption is sure to show what was changed, so the third is always one, and the second half the time.
    """
    scene = make_scene(split, index)
    rng = random.Random(scene.seed + 4)
    full, *parts = captions(scene)
    same = full_caption(scene, rng) if rng.random() < 0.5 else rng.choice(parts)
    return full, same, captions(near_duplicate(scene))[0]
