"""Runs a command in this process."""

import sys
from collections.abc import Callable
from io import StringIO
from typing import NamedTuple

import pytest

from fwd2bot.cli import main


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


def make_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str, stdin: str = "") -> Ran:
        monkeypatch.setattr(sys, "stdin", StringIO(stdin))
        try:
            code = main(list(arguments))
        except SystemExit as exit_:
            code = int(str(exit_.code))
        return Ran(code, *capsys.readouterr())

    return call
