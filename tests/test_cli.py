"""The command line: a table of arguments to output and exit code, the JSON, and what a mistake looks like."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_run import Ran, Run
from fake_model import LONGEST, picture

import fwd2bot
from fwd2bot.cli.parser import make_parser
from fwd2bot.compressors.catalogue import CATALOGUE
from fwd2bot.store import DEFAULT_QUANTISATION, QUANTISERS, Store

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


def test_search_among_no_image_says_so(run: Run, album: Path) -> None:
    ran = run("search", "red", "--store", "album.store", "--path", "none*")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == "fwd2bot: no image of album.store (3) was searched\n"


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
    assert "a row        28 bytes" in out
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
        "p/broken.png is not a picture of a kind that can be read (PNG, JPEG, WebP ...)."
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


def test_json_of_methods(run: Run) -> None:
    listed = {line.pop("name"): line for line in as_json(run("methods", "--json"))}
    assert list(listed) == list(CATALOGUE)
    assert listed["token_packer"] == {
        "trained": True,
        "needs_question": False,
        "storable": True,
        "token_counts": [1, 4, 9, 16, 36, 64, 144, 576],
        "source": "2407.02392",
    }
    assert listed["prumerge"]["token_counts"] == "2 to 576"


def test_methods_are_told_in_columns(run: Run) -> None:
    heads, *lines = run("methods").out.splitlines()
    assert heads.split()[:5] == ["method", "trained", "question", "storable", "source"]
    assert [line.split()[0] for line in lines] == list(CATALOGUE)
    (identity,) = (line for line in lines if line.startswith("identity "))
    assert identity.split() == ["identity", "no", "no", "yes", "2310.03744", "576"]
    assert identity.index("576") == heads.index("tokens")


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
    assert as_json(ran)[0] == {"image": "sea.png", "score": pytest.approx(1, abs=0.01)}


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
    assert (info["rows"], info["num_tokens"], info["bytes_per_row"], info["model"]) == (3, 4, 28, "fake")


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
        (["ask", " ", "--image", "fox.png", "--store", "album.store"], 2, "The question is empty"),
        (["ask", "x" * (LONGEST + 1), "--image", "fox.png", "--store", "album.store"], 2, "ask a shorter one"),
        (["ask", "--store", "album.store"], 2, "What is the question?"),
        (["ask", "?", "--store", "album.store"], 2, "About which image?"),
        (["ask", "?", "--all", "--image", "fox.png", "--store", "album.store"], 2, "About which image?"),
        (["ask", "?", "--questions", "q.jsonl", "--store", "album.store"], 2, "leave out QUESTION"),
        (["ask", "--questions", "q.jsonl", "--path", "*", "--store", "album.store"], 2, "and --path and its like"),
        (["ask", "--questions", "q.jsonl", "--store", "album.store"], 2, "There is no file q.jsonl"),
        (["ask", "?", "--all", "--store", "missing.store"], 5, "There is no store at missing.store"),
        (["ask", "?", "--all", "--store", "album.store", "--model", "other"], 5, "written by fake"),
        (["ask", "?", "--all", "--store", "album.store", "--model", "none"], 4, "There is no model none."),
        (["ask", "?", "--all", "--store", "album.store", "--tokens", "9"], 5, "holds 4 tokens an image"),
        (["ask", "?", "--all"], 2, "required: --store"),
        (["search", "--store", "album.store"], 2, "Search for one thing"),
        (["search", "red", "--like", "a.png", "--store", "album.store"], 2, "Search for one thing"),
        (["search", "", "--store", "album.store"], 2, "The query is empty"),
        (["search", "red", "--top", "0", "--store", "album.store"], 2, "--top must be at least 1"),
        (["search", "--like", "missing.png", "--store", "album.store"], 3, "missing.png is not there"),
        (["search", "--queries", "album.store", "--store", "album.store"], 2, "album.store cannot be read"),
        (["match", "missing.png", "-"], 3, "missing.png is not there"),
        (["match", "a.png", "missing.txt"], 2, "There is no file missing.txt"),
        (["compress", "empty", "--store", "s"], 2, "There are no pictures in empty"),
        (["compress", "", "--store", "s"], 2, "An empty path"),
        (["compress", "empty", "--store", "."], 5, "not a store"),
        (["compress", "empty", "--store", "s", "--tokens", "many"], 2, "invalid int value"),
        (["serve", "missing.store"], 5, "There is no store at missing.store"),
        (["serve", "album.store", "--host", "0.0.0.0"], 2, "so a token is needed: give --token, or set FWD2BOT_TOKEN"),
        (["serve", "album.store", "--host", "album.example"], 2, "is reached by others, so a token is needed"),
        (["serve", "album.store", "--port", "0", "--model", "other"], 5, "written by fake"),
        (["serve", "album.store", "--port", "0", "--images", "none"], 3, "none is no folder"),
        (["serve", "album.store", "--port", "99999"], 2, "There is no port 99999"),
        (["serve", "album.store", "--host", "192.0.2.1", "--token", "x"], 2, "cannot be served on"),
        (["serve", "album.store", "--batch", "0"], 2, "--batch must be at least 1"),
        (["serve", "album.store", "--queue", "0"], 2, "--queue must be at least 1"),
        (["info", "missing.store"], 5, "There is no store at missing.store"),
        (["info", "empty"], 5, "There is no store"),
        (["world", "--out", "w", "--images", "0"], 2, "--images must be at least 1"),
        (["world", "--out", " ", "--images", "1"], 2, "--out is empty: name a folder"),
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


@pytest.mark.parametrize(
    "line",
    ["{", pytest.param("[" * 100_000, id="deep"), "[]", "1", '{"image": "fox.png"}', '{"image": 1, "question": "?"}'],
)
def test_a_file_of_questions_names_the_line_that_is_wrong(run: Run, album: Path, line: str) -> None:
    Path("q.jsonl").write_text('{"image": "fox.png", "question": "?"}\n' + line)
    ran = run("ask", "--questions", "q.jsonl", "--store", "album.store")
    assert ran.code == 2
    assert "q.jsonl line 2 is not" in ran.err


def test_a_name_that_moves_the_cursor_stays_on_its_line(run: Run, tmp_path: Path) -> None:
    picture(tmp_path / "p/a\nb\x1b[31m.png", "red")
    (tmp_path / "p/c\nd.png").write_text("no picture")
    (line,) = run("compress", "p", "--store", "s").out.splitlines()[2:]
    assert "p/c d.png is not a picture" in line
    assert run("search", "red", "--store", "s").out == " 1.000  a b [31m.png\n"
    assert run("info", "s", "--rows").out.startswith("a b [31m.png\t")
    assert run("match", "p/c\nd.png", "-", stdin="a").err.startswith("fwd2bot: p/c d.png is not a picture")


def test_what_comes_from_stdin_is_named(run: Run, album: Path) -> None:
    ran = run("ask", "--questions", "-", "--store", "album.store", stdin="{")
    assert ran == (2, "", "fwd2bot: stdin line 1 is not JSON: write an object a line.\n")
    assert "stdin has no lines" in run("search", "--queries", "-", "--store", "album.store", stdin="\n").err


def test_a_file_that_is_not_utf8_is_one_line(run: Run, album: Path) -> None:
    Path("q.txt").write_bytes(b"\xff\xfe")
    assert "not text in UTF-8" in run("search", "--queries", "q.txt", "--store", "album.store").err


def test_the_model_of_the_store_is_named_where_it_is_gone(run: Run, album: Path) -> None:
    header = {"fingerprint": "x", "model": "gone", "source": "/gone", "num_tokens": 1, "width": 8}
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


@pytest.mark.parametrize(("command", "default"), [("compress", DEFAULT_QUANTISATION), ("migrate", "as now")])
def test_every_quantiser_is_offered_and_the_default_told(command: str, default: str) -> None:
    (commands,) = [action for action in make_parser()._actions if action.dest == "command"]
    assert isinstance(commands.choices, dict)
    (option,) = [action for action in commands.choices[command]._actions if action.dest == "quantise"]
    assert option.choices == tuple(QUANTISERS)
    assert f"default: {default}" in str(option.help)


def test_search_that_is_exact_compares_every_row(run: Run, album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    original = Store.search_many

    def noted(self: Store, vectors: Any, top: int = 10, *, exact: bool = False, **more: Any) -> Any:
        asked.append(exact)
        return original(self, vectors, top, exact=exact, **more)

    monkeypatch.setattr(Store, "search_many", noted)
    for arguments in (["a blue picture"], ["a blue picture", "--exact"]):
        assert "sea.png" in run("search", *arguments, "--store", "album.store", "--top", "1").out
    assert asked == [False, True]
