"""Questions with lettered options: ScienceQA-IMG and MMBench."""

import base64
import csv
import re
from collections.abc import Collection, Mapping, Sequence
from io import StringIO
from pathlib import Path

from fwd2bot.errors import InputError
from fwd2bot.evaluation.base import LETTER_ANSWER, Benchmark, Sample, means
from fwd2bot.evaluation.files import Row, by_key, read_json, read_text
from fwd2bot.evaluation.xlsx import sheet

LETTERS = "ABCDE"


class ScienceQA(Benchmark):
    """The questions with a picture; keys are the problems' ids. Predictions for those without one may come along.

    Source: lupantech/ScienceQA; LLaVA (c121f04), convert_sqa_to_llava.py and eval_science_qa.py.
    """

    name = "scienceqa"
    splits = ("test", "val")
    metric = "image"
    max_new_tokens = 1024
    missing = "leaves them out of `image`, and counts them as wrong in `all`"

    def __init__(self, folder: Path, split: str | None = None) -> None:
        super().__init__(folder, split)
        problems = read_json(folder / "problems.json")
        ids = read_json(folder / "pid_splits.json").texts(self.split)
        self._problems = {key: problems.row(key) for key in ids}
        self._pictured = {key: row for key, row in self._problems.items() if row.value.get("image") is not None}
        if not self._pictured:
            raise InputError(f"{folder} has no problem with a picture in the split {self.split}: fetch it again.")

    def samples(self) -> Sequence[Sample]:
        images = self.folder / "images" / self.split
        return [
            Sample(key, images / key / row.text("image"), _science_prompt(row) + LETTER_ANSWER)
            for key, row in self._pictured.items()
        ]

    def keys(self) -> Collection[str]:
        return self._problems.keys()

    def needed(self) -> Collection[str]:
        return self._pictured.keys()

    def score(self, predictions: Mapping[str, str]) -> dict[str, float]:
        """`image`, of the questions with a picture, and by their subject.

        `all`, where questions without a picture were answered, too.
        """
        scores = []
        for key, row in self._problems.items():
            score = float(_science_letter(predictions.get(key, "")) == _science_truth(row))
            scores.append(("all", score))
            if key in predictions and key in self._pictured:
                scores += [("image", score), (f"subject/{row.text('subject')}", score)]
        figures = means(scores)
        if not predictions.keys() - self._pictured.keys():
            figures.pop("all", None)
        return figures


def _science_prompt(row: Row) -> str:
    hint = row.text("hint").strip()
    options = _options(row.texts("choices"))
    return "\n".join([f"Context: {hint}"] * bool(hint) + [row.text("question"), *options]).replace("  ", " ").strip()


def _science_truth(row: Row) -> str:
    letters, number = LETTERS[: len(row.texts("choices"))], row.number("answer")
    if not 0 <= number < len(letters):
        raise InputError(f"{row.place}: field 'answer' is {number}, which is no choice: fetch the file again.")
    return letters[number]


def _science_letter(answer: str) -> str | None:
    """The letter that an answer gives: alone, before ". ", or in the one "The answer is X." that it holds."""
    if answer in tuple(LETTERS):
        return answer
    if len(answer) >= 3 and answer[0] in LETTERS and answer[1:3] == ". ":
        return answer[0]
    said = re.findall(r"The answer is ([A-Z]).", answer)
    return said[0] if len(said) == 1 else None


