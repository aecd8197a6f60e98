"""The examples run and print what examples/README.md shows."""

import re
from pathlib import Path

import pytest
import run_examples as examples
from sections import read_section

from fwd2bot.model import bundled_names

ROOT = Path(__file__).parent.parent


def test_every_example_is_in_the_readme() -> None:
    told = re.findall(r"^## \[(\w+\.py)\]\((\w+\.py)\)", examples.DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert sorted(one for one, _ in told) == sorted(link for _, link in told) == examples.names()


@pytest.mark.parametrize("name", examples.names())
def test_example_prints_what_the_readme_shows(name: str) -> None:
    if not {"emoji-world", "emoji-world-4"} <= set(bundled_names()):
        pytest.skip("needs the bundled models emoji-world and emoji-world-4")
    shown = read_section(examples.DOCUMENT, name)
    assert examples.section(examples.printed(name)) == shown, "run `python tools/run_examples.py`"


@pytest.mark.parametrize("name", examples.names())
def test_example_uses_nothing_private(name: str) -> None:
    code = (examples.FOLDER / name).read_text("utf-8")
    assert not re.findall(r"import _|\._[a-z]", code)
    modules = set(re.findall(r"^(?:from|import) (fwd2bot[\w.]*)", code, re.MULTILINE))
    assert {"fwd2bot", "fwd2bot.engine"} <= modules <= {"fwd2bot", "fwd2bot.engine", "fwd2bot.store.duplicates"}
