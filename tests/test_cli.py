"""The command line: a table of arguments to output and exit code, the JSON, and what a mistake looks like."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fake_model import LONGEST, fake_load, picture

import fwd2bot
from fwd2bot.cli import demo, main
from fwd2bot.cli.output import ProgressLine, duration, plural, print_json
from fwd2bot.cli.parser import EXAMPLES, make_parser
from fwd2bot.store import Store

COMMANDS = ("demo", "compress", "ask", "caption", "search", "match", "info", "world", "train")
HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs a command with the model that sees colours, in an empty folder."""
    monkeypatch.setitem(vars(fwd2bot), "load", fake_load)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, stdin: str = "") -> Ran:
        monkeypatch.setattr(sys, "stdin", StringIO(stdin))
        try:
            code = main(list(arguments))
        except SystemExit as exit_:
            code = int(str(exit_.code))
        return Ran(code, *capsys.readouterr())

    return call


@pytest.fixture
def album(run: Run, tmp_path: Path) -> Path:
    """A store of three pictures, and no pictures any more."""
    picture(tmp_path / "photos/fox.png", "red")
    picture(tmp_path / "photos/sea.png", "blue")
    picture(tmp_path / "photos/more/flag.png", "green", "yellow")
    assert run("compress", "photos", "--store", "album.store").code == 0
    shutil.rmtree(tmp_path / "photos")
    return tmp_path


# Answers.


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        (["ask", "colour ?", "--image", "fox.png"], "red\n"),
        (["ask", "each ?", "--image", "flag.png"], "green yellow green yellow\n"),
        (["ask", "each ?", "--image", "flag.png", "--tokens", "2"], "green yellow\n"),
        (["ask", "?", "--image", "sea.png", "--image", "fox.png"], "sea.png\tblue\nfox.png\tred\n"),
        (["ask", "?", "--all"], "fox.png\tred\nmore/flag.png\tgreen\nsea.png\tblue\n"),
        (["caption", "--image", "fox.png"], "a red picture\n"),
        (["caption", "--image", "fox.png", "--image", "sea.png"], "fox.png\ta red picture\nsea.png\ta blue picture\n"),
        (["search", "blue", "--top", "1"], " 1.000  sea.png\n"),
    ],
)
def test_commands_print_answers_from_rows_alone(run: Run, album: Path, arguments: list[str], out: str) -> None:
    assert run(*arguments, "--store", "album.store") == (0, out, "")


def test_caption_without_an_image_describes_all(run: Run, album: Path) -> None:
    assert run("caption", "--store", "album.store").out.count("\n") == 3


