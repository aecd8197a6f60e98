"""The record of a scene: which things stand where, how large, on what background.

Deterministic: (VERSION, split, index) gives the same scene on every machine. The splits share no scene: which split a
scene belongs to follows from its content, and a draw that falls into another split is drawn again. Some things never
stand at some places in training, validation and test (`held_out`); every scene of the split "composition" has one.
"""

import hashlib
import random
from dataclasses import dataclass, replace

from fwd2bot.data.world.sprites import LETTERS, object_names
from fwd2bot.errors import InputError

VERSION = 1
SPLITS = ("train", "val", "test", "composition")
PLACES = (
    "top left", "top middle", "top right",
    "middle left", "center", "middle right",
    "bottom left", "bottom middle", "bottom right",
)  # fmt: skip
COLOURS = {
    "red": (214, 48, 49), "green": (60, 170, 80), "blue": (50, 100, 220), "yellow": (250, 220, 70),
    "purple": (140, 70, 190), "orange": (245, 145, 40), "pink": (250, 160, 195), "gray": (128, 130, 134),
    "white": (248, 248, 248), "black": (24, 24, 28),
}  # fmt: skip
PATTERNS = ("plain", "gradient", "speckled")
UNIT = 96  # positions and sizes are given in 96ths of the picture's side
CELL = UNIT // 3
SMALL = (18, 21)
LARGE = (28, 31)
MAX_THINGS = 6
SIGN = "sign"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One object: its name, its place (0..8, row by row), size word, centre and side in 96ths, and a sign's text."""

    name: str
    place: int
    size: str
    x: float
    y: float
    side: int
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A whole picture as a record; `things` in reading order (row by row)."""

    split: str
    index: int
    colour: str
    pattern: str
    seed: int
    things: tuple[Thing, ...]

    @property
    def name(self) -> str:
        """File name of the scene's picture."""
        return f"{self.split}-{self.index:07d}.png"

    def count(self, name: str) -> int:
        """How many things of that name there are."""
        return sum(thing.name == name for thing in self.things)

    def at(self, place: int) -> Thing | None:
        """What stands at a place (0..8)."""
        return next((thing for thing in self.things if thing.place == place), None)

    def unique(self) -> list[Thing]:
        """Things whose name occurs once, in reading order."""
        return [thing for thing in self.things if self.count(thing.name) == 1]

    def names(self) -> list[str]:
        """Distinct names in reading order."""
        return list(dict.fromkeys(thing.name for thing in self.things))


def held_out(name: str, place: int) -> bool:
    """Whether this thing at this place is kept for the composition split (one in twelve pairs)."""
    return name != SIGN and hashlib.blake2b(f"{name}@{place}".encode(), digest_size=2).digest()[0] % 12 == 0


def _belongs(key: str) -> str:
    bucket = hashlib.blake2b(key.encode(), digest_size=2).digest()[0]
    return "train" if bucket < 208 else "val" if bucket < 224 else "test"


def _thing(rng: random.Random, name: str, place: int) -> Thing:
    large = name == SIGN or rng.random() < 0.5
    side = rng.randint(*(LARGE if large else SMALL))
    slack = (CELL - side) / 2
    x = place % 3 * CELL + CELL / 2 + round(rng.uniform(-slack, slack))
    y = place // 3 * CELL + CELL / 2 + round(rng.uniform(-slack, slack))
    text = "".join(rng.sample(LETTERS, 2)) if name == SIGN else None
    return Thing(name=name, place=place, size="large" if large else "small", x=x, y=y, side=side, text=text)


def _names(rng: random.Random, count: int) -> list[str]:
    """`count` names: mostly different, sometimes one kind two or three times; a sign in a third of the scenes."""
    pool = object_names()
    names = rng.sample(pool, count)
    if count >= 2 and rng.random() < 0.4:
        for copy in range(1, rng.randint(2, min(count, 4))):
            names[copy] = names[0]
    if rng.random() < 0.35:
        names[-1] = SIGN
    return names


def _draw(rng: random.Random, max_things: int) -> tuple[str, str, tuple[Thing, ...]]:
    count = rng.randint(1, max_things)
    places = sorted(rng.sample(range(9), count))
    names = _names(rng, count)
    rng.shuffle(names)
    things = tuple(_thing(rng, name, place) for name, place in zip(names, places, strict=True))
    return rng.choice(list(COLOURS)), rng.choice(PATTERNS), things


def make_scene(split: str, index: int, *, max_things: int = MAX_THINGS) -> Scene:
    """The scene number `index` of a split.

    Raises: InputError for an unknown split or more than nine things.
    """
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r}: choose one of {', '.join(SPLITS)}.")
    if not 1 <= max_things <= 9:
        raise InputError(f"A scene holds 1 to 9 things, not {max_things}.")
    rng = random.Random(f"fwd2bot world {VERSION} {split} {max_things} {index}")
    while True:
        colour, pattern, things = _draw(rng, max_things)
        unseen = any(held_out(thing.name, thing.place) for thing in things)
        if unseen != (split == "composition"):
            continue
        key = f"{colour} " + " ".join(f"{thing.name}@{thing.place}" for thing in things)
        if split == "composition" or _belongs(key) == split:
            seed = rng.getrandbits(31)
            return Scene(split=split, index=index, colour=colour, pattern=pattern, seed=seed, things=things)


def near_duplicate(scene: Scene) -> Scene:
    """The scene with one thing changed: another thing there, the thing elsewhere, its other size, or another colour.

    It belongs to no split; use it beside its original only (a gallery that is hard to search).
    """
    rng = random.Random(f"near {scene.split} {scene.index}")
    victim = rng.randrange(len(scene.things))
    old = scene.things[victim]
    free = [place for place in range(9) if scene.at(place) is None]
    changes = ("name", "place", "size", "colour") if old.name != SIGN else ("text", "place", "colour")
    change = rng.choice([one for one in changes if free or one != "place"])
    if change == "colour":
        colour = rng.choice([colour for colour in COLOURS if colour != scene.colour])
        return replace(scene, index=-1 - scene.index, colour=colour)
    if change == "name":
        new = replace(old, name=rng.choice([name for name in object_names() if scene.count(name) == 0]))
    elif change == "place":
        place = rng.choice(free)
        right, down = place % 3 - old.place % 3, place // 3 - old.place // 3
        new = replace(old, place=place, x=old.x + right * CELL, y=old.y + down * CELL)
    elif change == "size":
        new = _thing(rng, old.name, old.place)
        while new.size == old.size:
            new = _thing(rng, old.name, old.place)
    else:
        new = replace(old, text=rng.choice([a + b for a in LETTERS for b in LETTERS if a != b and a + b != old.text]))
    things = [*scene.things[:victim], *scene.things[victim + 1 :], new]
    return replace(scene, index=-1 - scene.index, things=tuple(sorted(things, key=lambda thing: thing.place)))
