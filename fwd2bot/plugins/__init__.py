"""Models of ours inside other people's programs; each file imports one of them, and needs it installed.

sentence_transformers.py: vectors, `SentenceTransformer(modules=[...])`. mteb.py: the same where MTEB measures.
lmms_eval.py: answers, `lmms-eval --model fwd2bot`.
"""

from typing import Any


def lmms_eval_manifest() -> Any:
    """What lmms-eval asks for through the entry point `lmms_eval.models` of this package."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="fwd2bot", simple_class_path="fwd2bot.plugins.lmms_eval.CompressedModel")
