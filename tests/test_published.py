"""runs/published.py on repositories of a few rows: what is scored, what is compared, what is told."""

import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny import script

from fwd2bot.evaluation.xlsx import sheet
from fwd2bot.evaluation.yes_no import MME

SHORT = "\nAnswer the question using a single word or phrase."
FILES = ("random", "popular", "adversarial")
HEAD: list[str | int] = ["index", "question", *"ABCD", "prediction", "answer", "split"]
MMBENCH: list[list[str | int]] = [
    [7, "Which?", "one", "two", "", "", "A", "A", "dev"],
    [1000007, "Which?", "two", "one", "", "", "A", "B", "dev"],
]


@pytest.fixture(scope="module")
def published() -> ModuleType:
    return script("runs/published.py")


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def committed(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "rows"]):
        subprocess.run([*git, *command], check=True)
    return folder


@pytest.fixture
def pope(tmp_path: Path) -> Path:
    rows = [
        {"question_id": number, "image": "a.jpg", "text": f"Is there a {thing}?", "label": label}
        for number, (thing, label) in enumerate((("dog", "yes"), ("cat", "no")), 1)
    ]
    return committed(tmp_path / "pope", {f"output/coco/coco_pope_{name}.json": lines(rows) for name in FILES})


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    asked = [
        {"question_id": f"{subtask}/a.png", "image": f"{subtask}/a.png", "text": f"Is it {what}?{SHORT}"}
        for subtask in (*MME.PERCEPTION, *MME.COGNITION)
        for what in ("red", "blue")
    ]
    answers = [{"question_id": row["question_id"], "prompt": row["text"], "text": "Yes"} for row in asked]
    science = [
        {"id": key, **more, "conversations": [{"value": "Which?\nA. one\nB. two"}, {"value": "B"}]}
        for key, more in (("4", {}), ("5", {"image": "5/image.png"}), ("6", {"image": "6/image.png"}))
    ]
    said = [{"question_id": key, "pred": answer} for key, answer in (("4", "B"), ("5", "B"), ("6", "A"))]
    seen = [{"question_id": 0, "image": "a.jpg", "text": f"What is this?{SHORT}"}]
    answered = [{"question_id": number + 10_000_000 * file, "text": "Yes"} for file in range(3) for number in (1, 2)]
    mmbench = "mmbench/answers/mmbench_dev_20230712/llava-v1.5-13b.jsonl"
    files = {
        "pope/answers/llava-v1.5-13b.jsonl": lines(answered),
        "MME/llava_mme.jsonl": lines(asked),
        "MME/answers/llava-v1.5-13b.jsonl": lines(answers),
        "scienceqa/llava_test_CQM-A.json": json.dumps(science).encode(),
        "scienceqa/answers/llava-v1.5-13b_output.jsonl": json.dumps(
            {"correct": said[:2], "incorrect": said[2:]}
        ).encode(),
        "mmbench/answers_upload/mmbench_dev_20230712/llava-v1.5-13b.xlsx": sheet([HEAD, *MMBENCH]),
        mmbench: lines([{"question_id": row[0], "text": "A"} for row in MMBENCH]),
        "vizwiz/llava_test.jsonl": lines(seen),
        "vizwiz/answers/llava-v1.5-13b.jsonl": lines([{"question_id": 0, "text": "The Dog."}]),
        "vizwiz/answers_upload/llava-v1.5-13b.json": b'[{"image": "a.jpg", "answer": "dog"}]',
    }
    return committed(tmp_path / "llava", {f"playground/data/eval/{name}": content for name, content in files.items()})


def test_predictions_are_scored_as_their_benchmarks_are_and_differences_are_told(
    published: ModuleType, llava: Path, pope: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, value in {"LLAVA": "HEAD", "POPE": "HEAD", "RESULT": tmp_path / "published.json"}.items():
        monkeypatch.setattr(published, name, value)
    assert published.main([str(llava), str(pope)]) == 1
    assert "mme        perception      published   1531.3   here   500.00" in capsys.readouterr().out
    kept = json.loads((tmp_path / "published.json").read_text())
    here = {name: {key: one["here"] for key, one in figures.items()} for name, figures in kept["figures"].items()}
    assert here["pope"] == pytest.approx(dict.fromkeys(("f1", *(f"{name}/f1" for name in FILES)), 200 / 3))
    assert here["mme"] == {"perception": 10 * 50.0}  # of two answers one is right, of no picture both
    assert here["mmbench"] == {"accuracy": 0.0}  # right in one of its two rows
    assert here["scienceqa"] == {"image": 50.0}
    assert kept["uploads"] == {"mmbench": True, "vizwiz": True}


def test_another_repository_is_told(published: ModuleType, pope: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no HEAD:there/pope\.json: clone and fetch it as"):
        published.Clone(pope, "HEAD", "there").read("pope.json")
