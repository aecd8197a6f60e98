"""What is printed beside the answers: progress, durations; and the demo."""

import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_run import Run
from fake_model import picture

from fwd2bot.cli import demo
from fwd2bot.cli.output import ProgressLine, print_json, print_json_with
from fwd2bot.cli.parser import make_parser
from fwd2bot.store import Store


def test_progress_is_plain_lines_now_and_then_where_nobody_watches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = ProgressLine("compressed", "images")
    for done in range(1, 21):
        now[0] += 0.5
        progress(done, 20)
    assert capsys.readouterr().err == "compressed 10 of 20 images (2 a second, 5.0 s left)\n"


def test_print_json_of_nothing_is_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([])
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize("items", [[], [{"name": "ä\n}]"}], [{"name": "a", "sizes": [1, 2]}, {}, "b\nc"]])
def test_print_json_with_is_print_json_item_by_item(items: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    value = {"rows": 3, "of": {"a": None}}
    print_json({**value, "items": items})
    whole, parts = capsys.readouterr().out, ""

    def one_by_one() -> Iterator[object]:
        nonlocal parts
        for number, item in enumerate(items):
            parts += capsys.readouterr().out
            assert parts.count("name") == min(number, 1)  # what came before is out
            yield item

    print_json_with(value, "items", one_by_one())
    assert parts + capsys.readouterr().out == whole


# The demo.


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bundled" / "album"
    for colour in ("red", "green", "blue"):
        picture(folder / f"{colour}.png", colour)
    questions = [
        {"image": f"{colour}.png", "question": f"what is in {colour} ?", "answer": "red", "kind": colour}
        for colour in ("red", "green", "blue")
    ]
    captions = [{"image": f"{c}.png", "captions": [f"a {c} one", c, f"it is {c}"]} for c in ("red", "green", "blue")]
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in questions))
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in captions))
    monkeypatch.setattr(demo, "files", lambda package: tmp_path)
    return folder


def test_demo_shows_the_main_job_and_leaves_nothing_behind(run: Run, sample: Path, tmp_path: Path) -> None:
    before = sorted(path for path in tmp_path.rglob("*"))
    ran = run("demo")
    assert ran.code == 0
    for part in ("3 pictures added", "1 of all 3 questions", "3 of 3 such texts", "a red picture", "try next"):
        assert part in ran.out
    assert len(ran.out.splitlines()) <= 55
    assert max(map(len, ran.out.split("try next")[0].splitlines())) <= 80
    assert sorted(tmp_path.rglob("*")) == before


def test_commands_that_the_demo_names_next_do_what_they_say(run: Run, sample: Path, tmp_path: Path) -> None:
    for store in (None, "kept.store"):
        told = run("demo", *(["--store", store] if store else [])).out.split("try next\n")[1]
        commands = [shlex.split(line, comments=True) for line in told.splitlines()]
        commands = [one[one.index("fwd2bot") + 1 :] if "fwd2bot" in one else one[1:] for one in commands]
        assert [one[0] for one in commands] == [*(() if store else ("compress",)), "ask", "search", "serve", "--help"]
        for command in commands[:-2]:
            assert run(*command).code == 0
        served = make_parser().parse_args(commands[-2])
        assert Store.exists(served.store)
        assert [Path(folder).resolve() for folder in served.images] == ([] if store else [sample.resolve()])


def test_demo_keeps_the_store_that_is_asked_for(run: Run, sample: Path) -> None:
    assert run("demo", "--store", "kept.store").code == 0
    assert len(Store.open("kept.store")) == 3
    assert "0 pictures added to the store, 3 were there already." in run("demo", "--store", "kept.store").out


def test_demo_without_its_album_says_so(run: Run, sample: Path) -> None:
    (sample / "captions.jsonl").unlink()
    ran = run("demo")
    assert ran.code == 2
    assert "install fwd2bot again" in ran.err
