"""A virtual environment for a program that is none of ours, on top of the one that runs this.

What is here (torch, transformers, Lance) is seen from there and stays as it is; what is missing is installed beside it,
below work/environments/. So torch is there once, and no second build of it is fetched.
"""

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "work/environments"


def python_with(name: str, packages: Sequence[str], alone: Sequence[str] = ()) -> Path:
    """The Python of the environment of that name, with this checkout and these packages in it; made where it is not.

    alone: packages that are installed without what they ask for. Raises CalledProcessError where pip fails.
    """
    folder = WORK / name
    ready, wanted = folder / "ready", "\n".join((sys.prefix, *packages, "without what they ask for:", *alone))
    python = folder / "bin/python"
    if not (ready.exists() and ready.read_text(encoding="utf-8") == wanted):
        venv.EnvBuilder(clear=True, symlinks=True, with_pip=False).create(folder)
        _see(folder)
        constraints = folder / "constraints.txt"
        constraints.write_text("\n".join(sorted(_here())) + "\n", encoding="utf-8")
        for what in (
            ["--constraint", str(constraints), *packages],
            ["--no-deps", *alone] if alone else [],
            ["--no-deps", "--editable", str(ROOT)],
        ):
            if what:
                print("pip install", *what, file=sys.stderr)
                pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *what]
                subprocess.run(pip, check=True)
        ready.write_text(wanted, encoding="utf-8")
    return python


def run_inside(python: Path, *arguments: object) -> str:
    """What a command prints, run by that Python, away from any hub."""
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(python), *map(str, arguments)]
    return subprocess.run(command, check=True, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True).stdout


def _see(folder: Path) -> None:
    """Let the environment see the packages of this one, links to editable ones included."""
    inside = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    inside.joinpath("outer.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n", encoding="utf-8"
    )


def _here() -> set[str]:
    """The versions that are here; they may not change."""
    return {f"{one.name}=={one.version}" for one in distributions() if one.name != "fwd2bot"}
