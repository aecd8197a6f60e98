"""Where a figure comes from."""

import subprocess
from pathlib import Path

import pytest

from fwd2bot import provenance


def test_the_commit_is_of_the_repository_that_holds_the_package_and_of_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that was installed below somebody's project is of no commit of that project."""
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    head = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    found = {}
    for place in ("fwd2bot", "env/lib/fwd2bot"):
        (tmp_path / place).mkdir(parents=True)
        monkeypatch.setattr(provenance, "__file__", str(tmp_path / place / "provenance.py"))
        found[place] = provenance.provenance()["commit"]
    assert found == {"fwd2bot": head.stdout.strip(), "env/lib/fwd2bot": "unknown"}
