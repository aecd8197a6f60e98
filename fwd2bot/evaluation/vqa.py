"""Questions that ten people answered: VQAv2, VizWiz and TextVQA, each with its own way to the soft score."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fwd2bot.errors import InputError
from fwd2bot.evaluation.base import SHORT_ANSWER, Benchmark, Sample, check_complete, means
from fwd2bot.evaluation.files import Row, by_key, check_there, found, read_json, read_json_lines, read_json_list
from fwd2bot.evaluation.normalise import evalai_processed, soft_score, vizwiz_processed, vqa_processed

UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
OCR = "\nReference OCR token: "
_ANNOTATIONS = "v2_mscoco_val2014_annotations.json"
_ASKED = "v2_OpenEnded_mscoco_{}_questions.json"
_FIRST_TOKENS = re.compile("OCR tokens: .*?Question: (.*?) Short answer:", re.DOTALL)


class VQAv2(Benchmark):
    """Keys are question ids. Source: GT-Vision-Lab/VQA (a013f00), vqaEval.py."""

    name = "vqav2"
    splits = ("val", "test-dev", "test")
    metric = "overall"
    served = ("test-dev", "test")

    def __init__(self, folder: Path, split: str | None = None) -> None:
        super().__init__(folder, split)
        self._subset = {"val": "val2014", "test-dev": "test-dev2015", "test": "test2015"}[self.split]
        self._questions = self._read(self._subset)
        check_there(folder / (_ANNOTATIONS if self.split == "val" else _ASKED.format("test2015")))

    def samples(self) -> Sequence[Sample]:
        images = "val2014" if self.split == "val" else "test2015"
        return [
            Sample(
                key,
                self.folder / images / f"COCO_{images}_{row.number('image_id'):012d}.jpg",
                row.text("question") + SHORT_ANSWER,
            )
            for key, row in self._questions.items()
        ]

    def score(self, predictions: Mapping[str, str]) -> dict[str, float]:
        """`overall`, and by type of answer and of question; rounded to two decimals as the official scorer does."""
        self.check_scored_here()
        annotations = read_json(self.folder / _ANNOTATIONS).rows("annotations")
        annotated = by_key(annotations, _number)
        check_complete(annotated, predictions)
        scores = []
        for key, row in annotated.items():
            score = _official_score(predictions[key], row.rows("answers"))
            types = f"answer_type/{row.text('answer_type')}", f"question_type/{row.text('question_type')}"
            scores += [(name, score) for name in ("overall", *types)]
        return {name: round(mean, 2) for name, mean in means(scores).items()}

    def submission(self, predictions: Mapping[str, str]) -> tuple[str, bytes] | None:
        """Every question of the whole test set, as the server wants for test-dev, too; empty where none was asked."""
        if self.split == "val":
            return None
        rows = [
            {"question_id": int(key), "answer": evalai_processed(predictions.get(key, ""))}
            for key in self._read("test2015")
        ]
        return f"vqav2_{self.split}.json", json.dumps(rows).encode()

    def _read(self, subset: str) -> dict[str, Row]:
        rows = read_json(self.folder / _ASKED.format(subset)).rows("questions")
        return by_key(rows, _number)


def _number(row: Row) -> str:
    return str(row.number("question_id"))


def _official_score(prediction: str, answers: list[Row]) -> float:
    """Nothing is normalised where all people said the same, and "the others" are the entries that differ in a field."""
    humans = [_one_line(row.text("answer")) for row in answers]
    prediction = _one_line(prediction)
    if len(set(humans)) > 1:
        humans = [vqa_processed(human) for human in humans]
        prediction = vqa_processed(prediction)
    entries = [{**row.value, "answer": human} for row, human in zip(answers, humans, strict=True)]
    matching = [entry for entry in entries if entry["answer"] == prediction]
    return sum(min(1.0, sum(other != entry for other in matching) / 3) for entry in entries) / len(entries)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


class VizWiz(Benchmark):
    """Keys are file names of pictures; LLaVA's own lines have the place in the file instead.

    Source: the scoring class of VizWiz-VQA; LLaVA (c121f04).
    """

    name = "vizwiz"
    splits = ("val", "test")
    metric = "overall"
    served = ("test",)

    def __init__(self, folder: Path, split: str | None = None) -> None:
        super().__init__(folder, split)
        file = f"{self.split}.json"
        rows = read_json_list(found(folder / file, folder / "Annotations" / file))
        self._rows = by_key(rows, lambda row: row.text("image"))
        self._images = [*self._rows]

    def samples(self) -> Sequence[Sample]:
        return [
            Sample(
                image,
                self.folder / self.split / image,
                row.text("question").capitalize() + UNANSWERABLE + SHORT_ANSWER,
            )
            for image, row in self._rows.items()
        ]

    def prediction_key(self, row: Mapping[str, Any], before: Collection[str] = ()) -> str:
        if "image" not in row and str(row.get("question_id")).isdecimal():
            place = int(row["question_id"])
            return self._images[place] if place < len(self._images) else str(place)
        return str(row["image"])

    def prediction_row(self, sample: Sample, text: str) -> dict[str, Any]:
        return {"image": sample.key, "prompt": sample.text, "text": text}

    def score(self, predictions: Mapping[str, str]) -> dict[str, float]:
        """`overall`, and by type of answer, rounded to two decimals. The prediction is normalised, what people said is
        not. Source: two copies of the official scorer by others."""
        self.check_scored_here()
        check_complete(self._images, predictions)
        scores = []
        for image, row in self._rows.items():
            humans = [answer.text("answer") for answer in row.rows("answers")]
            score = soft_score(vizwiz_processed(predictions[image]), humans)
            scores += [("overall", score), (f"answer_type/{row.text('answer_type')}", score)]
        return {name: round(mean, 2) for name, mean in means(scores).items()}

    def submission(self, predictions: Mapping[str, str]) -> tuple[str, bytes]:
        check_complete(self._images, predictions)
        rows = [{"image": image, "answer": evalai_processed(predictions[image])} for image in self._images]
        return f"vizwiz_{self.split}.json", json.dumps(rows).encode()


class TextVQA(Benchmark):
    """Keys are a picture's id and, on a line of its own, the question in lower case: LLaVA's `question_id` is the
    picture's. What is asked twice about a picture is one sample, whose prediction is scored for both.

    Without LLaVA's `prompt` a line's `question_id` is that of the official file.
    The prompt holds what an OCR system read: LLaVA's own list where its question file is in the folder, else
    Rosetta's. Source: LLaVA (c121f04), eval_textvqa.py and m4c_evaluator.py.
    """

    name = "textvqa"
    splits = ("val", "test")
    metric = "accuracy"
    served = ("test",)
    missing = "leaves them out of the mean"
    with_ocr = True

    def __init__(self, folder: Path, split: str | None = None) -> None:
        super().__init__(folder, split)
        rows = read_json(folder / f"TextVQA_0.5.1_{self.split}.json").rows("data")
        self._numbered = by_key(rows, _number)
        self._rows = [*self._numbered.values()]

    def samples(self) -> Sequence[Sample]:
        images = self.folder / ("train_images" if self.split == "val" else "test_images")
        tokens = self._ocr_tokens() if self.with_ocr else {}
        samples: dict[str, Sample] = {}
        for row in self._rows:
            key, image, text = _key(row), row.text("image_id"), row.text("question").capitalize()
            if self.with_ocr:
                text += OCR + tokens.get(image, "")
            samples[key] = Sample(key, images / f"{image}.jpg", text + SHORT_ANSWER)
        return [*samples.values()]

    def keys(self) -> Collection[str]:
        return self._keys

    @cached_property
    def _keys(self) -> frozenset[str]:
        return frozenset(map(_key, self._rows))

    def prediction_key(self, row: Mapping[str, Any], before: Collection[str] = ()) -> str:
        """Of a line as LLaVA's: the picture's id, and a prompt in one of the three forms that its script reads."""
        number, asked = str(row["question_id"]), []
        if "prompt" in row:
            lines = row["prompt"].split("\n")  # the question's, mostly one, and what stands below it
            asked = ["\n".join(lines[:end]) for end in range(len(lines), 0, -1)]
            asked += [lines[1]] if len(lines) > 1 and lines[0].startswith(OCR.strip()) else []
            asked += _FIRST_TOKENS.findall(row["prompt"])
        keys = [f"{number}\n{question.lower()}" for question in asked]
        if (known := next((key for key in keys if key in self._keys), None)) is not None:
            return known
        if number in self._numbered:
            return _key(self._numbered[number])
        return f"{number}\n{asked[-1].lower()}" if asked else number

    def prediction_row(self, sample: Sample, text: str) -> dict[str, Any]:
        return {"question_id": sample.key.split("\n")[0], "prompt": sample.text, "text": text}

    def score(self, predictions: Mapping[str, str]) -> dict[str, float]:
        self.check_scored_here()
        scores = []
        for row in self._rows:
            humans = row.texts("answers")
            if len(humans) != 10:
                raise InputError(f"{row.place}: field 'answers' has {len(humans)} answers, not 10: fetch it again.")
            if _key(row) in predictions:
                answer = evalai_processed(predictions[_key(row)])
                scores.append(("accuracy", soft_score(answer, [evalai_processed(human) for human in humans])))
        return means(scores)

    def submission(self, predictions: Mapping[str, str]) -> tuple[str, bytes]:
        check_complete(map(_key, self._rows), predictions)
        rows = [{"question_id": row.number("question_id"), "answer": predictions[_key(row)]} for row in self._rows]
        return f"textvqa_{self.split}.json", json.dumps(rows).encode()

    def _ocr_tokens(self) -> dict[str, str]:
        """What was read in each picture, as the prompt has it."""
        own = self.folder / "llava_textvqa_val_v051_ocr.jsonl"
        if self.split == "val" and own.exists():
            lines = read_json_lines(own)
            return {row.text("question_id"): row.text("text").rpartition(OCR)[2].split("\n")[0] for row in lines}
        file = self.folder / f"TextVQA_Rosetta_OCR_v0.2_{self.split}.json"
        tokens = {row.text("image_id"): ", ".join(row.texts("ocr_tokens")) for row in read_json(file).rows("data")}
        if tokens.keys().isdisjoint(row.text("image_id") for row in self._rows):
            raise InputError(f"{file} has no picture of the {self.split} split: fetch the file of that split.")
        return tokens


class TextVQAWithoutOCR(TextVQA):
    """The same questions with nothing read for the model: what it reads itself."""

    name = "textvqa_without_ocr"
    with_ocr = False


def _key(row: Row) -> str:
    return f"{row.text('image_id')}\n{row.text('question').lower()}"
