"""Put a trained model into the package: `python tools/bundle.py work/emoji-world/fwd2bot emoji-world`.

The whole model, its base included, in bfloat16, with the card that training wrote. It replaces one of that name.
"""

import argparse
import re
import shutil
from pathlib import Path

import torch

from fwd2bot.checkpoint import load_model, save_model
from fwd2bot.model import BUNDLED

LIMIT = 25 * 2**20


def bundle(trained: Path, target: Path) -> int:
    """Write the model to `target`; gives its bytes. Raises ModelError, and SystemExit where it is too large."""
    compressor = load_model(trained)
    beside = target.with_name(target.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    save_model(beside, compressor, dtype=torch.bfloat16)
    card = (trained / "README.md").read_text(encoding="utf-8")
    (beside / "README.md").write_text(re.sub(r"(?m)^# .*$", f"# {target.name}", card, count=1), encoding="utf-8")
    size = sum(path.stat().st_size for path in beside.rglob("*") if path.is_file())
    if size > LIMIT:
        raise SystemExit(f"{beside} has {size:,} bytes, and at most {LIMIT:,} may be bundled")
    shutil.rmtree(target, ignore_errors=True)
    beside.replace(target)
    return size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path)
    parser.add_argument("name")
    options = parser.parse_args()
    target = BUNDLED / options.name
    print(f"{target.name}: {bundle(options.trained, target):,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
