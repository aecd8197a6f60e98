"""Write the lock files anew: `python tools/lock.py` (needs uv, and the public package index).

requirements/run.txt        what fwd2bot needs, to serve, too, but for torch
requirements/dev.txt        what the checks and tests need beyond that
requirements/torch.txt      torch as the package index has it, with the CUDA libraries it needs on Linux

Versions that are locked already stay, unless `--upgrade` (all) or `--upgrade-package NAME` is given.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"
HEAD = "# Written by tools/lock.py; do not edit.\n"
CUDA = re.compile(r"triton|(nvidia|cuda)-.*")


def resolve(output: Path, *options: str) -> dict[str, str]:
    """Resolve for every Python and platform that pyproject.toml names: package -> its lines, without markers."""
    command = ["uv", "pip", "compile", "pyproject.toml", "-", "--constraints", "requirements/constraints.in"]
    command += ["--universal", "--python-version", "3.11", "--no-build", "--generate-hashes"]
    command += ["--no-header", "--no-annotate", "--quiet", "--output-file", str(output), *options]
    subprocess.run(command, cwd=ROOT, input="flit_core\n", text=True, check=True)
    blocks = [block for block in re.split(r"^(?=\S)", output.read_text(), flags=re.MULTILINE) if "==" in block]
    packages = {block.split("==")[0]: re.sub(r" ; .* \\", r" \\", block, count=1) for block in blocks}
    if len(packages) != len(blocks):
        raise SystemExit("one package has two versions for different Pythons: hold it back in constraints.in")
    return packages


def main(options: list[str]) -> None:
    known = "".join(path.read_text() for path in sorted(LOCKS.glob("*.txt")))
    with tempfile.TemporaryDirectory() as folder:
        everything = Path(folder, "everything.txt")
        everything.write_text(known)
        wanted = resolve(everything, "--extra", "dev", *options)
        needed = Path(folder, "needed.txt")
        needed.write_text(everything.read_text())
        run = resolve(needed, "--extra", "serve").keys()
    cuda = {name: lines.replace(" \\", " ; sys_platform == 'linux' \\", 1) for name, lines in wanted.items()
            if CUDA.fullmatch(name)}  # fmt: skip
    files = {
        "torch.txt": {"torch": wanted.pop("torch").replace("==", "===", 1)} | cuda,
        "run.txt": {name: wanted[name] for name in wanted if name in run - cuda.keys()},
        "dev.txt": {name: wanted[name] for name in wanted if name not in run},
    }
    for file, packages in files.items():
        (LOCKS / file).write_text(HEAD + "".join(packages.values()))


if __name__ == "__main__":
    main(sys.argv[1:])
