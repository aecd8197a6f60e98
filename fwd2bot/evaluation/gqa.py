"""GQA: exact match over balanced questions.

Source: Hudson and Manning 2019, eval.py; LLaVA (c121f04), convert_gqa_for_eval.py.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from fwd2bot.evaluation.base import SHORT_ANSWER, Benchmark, Sample, check_complete, means
from fwd2bot.evaluation.files import found, read_json


class GQA(Benchmark):
    """Keys are question ids. A question that is not balanced is asked, where the file has it, and not scored."""

    name = "gqa"
    splits = ("testdev_balanced", "testdev_all", "val_balanced", "val_all", "submission_all")
    metric = "accuracy"
    served = ("submission_all",)

    def __init__(self, folder: Path, split: str | None = None) -> None:
        super().__init__(folder, split)
        file = f"{self.split}_questions.json"
        self._questions = dict(read_json(found(folder / file, folder / "questions1.2" / file)).items())

    def samples(self) -> Sequence[Sample]:
        images = self.folder / "images"
        return [
            Sample(key, images / f"{row.text('imageId')}.jpg", row.text("question") + SHORT_ANSWER)
            for key, row in self._questions.items()
        ]

    def keys(self) -> Collection[str]:
        return self._questions.keys()

    def score(self, predictions: Mapping[str, str]) -> dict[str, float]:
        """`accuracy`; `open` (a query) and `binary` (all others); and by structural and semantic type."""
        self.check_scored_here()
        scored = {key: row for key, row in self._questions.items() if row.flag("isBalanced")}
        check_complete(scored, predictions)
        hits = []
        for key, row in scored.items():
            hit = float(_processed(predictions[key]) == row.text("answer"))
            types = row.row("types")
            structural = types.text("structural")
            names = ("accuracy", "open" if structural == "query" else "binary", f"structural/{structural}")
            hits += [(name, hit) for name in (*names, f"semantic/{types.text('semantic')}")]
        return means(hits)

    def submission(self, predictions: Mapping[str, str]) -> tuple[str, bytes]:
        check_complete(self._questions, predictions)
        rows = [{"questionId": key, "prediction": _processed(text)} for key, text in predictions.items()]
        return f"{self.split}_predictions.json", json.dumps(rows).encode()


def _processed(answer: str) -> str:
    return answer.rstrip(".").lower()
