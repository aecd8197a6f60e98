"""Fill the transcript in README.md by running its commands: `python tools/transcript.py`.

They run in an empty folder that holds a copy of the sample album as `album/`, with the bundled model. What they write
to stdout is shown as it is; a command that fails stops the work, and README.md stays as it was.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from sections import write_section

ROOT = Path(__file__).resolve().parent.parent
ALBUM = ROOT / "fwd2bot/bundled/album"
COMMANDS = """\
fwd2bot compress album --store album.store
rm -r album
fwd2bot ask "what is at the top left?" --store album.store --image crown.png --image camera.png
fwd2bot ask "how many lions are there?" --store album.store --image crown.png
fwd2bot ask "how many lions are there?" --store album.store --image crown.png --tokens 4
fwd2bot ask "Is the star below the burger" --store album.store --image sunflower.png
fwd2bot ask "what does the sign say?" --store album.store --image pineapple.png
fwd2bot caption --store album.store --image sunflower.png
fwd2bot search "a burger and a large star" --store album.store --top 3
fwd2bot search "two cars on orange" --store album.store --top 3
fwd2bot info album.store
"""


def transcript(commands: list[str], execute: Callable[[str], str]) -> str:
    """The commands with a $ before each, and what each said below it."""
    return "\n".join(f"$ {command}\n{execute(command)}".rstrip() for command in commands)


def execute_in(folder: Path) -> Callable[[str], str]:
    """Runs a command line in a folder, without a shell; gives its stdout. Raises SystemExit where it fails."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}

    def execute(command: str) -> str:
        program, *arguments = shlex.split(command)
        start = [sys.executable, "-m", "fwd2bot"] if program == "fwd2bot" else [program]
        done = subprocess.run([*start, *arguments], cwd=folder, env=environ, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{command}: exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    return execute


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        shutil.copytree(ALBUM, Path(temporary, "album"))
        text = transcript(COMMANDS.splitlines(), execute_in(Path(temporary)))
    write_section(ROOT / "README.md", "transcript", f"```console\n{text}\n```")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
