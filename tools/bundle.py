"""Put a trained model into the package: `python tools/bundle.py work/emoji-world/fwd2bot emoji-world`.

The whole model, its base included, in bfloat16, with the card that training wrote. It replaces one of that name.
With `--base emoji-world` it shares the base of that bundled model, which must be the one that it was trained on.
"""

import argparse
import re
import shutil
from pathlib import Path

import torch

from fwd2bot.adapters import without_adapters
from fwd2bot.checkpoint import load_model, save_model
from fwd2bot.compressors.base import Compressor
from fwd2bot.model import BUNDLED

LIMIT = 25 * 10**6  # bytes of all bundled models


def bundle(trained: Path, target: Path, base: str | None = None) -> int:
    """Write the model to `target`; gives the bytes of all models beside it, its own included.

    Raises ModelError, and SystemExit where they are too many or `base` is not the base of this model.
    """
    compressor = load_model(trained)
    beside = target.with_name(target.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        save_model(beside, compressor, base=base and f"../{base}/base", dtype=torch.bfloat16)
        if base is not None and not _same_base(beside, compressor):
            raise SystemExit(f"{trained} was trained on another base than that of {base}: bundle it whole")
        card = (trained / "README.md").read_text(encoding="utf-8")
        (beside / "README.md").write_text(re.sub(r"(?m)^# .*$", f"# {target.name}", card, count=1), encoding="utf-8")
        others = [path.parent for path in target.parent.glob("*/config.json") if path.parent not in (beside, target)]
        size = sum(path.stat().st_size for model in (beside, *others) for path in model.rglob("*") if path.is_file())
        if size > LIMIT:
            raise SystemExit(f"with {beside} the models have {size:,} bytes, and at most {LIMIT:,} may be bundled")
        shutil.rmtree(target, ignore_errors=True)
        beside.replace(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return size


def _same_base(folder: Path, trained: Compressor) -> bool:
    """Whether the base that the folder names is that of the trained model, rounded to bfloat16."""
    there = load_model(folder).llava.network.state_dict()
    return all(
        torch.equal(there[name], weight.to(torch.bfloat16).to(weight.dtype))
        for name, weight in without_adapters(trained.llava.network.state_dict()).items()
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path)
    parser.add_argument("name")
    parser.add_argument("--base", help="the bundled model whose base it shares")
    options = parser.parse_args()
    target = BUNDLED / options.name
    print(f"{target.name}: {bundle(options.trained, target, options.base):,} bytes with the other models")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
