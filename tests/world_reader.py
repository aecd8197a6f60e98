"""Answers the world's questions from a scene's coordinates, by other means than the generator: patterns on the text.

Nothing here comes from `questions.py` or `language.py`. Places and sizes are read off the coordinates, never off the
record's own `place` and `size`.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

from fwd2bot.data.world import Scene

ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")
DIGITS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
IRREGULAR = {"mice": "mouse", "wolves": "wolf", "maple leaves": "maple leaf", "snowmen": "snowman"}
A = r"(?:an?|some)"
PLACE = r"(?P<place>(?:top|bottom|middle) (?:left|middle|right)|center)"


@dataclass(frozen=True)
class Seen:
    """A thing as its coordinates say it is."""

    name: str
    row: int
    column: int
    large: bool
    text: str | None

    @property
    def place(self) -> str:
        middle = self.row == self.column == 1
        return "center" if middle else f"{ROWS[self.row]} {COLUMNS[self.column]}"

    @property
    def full(self) -> tuple[str, str]:
        """How a complete caption names it: what, where."""
        if self.text:
            return f"sign that says {self.text}", self.place
        return f"{'large' if self.large else 'small'} {self.name}", self.place


def look(scene: Scene) -> list[Seen]:
    """What a person makes out: a third of the picture is a place, a quarter of its side is large."""
    return [
        Seen(thing.name, int(thing.y // 32), int(thing.x // 32), thing.side / 96 > 0.25, thing.text)
        for thing in scene.things
    ]


def one_of(plural: str, known: set[str]) -> str:
    """The singular of a name in the plural."""
    tries = [IRREGULAR.get(plural, plural), plural.removesuffix("s"), plural.removesuffix("es")]
    tries.append(plural.removesuffix("ies") + "y")
    (name,) = {one for one in tries if one in known}
    return name


@cache
def any_of(known: frozenset[str]) -> str:
    """A pattern for any name, the longest first."""
    return "|".join(sorted(known, key=len, reverse=True))


def answer(question: str, scene: Scene, known: set[str]) -> str:
    """The answer to a question of any kind. `known` are all names that there are."""
    things = look(scene)
    words = re.sub(r",? ?\b(?:in|of) (?:the|this) (?:picture|image)\b,?", "", question.rstrip("?.")).strip()
    name = any_of(frozenset(known))
    if re.search(r"\bpattern\b|\bspeckled\b|kind of background", words):
        return scene.pattern
    if re.search(r"\bcolou?r\b", words):
        return scene.colour
    if re.search(r"\b(?:letters|written|read|says?)\b", words):
        (sign,) = [thing for thing in things if thing.text]
        return str(sign.text).lower()
    if " a. " in words:
        return _choose(question, things)
    if found := re.search(rf"\bthe (?P<a>{name}) (?P<how>left of|right of|above|below) the (?P<b>{name})$", words):
        return _compare(found, things)
    if re.search(r"\b(?:many|count|number)\b", words):
        return _count(words, things, known)
    if found := re.search(PLACE, words):
        here = [thing.name for thing in things if thing.place == found["place"]]
        return here[0] if here else "nothing"
    if found := re.search(rf"\b{A} ({name})$", words):
        return "yes" if any(thing.name == found[1] for thing in things) else "no"
    found = re.search(rf"\bthe ({name})\b", words)
    assert found is not None, question
    if re.search(r"\b(?:size|small|large|big)\b", words):
        return "large" if _only(found[1], things).large else "small"
    assert re.search(r"\b(?:where|place|position)\b", words), question
    return _only(found[1], things).place


def _only(name: str, things: list[Seen]) -> Seen:
    (thing,) = [thing for thing in things if thing.name == name]
    return thing


def _choose(question: str, things: list[Seen]) -> str:
    place = re.search(PLACE, question)
    assert place is not None
    options = dict(re.findall(r"\b([a-d])\. ([a-z ]+?)(?= [a-d]\. | answer with)", question))
    assert len(set(options.values())) == 4, question
    (right,) = [
        letter for letter, name in options.items() for thing in things if (thing.place, thing.name) == (place[0], name)
    ]
    return str(right)


def _compare(found: re.Match[str], things: list[Seen]) -> str:
    first, second = _only(found["a"], things), _only(found["b"], things)
    if found["how"] in ("left of", "right of"):
        assert first.column != second.column, "the picture does not say"
        return "yes" if (first.column < second.column) == (found["how"] == "left of") else "no"
    assert first.row != second.row, "the picture does not say"
    return "yes" if (first.row < second.row) == (found["how"] == "above") else "no"


def _count(words: str, things: list[Seen], known: set[str]) -> str:
    asks = r"(?:how many|count the|number of) (.+?)(?: are there| there are| are| do you see| can you see)?$"
    found = re.search(asks, words)
    assert found is not None, words
    if found[1] in ("objects", "things"):
        return str(len(things))
    name = one_of(found[1], known)
    return str(sum(thing.name == name for thing in things))


def read_full_caption(caption: str) -> tuple[Counter[tuple[str, str]], str, str]:
    """The things (what, where), the pattern and the colour that a complete caption tells of."""
    what = rf"{A} (?P<what>sign that says [A-Z]{{2}}|(?:small|large) [a-z ]+?)"
    orders = (rf"{what} (?:at|in) the {PLACE}", rf"at the {PLACE} {what}(?=,| and (?:at|in) the|$)")
    order = orders[caption.startswith("on ")]
    background = re.search(r"a (plain|gradient|speckled) ([a-z]+) background", caption)
    assert background is not None, caption
    things = Counter((found["what"], found["place"]) for found in re.finditer(order, caption))
    return things, background[1], background[2]


def caption_holds(caption: str, scene: Scene, known: set[str]) -> bool:
    """Whether every statement of a partial caption (places, names, a pair, one thing) is true of the scene."""
    things = look(scene)
    caption = re.sub(r"^(?:there is|this picture shows|a picture of|an image with) ", "", caption)
    if found := re.search(r" (?:of an? |on an? [a-z]+ |on )([a-z]+)(?: picture| background)?$", caption):
        if found[1] != scene.colour:
            return False
        caption = caption[: found.start()]
    if " above " in caption:
        upper, lower = (_described(part, things, known) for part in caption.split(" above "))
        return any(a.row < b.row for a in upper for b in lower)
    parts = re.split(r", | and ", caption)
    if any(" at the " in part for part in parts):
        return all(
            any(thing.place == where for thing in _described(what, things, known))
            for what, where in (part.split(" at the ") for part in parts)
        )
    return all(_counted(part, things, known) for part in parts)


def _described(phrase: str, things: list[Seen], known: set[str]) -> list[Seen]:
    """The things that "a small fox", "a fox" or "a sign that says KM" can mean."""
    found = re.fullmatch(rf"{A} (?:(small|large) )?(.+?)(?: that says ([A-Z]{{2}}))?", phrase)
    assert found is not None, phrase
    size, name, text = found.groups()
    assert name in known, phrase
    return [
        thing
        for thing in things
        if thing.name == name and size in (None, "large" if thing.large else "small") and text in (None, thing.text)
    ]


def _counted(phrase: str, things: list[Seen], known: set[str]) -> bool:
    number, _, rest = phrase.partition(" ")
    if number in DIGITS:
        return sum(thing.name == one_of(rest, known) for thing in things) == DIGITS[number]
    meant = len(_described(phrase, things, known))
    return meant >= 1 if rest.startswith(("small ", "large ")) else meant == 1
