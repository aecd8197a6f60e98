"""Fill in what the examples print: `python tools/run_examples.py` runs each and writes examples/README.md."""

import os
import subprocess
import sys
from pathlib import Path

from sections import write_section

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples"
DOCUMENT = FOLDER / "README.md"


def names() -> list[str]:
    return sorted(path.name for path in FOLDER.glob("*.py"))


def printed(name: str) -> str:
    """What an example prints. Raises CalledProcessError where it fails."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, FOLDER / name], env=environ, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.expandtabs(16)


def section(text: str) -> str:
    return f"```\n{text.rstrip()}\n```"


def main() -> int:
    for name in names():
        write_section(DOCUMENT, name, section(printed(name)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
