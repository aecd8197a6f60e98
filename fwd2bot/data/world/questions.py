"""Questions of ten kinds about a scene, each with the one answer that a person gives from the picture alone.

Every kind has several phrasings; the last two of each list are never used in
training.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from fwd2bot.data.world.language import article, plural
from fwd2bot.data.world.scene import PLACES, SIGN, Scene, Thing
from fwd2bot.data.world.sprites import object_names

KINDS = ("exist", "what", "where", "count_all", "count_kind", "relation", "size", "background", "reading", "choice")

PHRASINGS: dict[str, tuple[str, ...]] = {
    "exist": (
        "is there {a}?", "do you see {a}?", "can you see {a} in the picture?", "does the image show {a}?",
        "is {a} in this image?", "is there {a} in the picture?", "can you see {a}?",
        "is {a} in the picture?", "does the picture show {a}?",
    ),
    "what": (
        "what is at the {place}?", "what do you see at the {place}?", "which object is in the {place}?",
        "name the object at the {place}.", "what can you see in the {place}?", "which thing is at the {place}?",
        "what is in the {place}?", "tell me what is at the {place}.",
        "what is in the {place} of the picture?", "name the thing in the {place}.",
    ),
    "where": (
        "where is the {name}?", "in which place is the {name}?", "what is the position of the {name}?",
        "tell me where the {name} is.", "where do you see the {name}?", "where in the picture is the {name}?",
        "at which place do you see the {name}?", "where can you see the {name}?",
    ),
    "count_all": (
        "how many objects are there?", "how many things are in the picture?", "count the objects.",
        "what is the number of objects?", "how many things can you see?", "tell me how many objects there are.",
        "how many objects do you see?", "how many objects are in the image?",
    ),
    "count_kind": (
        "how many {names} are there?", "how many {names} do you see?", "count the {names}.",
        "what is the number of {names}?", "how many {names} can you see?", "tell me how many {names} there are.",
        "how many {names} are in the picture?", "how many {names} are in the image?",
    ),
    "relation": (
        "is the {first} {relation} the {second}?", "can you see the {first} {relation} the {second}?",
        "do you see the {first} {relation} the {second}?", "does the image show the {first} {relation} the {second}?",
        "in the picture, is the {first} {relation} the {second}?", "is there the {first} {relation} the {second}?",
        "does the picture show the {first} {relation} the {second}?",
        "in this image, is the {first} {relation} the {second}?",
    ),
    "size": (
        "is the {name} small or large?", "what size is the {name}?", "how large is the {name}?",
        "what is the size of the {name}?", "how big is the {name}?", "is the {name} large or small?",
        "which size is the {name}?", "tell me the size of the {name}.",
    ),
    "colour": (
        "what color is the background?", "which color is behind the objects?", "what is the color of the background?",
        "name the background color.", "what colour is the background?", "what color is behind the things?",
        "which color is the background?", "tell me the color of the background.",
    ),
    "pattern": (
        "is the background plain, gradient or speckled?", "what pattern does the background have?",
        "what is the pattern of the background?", "which pattern is behind the objects?",
        "tell me the pattern of the background.", "which pattern does the background have?",
        "which pattern is the background?", "what pattern is behind the objects?",
    ),
    "reading": (
        "what does the sign say?", "what is written on the sign?", "read the sign.", "which letters are on the sign?",
        "what letters does the sign show?", "what can you read on the sign?",
        "which letters does the sign show?", "tell me what the sign says.",
    ),
    "choice": (
        "what is at the {place}? {options}", "which of these is at the {place}? {options}",
        "choose what is in the {place}. {options}", "the object at the {place} is: {options}",
        "what do you see at the {place}? {options}", "which object is at the {place}? {options}",
        "which of these is in the {place}? {options}", "choose the object at the {place}. {options}",
    ),
}  # fmt: skip
HELD_OUT = 2
"""The last phrasings of each kind are never used in training; their words all are."""
_RELATIONS = ("left of", "right of", "above", "below")
_LETTERS = "abcd"
CHOICE_HINT = "answer with the letter."


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question, its answer and its kind."""

    text: str
    answer: str
    kind: str


def _phrase(kind: str, scene: Scene, rng: random.Random, /, **words: str) -> str:
    """A phrasing of the kind: any but the held-out ones in training, any of them elsewhere."""
    options = PHRASINGS[kind]
    chosen = options[rng.randrange(len(options) - HELD_OUT * (scene.split == "train"))]
    return chosen.format(**words)


def absent(scene: Scene, rng: random.Random) -> str:
    """A name that the scene does not hold."""
    pool = object_names()
    while True:
        name = pool[rng.randrange(len(pool))] if rng.random() < 0.95 else SIGN
        if scene.count(name) == 0:
            return name


def _exist(scene: Scene, rng: random.Random) -> Question:
    yes = rng.random() < 0.5
    name = rng.choice(scene.names()) if yes else absent(scene, rng)
    return Question(text=_phrase("exist", scene, rng, a=article(name)), answer="yes" if yes else "no", kind="exist")


