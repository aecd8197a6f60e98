"""The official files, read with a sentence for whatever is not as it should be."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from fwd2bot.errors import InputError


class Row:
    """An object of a file, whose fields are taken with their kinds checked. `place` says where it stands.

    Every method raises InputError that names the file, the place and the field.
    """

    __slots__ = ("place", "value")

    def __init__(self, value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise InputError(f"{place} is {_short(value)}, not an object: fetch the file again.")
        self.value: dict[str, Any] = value
        self.place = place

    def text(self, name: str) -> str:
        value = self._get(name)
        return value if isinstance(value, str) else self._refuse(name, "a text")

    def number(self, name: str) -> int:
        value = self._get(name)
        return value if type(value) is int else self._refuse(name, "a whole number")

    def flag(self, name: str) -> bool:
        value = self._get(name)
        return value if isinstance(value, bool) else self._refuse(name, "true or false")

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        value = self._get(name)
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            self._refuse(name, "a list of texts")
        return list(value)

    def row(self, name: str) -> "Row":
        """An object in the object."""
        value = self._get(name)
        return Row(value, f"{self.place}, {name}") if isinstance(value, dict) else self._refuse(name, "an object")

    def rows(self, name: str) -> list["Row"]:
        """A list of objects, one at least."""
        value = self._get(name)
        if not isinstance(value, list) or not value:
            self._refuse(name, "a list of objects")
        return [Row(one, f"{self.place}, {name}[{number}]") for number, one in enumerate(value)]

    def items(self) -> Iterator[tuple[str, "Row"]]:
        """The fields of an object all of whose fields are objects; it has one at least."""
        if not self.value:
            raise InputError(f"{self.place} is empty: fetch it again.")
        for name, value in self.value.items():
            yield name, Row(value, f"{self.place}, {name}")

    def _get(self, name: str) -> Any:
        if name not in self.value:
            raise InputError(f"{self.place} has no field {name!r}: fetch the file again.")
        return self.value[name]

    def _refuse(self, name: str, wanted: str) -> NoReturn:
        found = _short(self.value[name])
        raise InputError(f"{self.place}: field {name!r} is {found}, not {wanted}: fetch the file again.")


def found(*paths: Path) -> Path:
    """The first of the paths that is there; the first of all where none is."""
    return next((path for path in paths if path.exists()), paths[0])


def check_there(path: Path) -> None:
    """Raises InputError where it is not: a whole run would come to it in the end."""
    if not path.exists():
        raise _not_there(path)


def _not_there(path: Path) -> InputError:
    return InputError(f"{path} is not there: docs/benchmarks.md says what to download into which folder.")


def read_text(path: Path) -> str:
    """A text file. Raises InputError where it is not there, or is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise _not_there(path) from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8: fetch it again.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None


def read_json(path: Path) -> Row:
    """A file that holds one object."""
    return Row(_parsed(read_text(path), path), str(path))


def read_json_list(path: Path) -> list[Row]:
    """A file that holds a list of objects, one at least."""
    content = _parsed(read_text(path), path)
    if not isinstance(content, list) or not content:
        raise InputError(f"{path} holds {_short(content)}, not a list of objects: fetch it again.")
    return [Row(value, f"{path}, entry {number}") for number, value in enumerate(content)]


def read_json_lines(path: Path) -> list[Row]:
    """A file with an object a line, one at least."""
    lines = enumerate(read_text(path).split("\n"), 1)
    rows = [Row(_parsed(line, f"{path}, line {n}"), f"{path}, line {n}") for n, line in lines if line.strip()]
    if not rows:
        raise InputError(f"{path} is empty: fetch it again.")
    return rows


def by_key(rows: Iterable[Row], key_of: Callable[[Row], str]) -> dict[str, Row]:
    """Rows by what names them. Raises InputError where two have the same name."""
    found: dict[str, Row] = {}
    for row in rows:
        key = key_of(row)
        if key in found:
            raise InputError(f"{row.place} is about {key!r}, as {found[key].place} is: fetch the file again.")
        found[key] = row
    return found


def write_json(path: Path, content: Any) -> None:
    """The whole file or nothing. Raises InputError where it cannot be written."""
    beside = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error


def _parsed(text: str, place: Path | str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is not whole JSON ({error}): fetch it again.") from None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
