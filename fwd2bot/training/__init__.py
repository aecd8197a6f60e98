"""Training: one loop for every stage (tower, language model, LLaVA, compressors), resumable, driven by a YAML file."""

from fwd2bot.training.loop import run

__all__ = ["run"]