def _what(scene: Scene, rng: random.Random) -> Question:
    if len(scene.things) < 9 and rng.random() < 0.1:
        place = rng.choice([place for place in range(9) if scene.at(place) is None])
        return Question(text=_phrase("what", scene, rng, place=PLACES[place]), answer="nothing", kind="what")
    thing = rng.choice(scene.things)
    return Question(text=_phrase("what", scene, rng, place=PLACES[thing.place]), answer=thing.name, kind="what")


def _where(scene: Scene, rng: random.Random) -> Question | None:
    things = scene.unique()
    if not things:
        return None
    thing = rng.choice(things)
    return Question(text=_phrase("where", scene, rng, name=thing.name), answer=PLACES[thing.place], kind="where")


def _count_all(scene: Scene, rng: random.Random) -> Question:
    return Question(text=_phrase("count_all", scene, rng), answer=str(len(scene.things)), kind="count_all")


def _count_kind(scene: Scene, rng: random.Random) -> Question:
    repeated = [name for name in scene.names() if scene.count(name) > 1]
    if repeated and rng.random() < 0.6:
        name = rng.choice(repeated)
    else:
        name = rng.choice(scene.names()) if rng.random() < 0.6 else absent(scene, rng)
    text = _phrase("count_kind", scene, rng, names=plural(name))
    return Question(text=text, answer=str(scene.count(name)), kind="count_kind")


def _holds(relation: str, first: Thing, second: Thing) -> bool:
    row, column = first.place // 3 - second.place // 3, first.place % 3 - second.place % 3
    return {"left of": column < 0, "right of": column > 0, "above": row < 0, "below": row > 0}[relation]


def _relation(scene: Scene, rng: random.Random) -> Question | None:
    """Only pairs that differ along the axis asked about, so that no answer hangs on a pixel."""
    things = scene.unique()
    pairs = [(a, b) for a in things for b in things if a is not b]
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    across, down = first.place % 3 != second.place % 3, first.place // 3 != second.place // 3
    relation = rng.choice(_RELATIONS[: 2 if across else 0] + _RELATIONS[2 : 4 if down else 2])
    text = _phrase("relation", scene, rng, first=first.name, relation=relation, second=second.name)
    return Question(text=text, answer="yes" if _holds(relation, first, second) else "no", kind="relation")


def _size(scene: Scene, rng: random.Random) -> Question | None:
    things = [thing for thing in scene.unique() if thing.name != SIGN]
    if not things:
        return None
    thing = rng.choice(things)
    return Question(text=_phrase("size", scene, rng, name=thing.name), answer=thing.size, kind="size")


def _background(scene: Scene, rng: random.Random) -> Question:
    if rng.random() < 0.7:
        return Question(text=_phrase("colour", scene, rng), answer=scene.colour, kind="background")
    return Question(text=_phrase("pattern", scene, rng), answer=scene.pattern, kind="background")


def _reading(scene: Scene, rng: random.Random) -> Question | None:
    for thing in scene.things:
        if thing.text:
            return Question(text=_phrase("reading", scene, rng), answer=thing.text.lower(), kind="reading")
    return None


def four_names(scene: Scene, rng: random.Random) -> tuple[Thing, list[str]]:
    """A thing of the scene, and four names in any order: its own, up to two others of the scene, absent ones."""
    thing = rng.choice(scene.things)
    others: list[str] = [name for name in scene.names() if name != thing.name][:2]
    while len(others) < 3:
        name = absent(scene, rng)
        if name not in others:
            others.append(name)
    names = [thing.name, *others]
    rng.shuffle(names)
    return thing, names


def _choice(scene: Scene, rng: random.Random) -> Question:
    thing, names = four_names(scene, rng)
    listed = " ".join(f"{letter}. {name}" for letter, name in zip(_LETTERS, names, strict=True))
    text = _phrase("choice", scene, rng, place=PLACES[thing.place], options=f"{listed} {CHOICE_HINT}")
    return Question(text=text, answer=_LETTERS[names.index(thing.name)], kind="choice")


_MAKERS: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "exist": _exist, "what": _what, "where": _where, "count_all": _count_all, "count_kind": _count_kind,
    "relation": _relation, "size": _size, "background": _background, "reading": _reading, "choice": _choice,
}  # fmt: skip


def ask(scene: Scene, kind: str, rng: random.Random) -> Question | None:
    """One question of a kind, or None where the scene gives no such question (reading without a sign)."""
    return _MAKERS[kind](scene, rng)


def questions(scene: Scene, *, seed: int = 0, kinds: tuple[str, ...] = KINDS) -> list[Question]:
    """One question of each kind that the scene allows; deterministic for (scene, seed)."""
    rng = random.Random(scene.seed * 1_000_003 + seed)
    made = (ask(scene, kind, rng) for kind in kinds)
    return [question for question in made if question is not None]
