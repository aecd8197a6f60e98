"""A virtual environment for a program that is none of ours, on top of the one that runs this.

What is here (torch, transformers, Lance) is seen from there and stays as it is; what is missing is installed beside it,
below work/environments/. So torch is there once, and no second build of it is fetched.
"""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "work/environments"


def python_with(
    name: str, packages: Sequence[str] = (), alone: Sequence[str] = (), but: re.Pattern[str] | None = None
) -> Path:
    """The Python of the environment of that name, with this checkout and these packages in it; made where it is not.

    alone: packages that are installed without what they ask for. but: what they ask for is installed after all, and
    lies before what is here where that is another version; all but what this fits.

    Raises CalledProcessError where pip fails.
    """
    folder = WORK / name
    told = [sys.prefix, *packages, "without what they ask for:", *alone]
    told += [] if but is None else ["but what they ask for, except:", but.pattern]
    ready, wanted, python = folder / "ready", "\n".join(told), folder / "bin/python"
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return python
    venv.EnvBuilder(clear=True, symlinks=True, with_pip=False).create(folder)
    _see(folder)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(sorted(_here())) + "\n", encoding="utf-8")
    if packages:
        _install(python, "--constraint", constraints, *packages)
    if alone:
        _install(python, "--no-deps", *alone)
    if but is not None:
        _install(python, *(one for one in _asked_by(alone, _site(folder)) if not but.match(one)))
    _install(python, "--no-deps", "--editable", ROOT)
    ready.write_text(wanted, encoding="utf-8")
    return python


def _install(python: Path, *what: object) -> None:
    print("pip install", *what, file=sys.stderr)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *map(str, what)]
    subprocess.run(pip, check=True)


def _asked_by(packages: Sequence[str], site: Path) -> list[str]:
    """What these packages, which lie there, ask for without any extra."""
    names = [re.split(r"[^\w.-]", one)[0] for one in packages]
    asked = [
        line for name in names for found in distributions(name=name, path=[str(site)]) for line in found.requires or []
    ]
    return [line for line in asked if "extra ==" not in line]


def run_inside(python: Path, *arguments: object) -> str:
    """What a command prints, run by that Python, away from any hub."""
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(python), *map(str, arguments)]
    return subprocess.run(command, check=True, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True).stdout


def _see(folder: Path) -> None:
    """Let the environment see the packages of this one, links to editable ones included."""
    line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    _site(folder).joinpath("outer.pth").write_text(line, encoding="utf-8")


def _site(folder: Path) -> Path:
    return folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def _here() -> set[str]:
    """The versions that are here; they may not change."""
    return {f"{one.name}=={one.version}" for one in distributions() if one.name != "fwd2bot"}
