"""Errors that a user can act on. The command line prints the sentence and exits with the code.

Fwd2BotError            1
├── InputError          2   an argument, a question, a file of questions, a configuration
├── ImageError          3   a picture that cannot be read (one of many is listed, and the rest goes on)
├── ModelError          4   a model folder that is missing, damaged or of another kind
└── StoreError          5   a store that is missing, damaged, or written by another model
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Fwd2BotError(Exception):
    """Base of all errors that are the user's to mend; the message is one sentence with the remedy."""

    exit_code = 1


class InputError(Fwd2BotError):
    """An argument, question, list or configuration cannot be used."""

    exit_code = 2


class ImageError(Fwd2BotError):
    """A picture cannot be read."""

    exit_code = 3


class ModelError(Fwd2BotError):
    """A model cannot be loaded or does not fit."""

    exit_code = 4


class StoreError(Fwd2BotError):
    """A store cannot be opened, or its rows belong to another model."""

    exit_code = 5


def check_many(given: Any, what: str) -> None:
    """Raises InputError for what cannot be gone through, and for one text: its letters would be taken one by one."""
    if isinstance(given, str | Path):
        raise InputError(f"{str(given)[:80]!r} is no list of {what}; put it in a list.")
    if not (hasattr(given, "__iter__") or hasattr(given, "__getitem__")):
        raise InputError(f"A {type(given).__name__} is no list of {what}; put it in a list.")


def check_list(given: Any, what: str) -> None:
    """Raises InputError as `check_many`, and for what has no length and order."""
    check_many(given, what)
    if not (hasattr(given, "__len__") and hasattr(given, "__getitem__")) or isinstance(given, Mapping):
        raise InputError(f"A {type(given).__name__} is no list of {what}; put what it gives in a list.")


def check_texts(given: Any, what: str) -> None:
    """Raises InputError for no list, and where one of the list is no text."""
    check_list(given, what)
    for one in given:
        if not isinstance(one, str):
            raise InputError(f"The {what} hold a {type(one).__name__}, and each is a text.")


def no_numbers(image: str) -> str:
    """Why an image has no row, in a sentence."""
    return f"The model gave no finite numbers for {image}: try --dtype float32."
