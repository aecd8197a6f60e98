"""Questions with yes or no: POPE and MME."""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fwd2bot.errors import InputError
from fwd2bot.evaluation.base import SHORT_ANSWER, Benchmark, Sample, check_complete
from fwd2bot.evaluation.files import Row, by_key, found, read_json_lines, read_text

_NOES = frozenset({"No", "no", "not"})


class POPE(Benchmark):
    """Keys are LLaVA's: a file's own number plus 0, 10,000,000 or 20,000,000, in the order of `FILES`.

    A prediction that has its `prompt` with it must be about the same question: the official files changed, and the
    numbers with them. Source: AoiDragon/POPE; LLaVA (c121f04), eval_pope.py.
    """

    name = "pope"
    splits = ("test",)
    metric = "f1"
    FILES = ("adversarial", "random", "popular")

    def __init__(self, folder: Path, split: str | None = None) -> None:
        super().__init__(folder, split)
        self._rows: dict[str, dict[str, Row]] = {}
        for number, name in enumerate(self.FILES):
            file = f"coco_pope_{name}.json"
            rows = read_json_lines(found(folder / file, folder / "coco" / file))
            numbered = by_key(rows, lambda row: str(row.number("question_id")))
            self._rows[name] = {str(int(key) + number * 10_000_000): row for key, row in numbered.items()}
        self._questions = {key: row for rows in self._rows.values() for key, row in rows.items()}

    def samples(self) -> Sequence[Sample]:
        return [
            Sample(key, self.folder / "val2014" / row.text("image"), row.text("text") + SHORT_ANSWER)
            for key, row in self._questions.items()
        ]

    def prediction_key(self, row: Mapping[str, Any], before: Collection[str] = ()) -> str:
        key = str(row["question_id"])
        asked = row["prompt"].split("\n")[0] if "prompt" in row else None
        if asked is not None and key in self._questions and asked != self._questions[key].text("text"):
            wanted = self._questions[key].text("text")
            raise InputError(
                f"The prediction for {key} answers {asked!r}, but the question in {self.folder} is {wanted!r}: "
                "use the files that the predictions were made with."
            )
        return key

    def score(self, predictions: Mapping[str, str]) -> dict[str, float]:
        """`f1`, the plain mean of the three files'; and of each file, yes being positive, all figures.

        Where nothing is answered yes, precision is undefined and the official scorer fails; it is 0 here.
        """
        check_complete(self._questions, predictions)
        figures: dict[str, float] = {}
        for name, rows in self._rows.items():
            pairs = [(_says_yes(predictions[key]), _is_yes(row)) for key, row in rows.items()]
            figures |= {f"{name}/{figure}": 100.0 * value for figure, value in _binary(pairs).items()}
        return {"f1": sum(figures[f"{name}/f1"] for name in self.FILES) / len(self.FILES), **figures}


def _says_yes(answer: str) -> bool:
    """The first sentence holds no word that is exactly No, no or not; an empty answer says yes."""
    return _NOES.isdisjoint(answer.split(".")[0].replace(",", "").split(" "))


def _is_yes(row: Row) -> bool:
    label = row.text("label")
    if label not in ("yes", "no"):
        raise InputError(f"{row.place}: field 'label' is {label!r}, not 'yes' or 'no': fetch the file again.")
    return label == "yes"


def _binary(pairs: Sequence[tuple[bool, bool]]) -> dict[str, float]:
    """Shares from 0 to 1, of (said, true) pairs."""
    said, true = sum(one for one, _ in pairs), sum(one for _, one in pairs)
    both = sum(one and other for one, other in pairs)
    return {
        "f1": 2 * both / max(said + true, 1),
        "accuracy": sum(one == other for one, other in pairs) / max(len(pairs), 1),
        "precision": both / max(said, 1),
        "recall": both / max(true, 1),
        "yes_ratio": said / max(len(pairs), 1),
    }


