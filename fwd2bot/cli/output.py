"""What a person reads: progress, numbers, lists; and what a program reads: JSON."""

import json
import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from fwd2bot.wording import duration


class ProgressLine:
    """Done, rate and time left on stderr: one line that is rewritten, or plain lines now and then for a file."""

    def __init__(self, what: str, unit: str) -> None:
        self.what, self.unit = what, unit
        self.terminal = sys.stderr.isatty()
        self.every = 0.1 if self.terminal else 5.0
        self._recent: deque[tuple[float, int]] = deque([(time.monotonic(), 0)], maxlen=200)
        self._printed = self._recent[0][0]
        self._width = 0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total:
            self.close()
        elif now - self._printed >= self.every:
            self._printed = now
            self._recent.append((now, done))
            self._print(self._line(done, total))

    def close(self) -> None:
        """Leave a clean line for what comes next."""
        if self._width:
            self._print("")
            print("\r", end="", file=sys.stderr, flush=True)
            self._width = 0

    def _line(self, done: int, total: int) -> str:
        (began, first), (now, last) = self._recent[0], self._recent[-1]
        rate = (last - first) / max(now - began, 1e-9)
        left = f", {duration((total - done) / rate)} left" if rate > 0 else ""
        return f"{self.what} {done:,} of {total:,} {self.unit} ({rate:.3g} a second{left})"

    def _print(self, line: str) -> None:
        if self.terminal:
            print("\r" + line.ljust(self._width), end="", file=sys.stderr, flush=True)
            self._width = len(line)
        else:
            print(line, file=sys.stderr, flush=True)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """One value; a list with an item a line, so that line tools can read it, too."""
    if isinstance(value, list):
        lines = ",\n".join(json.dumps(item, ensure_ascii=_ascii_only()) for item in value)
        print(f"[\n{lines}\n]" if lines else "[]")
    else:
        print(json.dumps(value, ensure_ascii=_ascii_only(), indent=2))


def print_json_with(value: dict[str, Any], key: str, items: Iterable[Any]) -> None:
    """What `print_json` prints of `{**value, key: [*items]}`, item by item, so that memory holds one of them."""
    head = json.dumps({**value, key: []}, ensure_ascii=_ascii_only(), indent=2).removesuffix("]\n}")
    print(head, end="")
    before = "\n    "
    for item in items:
        text = json.dumps(item, ensure_ascii=_ascii_only(), indent=2).replace("\n", "\n    ")
        print(before + text, end="")
        before = ",\n    "
    print("]\n}" if before == "\n    " else "\n  ]\n}")


def _ascii_only() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"


def print_rows(rows: Iterable[Sequence[str]]) -> None:
    """Tab-separated lines; line breaks, tabs and their like in a value become spaces."""
    for row in rows:
        print("\t".join(map(one_line, row)), flush=True)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their longest value."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip())


def print_results(results: Sequence[tuple[str, float]], indent: str = "") -> None:
    for name, score in results:
        print(f"{indent}{score:6.3f}  {one_line(name)}")


def one_line(text: str) -> str:
    """Without line breaks, tabs and what else moves a terminal's cursor: a file's name may have any of it."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text)
