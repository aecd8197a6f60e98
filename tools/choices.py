"""Fill the table of what the paper leaves open, in docs/training.md: `python tools/choices.py`.

What is used here is read from the configuration of the bundled model, so run it when that has changed.
"""

from pathlib import Path
from typing import Any

import yaml
from sections import write_section

from fwd2bot.compressors.config import CompressorConfig
from fwd2bot.training.config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs/emoji-world/fwd2bot.yaml"
OPEN = (
    ("LoRA rank and alpha", "LLaVA-1.5: 128 and 256", ("rank", "alpha"), ""),
    ("learning rate", "LLaVA-1.5: 2e-4; VladVA: 1e-4", ("optimizer", "learning_rate"), ""),
    ("schedule", "LLaVA-1.5: 3 % warm-up, cosine", ("warmup", "cooldown"), "shares of the steps, straight lines"),
    ("temperature of L_disc", "E5-V: 0.05; VLM2Vec: 0.02", ("temperature",), "fixed"),
    ("batch of L_disc", "VladVA: 1024", ("batch_size",), ""),
    ("initial summary embeddings", "AutoCompressors: the end-of-sequence embedding", ("initial_embeddings",), ""),
    ("chat template of pass 2", "LLaVA-1.5: `vicuna_v1`", ("template",), ""),
    ("prompt of the text branch", "", ("text_prompt",), "null is that of the images; so is the adapter"),
    ("which outputs are the summary tokens", "silent; “at the output of the model”", ("tokens",), ""),
    ("scale of the tokens where they enter pass 2", "", ("token_scale",), ""),
    ("numbers of tokens", "silent", ("token_counts",), "one model"),
    ("weights of the two losses", "the paper: 1 and 1", ("losses",), ""),
)
"""What is open, what others use, the settings that say it, a remark."""


def choices(path: Path) -> str:
    """The table, with the values of a configuration."""
    config = TrainConfig.load(path)
    values = {**config.to_dict(), **CompressorConfig.from_dict(config.compressor).to_dict()}
    lines = ["| open | what others use | here |", "|---|---|---|"]
    for what, others, names, remark in OPEN:
        used = ", ".join(f"`{name}: {_as_yaml(values[name])}`" for name in names)
        lines.append(f"| {what} | {others} | {used}{f' ({remark})' if remark else ''} |")
    return "\n".join(lines)


def _as_yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return text.removesuffix("...\n").strip()


def main() -> int:
    write_section(ROOT / "docs/training.md", "choices", choices(CONFIG))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
