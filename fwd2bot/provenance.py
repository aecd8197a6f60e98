"""Where a figure comes from: commit, command and machine."""

import platform
import subprocess
import sys
from pathlib import Path


def provenance() -> dict[str, str]:
    """Commit, command and machine, for results and cards."""
    import torch

    package = Path(__file__).resolve().parent
    try:
        told = subprocess.run(
            ["git", "rev-parse", "--show-toplevel", "HEAD"], capture_output=True, text=True, cwd=package, check=True
        )
        top, commit = told.stdout.splitlines()
        if Path(top).resolve() != package.parent:  # installed somewhere in another repository
            commit = "unknown"
    except (OSError, ValueError, subprocess.CalledProcessError):
        commit = "unknown"
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    program = Path(sys.argv[0]).name.replace("__main__.py", "fwd2bot")
    return {"commit": commit, "command": " ".join([program, *sys.argv[1:]]), "machine": machine}