class MME(Benchmark):
    """Keys are `subtask/name of the picture` and the question, a line each: both questions of a picture share its name.

    Without LLaVA's `prompt` the first line about a picture is about its first question, the next about its second.

    The folder is MME_Benchmark_release_version. Source: MME's calculation.py; LLaVA's convert_answer_to_mme.py.
    """

    name = "mme"
    splits = ("test",)
    metric = "perception"
    PERCEPTION = (
        "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
    )  # fmt: skip
    COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
    SENTENCE = "Please answer yes or no."

    def __init__(self, folder: Path, split: str | None = None) -> None:
        super().__init__(folder, split)
        self._pictures = {name: _pictures(folder / name) for name in (*self.PERCEPTION, *self.COGNITION)}

    def samples(self) -> Sequence[Sample]:
        return [
            Sample(_mme_key(subtask, image.name, question), image, _plain(question) + SHORT_ANSWER)
            for subtask, pictures in self._pictures.items()
            for image, questions in pictures
            for question, _ in questions
        ]

    def prediction_key(self, row: Mapping[str, Any], before: Collection[str] = ()) -> str:
        said: str = row["question_id"]
        subtask, _, name = said.partition("/")
        picture = name.rpartition("/")[2]
        if "prompt" in row:
            return _mme_key(subtask, picture, row["prompt"].replace(SHORT_ANSWER.strip(), ""))
        both = self._by_picture.get(_mme_key(subtask, picture, ""), [said])
        return next((key for key in both if key not in before), both[-1])

    @cached_property
    def _by_picture(self) -> dict[str, list[str]]:
        """The keys of a picture's questions, by the key of none."""
        return {
            _mme_key(subtask, image.name, ""): [_mme_key(subtask, image.name, question) for question, _ in questions]
            for subtask, pictures in self._pictures.items()
            for image, questions in pictures
        }

    def prediction_row(self, sample: Sample, text: str) -> dict[str, Any]:
        subtask = sample.key.partition("/")[0]
        assert isinstance(sample.image, Path)
        return {"question_id": f"{subtask}/{sample.image.name}", "prompt": sample.text, "text": text}

    def score(self, predictions: Mapping[str, str]) -> dict[str, float]:
        """`perception` (at most 2000) and `cognition` (800): sums of the subtasks' scores, each at most 200.

        A subtask's score is its share of right answers plus its share of pictures with both right, in per cent.
        """
        check_complete((sample.key for sample in self.samples()), predictions)
        figures: dict[str, float] = {}
        for subtask, pictures in self._pictures.items():
            hits = []
            for image, questions in pictures:
                said = [_said(predictions[_mme_key(subtask, image.name, question)]) for question, _ in questions]
                hits.append([one == truth for one, (_, truth) in zip(said, questions, strict=True)])
            accuracy = 100.0 * sum(map(sum, hits)) / sum(map(len, hits))
            both = 100.0 * sum(map(all, hits)) / len(hits)
            figures |= {subtask: accuracy + both, f"{subtask}/acc": accuracy, f"{subtask}/acc+": both}
        sums = {
            "perception": sum(figures[name] for name in self.PERCEPTION),
            "cognition": sum(figures[name] for name in self.COGNITION),
        }
        return {**sums, **figures}


def _said(answer: str) -> str:
    """yes, no or other: what the first four characters hold, yes before no."""
    start = answer.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def _pictures(folder: Path) -> list[tuple[Path, list[tuple[str, str]]]]:
    """The pictures of a subtask, each with its two (question, "yes" or "no")."""
    inner = folder / "questions_answers_YN"
    files = sorted((inner if inner.exists() else folder).glob("*.txt"))
    if not files:
        raise InputError(f"{folder} holds no questions: docs/benchmarks.md says what to download into which folder.")
    images = folder / "images" if inner.exists() else folder
    pictures = []
    for file in files:
        lines = [line.strip().split("\t") for line in read_text(file).split("\n") if line.strip()]
        if [len(line) for line in lines] != [2, 2] or any(line[1] not in ("Yes", "No") for line in lines):
            raise InputError(f"{file} is not two lines of a question, a tab, and Yes or No: fetch it again.")
        image = found(*(images / f"{file.stem}{ending}" for ending in (".jpg", ".png")))
        pictures.append((image, [(question, answer.lower()) for question, answer in lines]))
    return pictures


def _plain(question: str) -> str:
    """The question without the sentence that asks for yes or no."""
    return question.replace(MME.SENTENCE, "").strip()


def _mme_key(subtask: str, image: str, question: str) -> str:
    return f"{subtask}/{image.split('.')[0]}\n{_plain(question)}"
