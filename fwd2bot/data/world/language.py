"""Words for scenes: names in the plural, things described in many ways, five captions an image."""

import random

from fwd2bot.data.world.scene import PLACES, SIGN, Scene, Thing

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_PLURALS = {
    "mouse": "mice", "sheep": "sheep", "wolf": "wolves", "deer": "deer", "fish": "fish", "blowfish": "blowfish",
    "maple leaf": "maple leaves", "snowman": "snowmen",
}  # fmt: skip
_NO_SINGULAR = ("grapes", "fries", "scissors", "books", "socks", "dice", "bacon", "bread", "popcorn", "sushi")


def plural(name: str) -> str:
    """The name of several such things."""
    if name in _PLURALS:
        return _PLURALS[name]
    if name in _NO_SINGULAR:
        return name
    if name.endswith(("s", "x", "ch", "sh", "to", "go")):
        return name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def article(phrase: str) -> str:
    """The phrase with its indefinite article; "some" where its noun has no singular."""
    if phrase.endswith(_NO_SINGULAR):
        return f"some {phrase}"
    return ("an " if phrase[0] in "aeiou" and not phrase.startswith("uni") else "a ") + phrase


def describe(thing: Thing, *, size: bool, text: bool = True) -> str:
    """A thing with its article: "a small fox", "a sign that says km"."""
    if thing.name == SIGN:
        return f"a sign that says {thing.text}" if text and thing.text else "a sign"
    return article(f"{thing.size} {thing.name}" if size else thing.name)


def enumerate_words(phrases: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def background(scene: Scene) -> str:
    """ "a plain red background"."""
    return f"a {scene.pattern} {scene.colour} background"


def full_caption(scene: Scene, rng: random.Random) -> str:
    """Every thing with its size and place, and the background: the picture could be drawn from it."""
    order = list(scene.things)
    if rng.random() < 0.3:
        rng.shuffle(order)
    parts = [(describe(thing, size=True), PLACES[thing.place]) for thing in order]
    form = rng.randrange(3)
    if form == 0:
        return enumerate_words([f"{what} at the {where}" for what, where in parts]) + f" on {background(scene)}"
    if form == 1:
        return f"{background(scene)} with " + enumerate_words([f"{what} in the {where}" for what, where in parts])
    return f"on {background(scene)}: " + enumerate_words([f"at the {where} {what}" for what, where in parts])


def inventory(scene: Scene, rng: random.Random) -> str:
    """Names and places side by side, in any order: "fox top left, sign km center", or place first, or with the size.

    A model that learns to find named things learns it here first: what is asked for stands right before the answer.
    """
    order = list(scene.things)
    rng.shuffle(order)
    form = rng.choice(("{name} {place}", "{name} {place}", "{name} {size} {place}", "{place} {name}"))
    parts = []
    for thing in order:
        name = f"{thing.name} {thing.text.lower()}" if thing.text else thing.name
        parts.append(form.format(name=name, size=thing.size, place=PLACES[thing.place]))
    return ", ".join(parts)


def _places(scene: Scene, rng: random.Random) -> str:
    """Every thing with its place; sizes and background left out."""
    parts = [f"{describe(thing, size=False)} at the {PLACES[thing.place]}" for thing in scene.things]
    lead = rng.choice(("", "there is ", "this picture shows "))
    return lead + enumerate_words(parts)


def _names(scene: Scene, rng: random.Random) -> str:
    """What there is and how many of each, on what colour; no places."""
    parts = []
    for name in scene.names():
        count = scene.count(name)
        parts.append(article(name) if count == 1 else f"{NUMBERS[count]} {plural(name)}")
    rng.shuffle(parts)
    return rng.choice(("", "a picture of ", "an image with ")) + enumerate_words(parts) + f" on {scene.colour}"


def _one(scene: Scene, rng: random.Random) -> str:
    """One thing with size, place and the colour behind it."""
    thing = rng.choice(scene.things)
    return f"{describe(thing, size=True)} at the {PLACES[thing.place]} of {article(scene.colour)} picture"


def _pair(scene: Scene, rng: random.Random) -> str:
    """Two things and how they stand to each other, where there are two; else what `_one` says."""
    pairs = [
        (first, second)
        for first in scene.things
        for second in scene.things
        if first.name != second.name and first.place // 3 < second.place // 3
    ]
    if not pairs:
        return f"{describe(scene.things[0], size=True)} on {background(scene)}"
    first, second = rng.choice(pairs)
    return f"{describe(first, size=False)} above {describe(second, size=False)} on {scene.colour}"


def captions(scene: Scene) -> list[str]:
    """Five captions from complete to partial; the first says everything. Deterministic for a scene."""
    rng = random.Random(scene.seed)
    return [make(scene, rng) for make in (full_caption, _places, _names, _pair, _one)]
