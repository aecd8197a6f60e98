"""Official files as they are downloaded: read whole, and every field that is used checked."""

import json
from pathlib import Path
from typing import Any, TypeVar

from fwd2bot.errors import InputError

Value = TypeVar("Value")
_KINDS = {str: "a text", int: "a whole number", list: "a list", dict: "an object"}


def read_text(path: Path) -> str:
    """A file's text. Raises InputError where it is not there or is no text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None


def read_json(path: Path) -> Any:
    """A file's JSON. Raises InputError where it is not there or is no JSON."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): download it again.") from None


def rows_of(content: Any, place: str) -> list[Any]:
    """The content as a list. Raises InputError where it is none, naming the place that it stands at."""
    if not isinstance(content, list):
        raise InputError(f"{place} is {_short(content)}; it must be a list.")
    return content


def field(row: Any, name: str, kind: type[Value], place: str) -> Value:
    """row[name]. Raises InputError where there is none, or one of another kind, naming the row's place."""
    if not isinstance(row, dict):
        raise InputError(f"{place} is {_short(row)}; it must be an object.")
    if name not in row:
        raise InputError(f"{place} has no {name}.")
    value = row[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{place}: {name} is {_short(value)}; it must be {_KINDS[kind]}.")
    return value


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:40] + "..."
