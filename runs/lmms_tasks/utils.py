"""POPE's official files, as `fwd2bot world --benchmarks` writes them, by lmms-eval's own prompt and metrics."""

from pathlib import Path
from typing import Any

from lmms_eval.tasks.pope.utils import (
    pope_aggregate_accuracy,
    pope_aggregate_f1_score,
    pope_doc_to_text,
    pope_process_results,
)
from PIL import Image

PICTURES = Path("work/plugins/pope/val2014")
__all__ = ["picture", "pope_aggregate_accuracy", "pope_aggregate_f1_score", "process_results", "question"]


def picture(doc: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(PICTURES / doc["image"]).convert("RGB")]


def question(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, str] | None = None) -> str:
    text: str = pope_doc_to_text({"question": doc["text"]}, lmms_eval_specific_kwargs or {})
    return text


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = pope_process_results({**doc, "answer": doc["label"]}, results)
    return found