def test_ask_of_a_file_of_questions(run: Run, album: Path) -> None:
    lines = [{"image": "sea.png", "question": "a ?", "kind": "what"}, {"image": "fox.png", "question": "b ?"}]
    Path("q.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    expected = "sea.png\ta ?\tblue\nfox.png\tb ?\tred\n"
    assert run("ask", "--questions", "q.jsonl", "--store", "album.store") == (0, expected, "")
    stdin = Path("q.jsonl").read_text()
    assert run("ask", "--questions", "-", "--store", "album.store", stdin=stdin) == (0, expected, "")


def test_search_like_a_picture(run: Run, album: Path) -> None:
    picture(album / "query.png", "green", "yellow")
    assert run("search", "--like", "query.png", "--store", "album.store", "--top", "1").out == " 1.000  more/flag.png\n"


def test_search_of_many_queries(run: Run, album: Path) -> None:
    ran = run("search", "--queries", "-", "--store", "album.store", "--top", "1", stdin="blue sky\n\nred\n")
    assert ran.out == "blue sky\n   1.000  sea.png\nred\n   1.000  fox.png\n"


def test_match_ranks_the_lines_of_a_file(run: Run, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", "yellow")
    (tmp_path / "texts.txt").write_text("blue\nyellow\nred\n")
    assert [line.split()[-1] for line in run("match", "a.png", "texts.txt").out.splitlines()] == [
        "yellow",
        "red",
        "blue",
    ]
    assert run("match", "a.png", "-", "--top", "1", stdin="blue\nyellow").out == " 1.000  yellow\n"


def test_info_shows_bytes_a_row_beside_those_of_the_files(run: Run, album: Path) -> None:
    out = run("info", "album.store").out
    assert "rows         3" in out
    assert "a row        96 bytes" in out
    assert "an image     " in out
    assert "fingerprint  sha256:abab" in out


def test_compress_reports_what_it_did(run: Run, tmp_path: Path) -> None:
    picture(tmp_path / "p/a.png", "red")
    shutil.copy(tmp_path / "p/a.png", tmp_path / "p/b.png")
    (tmp_path / "p/broken.png").write_text("no picture")
    ran = run("compress", "p", "--store", "s", "--tokens", "2", "--quantise", "int8")
    assert ran.code == 3
    assert "s: 1 image added in" in ran.out
    assert "1 image with the same content as another" in ran.out
    assert "1 image could not be read:" in ran.out
    assert ran.out.splitlines()[-1].endswith(
        "p/broken.png is not a picture of a kind that can be read (PNG, JPEG, WebP ...)"
    )
    assert Store.open("s").header.num_tokens == 2
    (tmp_path / "p/broken.png").unlink()
    ran = run("compress", "p", "--store", "s")
    assert ran.code == 0
    assert "2 images already there" in ran.out


# JSON.


def as_json(ran: Ran) -> Any:
    return json.loads(ran.out)


def test_json_of_ask(run: Run, album: Path) -> None:
    ran = run("ask", "colour ?", "--all", "--store", "album.store", "--json")
    assert as_json(ran)[0] == {"image": "fox.png", "question": "colour ?", "answer": "red"}
    assert len(as_json(ran)) == 3


def test_json_of_ask_keeps_the_place_of_what_has_no_answer(run: Run, album: Path) -> None:
    ran = run("ask", "?", "--image", "fix.png", "--image", "fox.png", "--store", "album.store", "--json")
    assert ran.code == 2
    assert [item["answer"] for item in as_json(ran)] == [None, "red"]
    assert "did you mean 'fox.png'" in as_json(ran)[0]["error"]
    assert "did you mean 'fox.png'" in ran.err


def test_json_of_caption(run: Run, album: Path) -> None:
    ran = run("caption", "--image", "sea.png", "--store", "album.store", "--json")
    assert as_json(ran) == [{"image": "sea.png", "caption": "a blue picture"}]


def test_json_of_search(run: Run, album: Path) -> None:
    ran = run("search", "blue", "--store", "album.store", "--top", "2", "--json")
    assert [sorted(item) for item in as_json(ran)] == [["image", "score"]] * 2
    assert as_json(ran)[0] == {"image": "sea.png", "score": pytest.approx(1, abs=1e-4)}


def test_json_of_search_of_many_queries(run: Run, album: Path) -> None:
    ran = run("search", "--queries", "-", "--store", "album.store", "--json", stdin=f"blue\n{'x' * 10}\n")
    assert [item["query"] for item in as_json(ran)] == ["blue", "x" * 10]
    assert as_json(ran)[0]["results"][0]["image"] == "sea.png"


def test_json_of_match(run: Run, tmp_path: Path) -> None:
    picture(tmp_path / "a.png", "red")
    ran = run("match", "a.png", "-", "--json", stdin="red\nblue")
    assert as_json(ran)[0] == {"text": "red", "score": pytest.approx(1, abs=1e-4)}


def test_json_of_info(run: Run, album: Path) -> None:
    info = as_json(run("info", "album.store", "--json"))
    assert (info["rows"], info["num_tokens"], info["bytes_per_row"], info["model"]) == (3, 4, 96, "fake")


def test_json_of_compress(run: Run, tmp_path: Path) -> None:
    picture(tmp_path / "p/a.png", "red")
    (tmp_path / "p/empty.png").touch()
    ran = run("compress", "p", "--store", "s", "--json")
    assert ran.code == 3
    assert as_json(ran)["added"] == 1
    assert as_json(ran)["failed"][0]["image"] == "empty.png"


# Mistakes: one line, the right code, never a traceback.


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["ask", "?", "--image", "fix.png", "--store", "album.store"], 2, "did you mean 'fox.png'?"),
        (["ask", " ", "--image", "fox.png", "--store", "album.store"], 2, "the question is empty"),
        (["ask", "x" * (LONGEST + 1), "--image", "fox.png", "--store", "album.store"], 2, "ask a shorter one"),
        (["ask", "--store", "album.store"], 2, "what is the question?"),
        (["ask", "?", "--store", "album.store"], 2, "about which image?"),
        (["ask", "?", "--all", "--image", "fox.png", "--store", "album.store"], 2, "about which image?"),
        (["ask", "?", "--questions", "q.jsonl", "--store", "album.store"], 2, "leave out QUESTION"),
        (["ask", "--questions", "q.jsonl", "--store", "album.store"], 2, "there is no file q.jsonl"),
        (["ask", "?", "--all", "--store", "missing.store"], 5, "there is no store at missing.store"),
        (["ask", "?", "--all", "--store", "album.store", "--model", "other"], 5, "written by fake"),
        (["ask", "?", "--all", "--store", "album.store", "--model", "none"], 4, "There is no model none."),
        (["ask", "?", "--all", "--store", "album.store", "--tokens", "9"], 5, "holds 4 tokens an image"),
        (["ask", "?", "--all"], 2, "required: --store"),
        (["search", "--store", "album.store"], 2, "search for one thing"),
        (["search", "red", "--like", "a.png", "--store", "album.store"], 2, "search for one thing"),
        (["search", "", "--store", "album.store"], 2, "the query is empty"),
        (["search", "red", "--top", "0", "--store", "album.store"], 2, "--top must be at least 1"),
        (["search", "--like", "missing.png", "--store", "album.store"], 3, "missing.png is not there"),
        (["search", "--queries", "album.store", "--store", "album.store"], 2, "album.store cannot be read"),
        (["match", "missing.png", "-"], 3, "missing.png is not there"),
        (["match", "a.png", "missing.txt"], 2, "there is no file missing.txt"),
        (["compress", "empty", "--store", "s"], 2, "there are no pictures in empty"),
        (["compress", "", "--store", "s"], 2, "an empty path"),
        (["compress", "empty", "--store", "."], 5, "not a store"),
        (["compress", "empty", "--store", "s", "--tokens", "many"], 2, "invalid int value"),
        (["info", "missing.store"], 5, "there is no store at missing.store"),
        (["info", "empty"], 5, "there is no store"),
        (["world", "--out", "w", "--images", "0"], 2, "--images must be at least 1"),
        (["train", "missing.yaml"], 2, "missing.yaml"),
        (["fly"], 2, "invalid choice: 'fly'"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    run: Run, album: Path, arguments: list[str], code: int, says: str
) -> None:
    (album / "empty").mkdir()
    ran = run(*arguments, stdin="a line")
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert ran.err.startswith("fwd2bot: ")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("line", ["{", "[]", "1", '{"image": "fox.png"}', '{"image": 1, "question": "?"}'])
def test_a_file_of_questions_names_the_line_that_is_wrong(run: Run, album: Path, line: str) -> None:
    Path("q.jsonl").write_text('{"image": "fox.png", "question": "?"}\n' + line)
    ran = run("ask", "--questions", "q.jsonl", "--store", "album.store")
    assert ran.code == 2
    assert "q.jsonl line 2 is not" in ran.err


def test_a_file_that_is_not_utf8_is_one_line(run: Run, album: Path) -> None:
    Path("q.txt").write_bytes(b"\xff\xfe")
    assert "not text in UTF-8" in run("search", "--queries", "q.txt", "--store", "album.store").err


def test_the_model_of_the_store_is_named_where_it_is_gone(run: Run, album: Path) -> None:
    header = {"fingerprint": "x", "model": "/gone", "num_tokens": 1, "width": 1}
    Store.create("gone.store", **header)
    ran = run("search", "red", "--store", "gone.store")
    assert ran.code == 4
    assert "the model that wrote gone.store" in ran.err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ZeroDivisionError("by zero"), 1, "a mistake of ours (ZeroDivisionError: by zero); run it again with --debug"),
        (RuntimeError("CUDA out of memory. Tried ..."), 1, "not enough memory: try a smaller --batch"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_what_nobody_foresaw_is_one_line(
    run: Run, album: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, says: str
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setitem(vars(fwd2bot), "load", broken)
    ran = run("caption", "--store", "album.store")
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert "Traceback" not in ran.err


def test_debug_shows_where_it_happened(run: Run, album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(vars(fwd2bot), "load", broken)
    with pytest.raises(ZeroDivisionError):
        run("caption", "--store", "album.store", "--debug")


# Help, start-up and the ends of processes.


def test_every_command_has_help_with_examples(run: Run) -> None:
    assert tuple(EXAMPLES) == COMMANDS
    for command in COMMANDS:
        ran = run(command, "--help")
        assert ran.code == 0
        assert f"fwd2bot {command} " in ran.out.split("examples:")[1]
    assert run().code == 2
    assert run("--version").out == f"fwd2bot {fwd2bot.__version__}\n"


def test_every_example_can_be_parsed() -> None:
    import shlex

    for text in EXAMPLES.values():
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if words:
                assert make_parser().parse_args(words[1:]).command == words[1]


@pytest.mark.parametrize("command", ["help", "info"])
def test_help_and_info_import_nothing_heavy(run: Run, album: Path, command: str) -> None:
    arguments = ["--help"] if command == "help" else ["info", "album.store"]
    process = [sys.executable, "-X", "importtime", "-m", "fwd2bot", *arguments]
    ran = subprocess.run(process, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    heavy = {"torch", "transformers", "pandas.core", "PIL.Image"} | ({"numpy", "lance"} if command == "help" else set())
    assert not imported & heavy
    assert "fwd2bot.cli.parser" in imported


@pytest.mark.parametrize(("command", "limit"), [("help", 0.3), ("info", 1.0)])
def test_help_and_info_are_quick(run: Run, album: Path, command: str, limit: float) -> None:
    arguments = ["--help"] if command == "help" else ["info", str(album / "album.store")]
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        process = [sys.executable, "-m", "fwd2bot", *arguments]
        subprocess.run(process, stdout=subprocess.DEVNULL, check=True, env=ENVIRONMENT)
        seconds.append(time.monotonic() - began)
    assert min(seconds) < limit


FAKE_PROCESS = """
import os, sys, time
import fwd2bot, fake_model
fwd2bot.load = fake_model.fake_load
if "SLOW" in os.environ:
    def slow(self, images, num_tokens=None, compress=fake_model.FakeModel.compress):
        time.sleep(0.2)
        return compress(self, images, num_tokens)
    fake_model.FakeModel.compress = slow
from fwd2bot.cli import main
sys.exit(main())
"""


def test_a_reader_that_goes_away_is_no_error(run: Run, album: Path) -> None:
    command = [sys.executable, "-c", FAKE_PROCESS, "caption", "--store", "album.store"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


def test_ctrl_c_keeps_what_is_done_and_the_next_run_goes_on(run: Run, tmp_path: Path) -> None:
    for place in range(20):
        picture(tmp_path / f"p/{place}.png", "red", "blue").write_bytes(
            picture(tmp_path / f"p/{place}.png", "red", "blue").read_bytes() + bytes([place])
        )
    command = [sys.executable, "-c", FAKE_PROCESS, "compress", "p", "--store", "s", "--batch", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**ENVIRONMENT, "SLOW": "1"})
    assert process.stderr is not None
    until = time.monotonic() + 60
    while not Store.exists("s") and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.8)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert process.stderr.read().strip() == "fwd2bot: stopped"
    process.stderr.close()
    there = len(Store.open("s"))
    assert 0 < there < 20
    assert f"{there} image" in run("compress", "p", "--store", "s").out
    assert len(Store.open("s")) == 20


# What is printed.


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


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.96, "10.0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (7322, "2 h 2 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plural() -> None:
    assert [plural(count, "image") for count in (0, 1, 1234)] == ["0 images", "1 image", "1,234 images"]


def test_print_json_of_nothing_is_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([])
    assert json.loads(capsys.readouterr().out) == []


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


def test_demo_keeps_the_store_that_is_asked_for(run: Run, sample: Path) -> None:
    assert run("demo", "--store", "kept.store").code == 0
    assert len(Store.open("kept.store")) == 3
    assert "3 were there already" in run("demo", "--store", "kept.store").out


def test_demo_without_its_album_says_so(run: Run, sample: Path) -> None:
    (sample / "captions.jsonl").unlink()
    ran = run("demo")
    assert ran.code == 2
    assert "install fwd2bot again" in ran.err
