"""How answers in words are made alike before they are compared, and the soft score that compares them.

Two processors share their steps: the official one of VQA, and the one of EvalAI, which LLaVA-1.5 uses for TextVQA and
for what it sends to servers. Slips of the published code are kept, since every published figure has them.

Source: GT-Vision-Lab/VQA (a013f00), vqaEval.py; haotian-liu/LLaVA (c121f04), m4c_evaluator.py.
"""

import re
from collections.abc import Mapping, Sequence

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS_WITH_COMMA = re.compile(r"\d,\d")
_STOP = re.compile(r"\.(?!\d)")  # meant to spare a stop behind a digit, too; it does not
_STOPS = 32  # re.UNICODE stands where the count belongs
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = ("a", "an", "the")
_CONTRACTED = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't
    it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't
    somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's
    they'd they'll they're they've wasn't we've weren't what'll what're what's what've when's where'd where's where've
    who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
"""Written without their apostrophe, they get it back."""
_TWICE = """
    couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've
    there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've
"""
"""Written without one of their two, they get it back."""
_CONTRACTIONS = {
    **{word.replace("'", ""): word for word in _CONTRACTED.split()},
    **{word.replace("'", "", 1): word for word in _TWICE.split()},
    **{word[::-1].replace("'", "", 1)[::-1]: word for word in _TWICE.split()},
    "'ow'sat": "'ow's'at", "'ows'at": "'ow's'at", "ow's'at": "'ow's'at", "somebody'd": "somebodyd", "twas": "'twas",
    "y'all'dve": "y'all'd've", "y'alld've": "y'all'd've", "yall'd've": "y'all'd've",
}  # fmt: skip
"""As published, but for the four with a capital, which nothing in lower case meets, and those that change nothing."""

_STRAIGHT = ("aint", "arent", "cant", "couldve", "couldnt", "weve", "wheres", "whove")
_VIZWIZ = {
    short if short in ("couldn'tve", "hadn'tve") else short.replace("'", "\N{RIGHT SINGLE QUOTATION MARK}"): (
        word if short in _STRAIGHT else word.replace("'", "\N{RIGHT SINGLE QUOTATION MARK}")
    )
    for short, word in _CONTRACTIONS.items()
}
"""Its scorer's table went through a word processor: most apostrophes are typographic, and meet none that are typed."""


def vqa_processed(answer: str) -> str:
    """An answer as the official scorer of VQAv2 compares it."""
    return _processed(answer, _CONTRACTIONS)


def vizwiz_processed(answer: str) -> str:
    """An answer as VizWiz's scorer compares it."""
    return _processed(answer, _VIZWIZ)


def evalai_processed(answer: str) -> str:
    """An answer as TextVQA's scorer compares it, and as LLaVA-1.5 sends it to servers."""
    answer = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return vqa_processed(answer)


def soft_score(answer: str, humans: Sequence[str]) -> float:
    """Mean over the humans of min(1, matches among the others / 3), from 0 to 1; texts are compared as they are."""
    matches = [human == answer for human in humans]
    return sum(min(1.0, (sum(matches) - match) / 3) for match in matches) / len(matches)


def _without_marks(text: str) -> str:
    """Each mark goes where it touches a space anywhere in the text, or digits hold a comma; else it becomes a space."""
    kept = text
    glued = _DIGITS_WITH_COMMA.search(text) is not None
    for mark in _MARKS:
        kept = kept.replace(mark, "" if glued or f"{mark} " in text or f" {mark}" in text else " ")
    return _STOP.sub("", kept, count=_STOPS)


def _processed(answer: str, contractions: Mapping[str, str]) -> str:
    return _words(_without_marks(answer.replace("\n", " ").replace("\t", " ").strip()), contractions)


def _words(text: str, contractions: Mapping[str, str]) -> str:
    """Lower case, numbers to ten as digits, no articles, contractions with their apostrophe, single spaces."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)