class MMBench(Benchmark):
    """Keys are `index`. A question stands in several rows, its options in another order in each.

    Source: LLaVA (c121f04), model_vqa_mmbench.py and convert_mmbench_for_submission.py; open-compass/VLMEvalKit.
    """

    name = "mmbench"
    splits = ("dev", "dev_en", "test_en")
    metric = "accuracy"
    max_new_tokens = 1024
    served = ("test_en",)
    missing = "counts them as wrong"
    FILES: Mapping[str, str] = {
        "dev": "mmbench_dev_20230712.tsv",
        "dev_en": "MMBench_DEV_EN.tsv",
        "test_en": "MMBench_TEST_EN.tsv",
    }

    def __init__(self, folder: Path, split: str | None = None) -> None:
        super().__init__(folder, split)
        self._path = folder / self.FILES[self.split]
        self._rows = by_key(_table(self._path), lambda row: row.text("index"))
        for key, row in self._rows.items():
            if not key.isdecimal():
                raise InputError(f"{row.place}: field 'index' is {key!r}, not a whole number: fetch the file again.")

    def samples(self) -> Sequence[Sample]:
        return [Sample(key, self._image(row), _mmbench_prompt(row)) for key, row in self._rows.items()]

    def keys(self) -> Collection[str]:
        return self._rows.keys()

    def score(self, predictions: Mapping[str, str]) -> dict[str, float]:
        """`accuracy`: the share of questions of which every row is right, and by both levels of category.

        `first_rows`: the share of right answers where each question is asked once.
        """
        self.check_scored_here()
        copies: dict[int, dict[str, bool]] = {}
        for key, row in self._rows.items():
            letter = _mmbench_letter(predictions.get(key, ""), _choices(row))
            copies.setdefault(int(key) % 1_000_000, {})[key] = letter == row.text("answer")
        scores = []
        for number, right in copies.items():
            first = str(number)
            if first not in right:
                raise InputError(f"{self._path} has copies of row {first}, but not that row: fetch it again.")
            asked = self._rows[first]
            names = "accuracy", f"l2/{asked.text('l2-category')}", f"category/{asked.text('category')}"
            scores += [(name, float(all(right.values()))) for name in names]
            scores.append(("first_rows", float(right[first])))
        return means(scores)

    def submission(self, predictions: Mapping[str, str]) -> tuple[str, bytes]:
        """LLaVA's columns."""
        before, after = ("index", "question", *LETTERS[:4]), ("answer", "split")
        last = [name for name in after if all(name in row.value for row in self._rows.values())]
        rows: list[list[str | int]] = [[*before, "prediction", *last]]
        for key, row in self._rows.items():
            texts = [row.text(name) for name in before[1:]]
            rows.append([int(key), *texts, predictions.get(key, ""), *(row.text(name) for name in last)])
        return f"mmbench_{self.split}.xlsx", sheet(rows)

    def _image(self, row: Row) -> bytes:
        """The picture's file. A short text is the index of the row that holds it."""
        held = row.text("image")
        if len(held) <= 64 and held in self._rows:
            held = self._rows[held].text("image")
        try:
            return base64.b64decode("".join(held.split()), validate=True)
        except ValueError:
            raise InputError(f"{row.place}: field 'image' is not base64: fetch the file again.") from None


_NOTHING = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "n/a", "null"}
)  # fmt: skip
"""What pandas reads as nothing, to the letter (its STR_NA_VALUES), besides LLaVA's two words."""


def _is_nothing(text: str) -> bool:
    """No hint, and no option: to pandas, by which LLaVA reads the table, or to LLaVA itself, which folds case."""
    return text in _NOTHING or text.lower() in ("nan", "none")


def _table(path: Path) -> list[Row]:
    """The rows of a file of tab-separated values, which may be quoted."""
    csv.field_size_limit(1 << 30)  # a picture is one field
    rows = csv.DictReader(StringIO(read_text(path), newline=""), delimiter="\t")
    found = []
    try:
        for number, row in enumerate(rows):
            if None in row or None in row.values():
                raise InputError(f"{path}, row {number} has other fields than the head: fetch the file again.")
            found.append(Row(row, f"{path}, row {number}"))
    except csv.Error as error:
        raise InputError(f"{path} is no table of tab-separated values ({error}): fetch it again.") from None
    if not found:
        raise InputError(f"{path} has no rows: fetch it again.")
    return found


def _choices(row: Row) -> dict[str, str]:
    """Options by letter, up to the first that is nothing."""
    choices: dict[str, str] = {}
    for letter in LETTERS[:4]:
        if _is_nothing(row.text(letter)):
            break
        choices[letter] = row.text(letter)
    return choices


def _mmbench_prompt(row: Row) -> str:
    hint = row.text("hint")
    lines = [] if _is_nothing(hint) else [hint]
    return "\n".join([*lines, row.text("question"), *_options(_choices(row).values())]) + LETTER_ANSWER


_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


def _mmbench_letter(answer: str, choices: Mapping[str, str]) -> str | None:
    """The option that an answer means: by its letter, after "answer is", or by its text; None: none, or several.

    VLMEvalKit's rules to the letter: of a letter the first place counts, and "answer is black" says B.
    """
    if any(refusal in answer for refusal in _REFUSALS):
        return None
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", answer).split()
    letters = [letter for letter in choices if letter in words]
    if len(letters) == 1 and words.index(letters[0]) >= len(words) - 4:
        return letters[0]
    if not letters and "Z" in words:
        return None
    said = re.search(r"answer\s+is\s+\**([a-d])", answer, re.IGNORECASE)
    if said is not None and said[1].upper() in choices:
        return said[1].upper()
    if len(answer) > 2 * sum(map(len, choices.values())):
        return None
    named = [letter for letter, text in choices.items() if text.lower() in answer.lower()]
    return named[0] if len(named) == 1 else None


def _options(texts: Collection[str]) -> list[str]:
    return [f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False)]
