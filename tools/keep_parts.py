"""Keep what the base was made of: `python tools/keep_parts.py work/emoji-world checkpoints/emoji-world`.

The tower (a retrieval rival) and the language model (the other start of Tab. 13) are not inside the bundled model as
they were before LLaVA's training; here they are, in bfloat16, as `init: {tower: ..., language: ...}` reads them.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPModel, LlamaForCausalLM

CLASSES: dict[str, Any] = {"tower": CLIPModel, "language": LlamaForCausalLM}
BESIDE = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "README.md")


def keep_parts(trained: Path, kept: Path) -> None:
    """Write `tower` and `language` of a folder of stages to `kept`, in the place of what is there."""
    for part, loader in CLASSES.items():
        source, target = trained / part, kept / part
        shutil.rmtree(target, ignore_errors=True)
        loader.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(target)
        for name in BESIDE:
            if (source / name).exists():
                shutil.copy2(source / name, target / name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path)
    parser.add_argument("kept", type=Path)
    options = parser.parse_args()
    keep_parts(options.trained, options.kept)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
