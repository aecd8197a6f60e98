"""Environments for other people's programs: what is asked of pip, which is not run here."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import own_environment
import pytest
from own_environment import ROOT, python_with

METADATA = """Metadata-Version: 2.1
Name: big-thing
Version: 1.0
Requires-Dist: torch==2.0
Requires-Dist: torchvision
Requires-Dist: torchy>=1
Requires-Dist: small<3; python_version > "3"
Requires-Dist: rare; extra == "all"
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What pip was told to install; big-thing's metadata are there once it was."""
    lines: list[list[str]] = []

    def run(command: list[str], **_: Any) -> None:
        assert command[1:4] == ["-m", "pip", "--python"]
        lines.append(command[command.index("--quiet") + 1 :])
        if "big-thing==1.0" in lines[-1]:
            [site] = Path(command[4]).parent.parent.glob("lib/python*/site-packages")
            (site / "big_thing-1.0.dist-info").mkdir()
            (site / "big_thing-1.0.dist-info/METADATA").write_text(METADATA)

    monkeypatch.setattr(own_environment, "WORK", tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    return lines


def test_what_is_here_stays_as_it_is(asked: list[list[str]], tmp_path: Path) -> None:
    python = python_with("some", ["small"], alone=["big-thing==1.0"])
    constraints = str(tmp_path / "some/constraints.txt")
    whole = ["--no-deps", "--editable", str(ROOT)]
    assert asked == [["--constraint", constraints, "small"], ["--no-deps", "big-thing==1.0"], whole]
    assert f"pytest=={pytest.__version__}\n" in Path(constraints).read_text()
    assert python.exists()
    assert Path(sys.executable) != python


def test_what_a_package_asks_for_but_for_some_is_installed_in_its_versions(asked: list[list[str]]) -> None:
    python_with("vllm", alone=["big-thing==1.0"], but=re.compile(r"torch(vision)?\b"))
    assert asked[:-1] == [["--no-deps", "big-thing==1.0"], ["torchy>=1", 'small<3; python_version > "3"']]


def test_an_environment_is_made_once_for_the_same_wishes(asked: list[list[str]]) -> None:
    python_with("some", ["small"])
    python_with("some", ["small"])
    assert len(asked) == 2
    python_with("some", ["small>1"])
    assert len(asked) == 4
