"""The command line as a process: help, start-up, imports, signals."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_run import Run
from fake_model import picture

import fwd2bot
from fwd2bot.cli.parser import EXAMPLES, make_parser
from fwd2bot.store import Store

COMMANDS = (
    "demo", "compress", "ask", "caption", "search", "match", "serve", "info", "verify", "repair", "migrate", "delete",
    "duplicates", "methods", "export", "push", "world", "score", "evaluate", "train",
)  # fmt: skip
HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}


def test_every_command_has_help_with_examples(run: Run) -> None:
    assert tuple(EXAMPLES) == COMMANDS
    for command in COMMANDS:
        ran = run(command, "--help")
        assert ran.code == 0
        assert f"fwd2bot {command} " in ran.out.split("examples:")[1]
    assert run().code == 2
    assert run("--version").out == f"fwd2bot {fwd2bot.__version__}\n"


def test_every_example_can_be_parsed() -> None:
    for text in EXAMPLES.values():
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if words:
                assert make_parser().parse_args(words[1:]).command == words[1]


def _imported(*arguments: str) -> set[str]:
    process = [sys.executable, "-X", "importtime", *arguments]
    ran = subprocess.run(process, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    return {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}


@pytest.mark.parametrize("command", ["help", "info", "methods"])
def test_help_info_and_methods_import_nothing_heavy(run: Run, album: Path, command: str) -> None:
    arguments = {"help": ["--help"], "info": ["info", "album.store"], "methods": ["methods", "--json"]}[command]
    imported = _imported("-m", "fwd2bot", *arguments)
    heavy = {"torch", "transformers", "pandas.core", "PIL.Image"} | ({"numpy", "lance"} if command == "help" else set())
    if command == "info":  # what it cannot do without: PyArrow's data sets import pandas where pandas is installed
        heavy -= _imported("-c", "import pyarrow.dataset")
    assert not imported & heavy
    assert "fwd2bot.cli.parser" in imported


@pytest.mark.parametrize(("command", "beside"), [("help", "argparse, json"), ("info", "lance")])
def test_help_and_info_are_quick(run: Run, album: Path, command: str, beside: str) -> None:
    """They take less than half as long again as importing what they cannot do without, and a fifth of a second."""
    arguments = ["--help"] if command == "help" else ["info", str(album / "album.store")]
    ours, least = [], []
    for _ in range(3):
        ours.append(processor_seconds("-m", "fwd2bot", *arguments))
        least.append(processor_seconds("-c", f"import {beside}"))
    assert min(ours) < 1.5 * min(least) + 0.2


def processor_seconds(*arguments: str) -> float:
    """Of a Python program; what else runs on the machine does not count."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True, env=ENVIRONMENT)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


FAKE_PROCESS = """
import os, sys, time
import fwd2bot, fake_model
fwd2bot.load = fake_model.fake_load
if "SLOW" in os.environ:
    def slow(self, images, num_tokens=None, compress=fake_model.FakeModel.compress):
        time.sleep(0.2)
        with open(os.environ["SLOW"], "a") as done:
            done.write("x")
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full (Linux)")
def test_output_that_cannot_be_written_is_one_sentence(run: Run, album: Path) -> None:
    command = [sys.executable, "-c", FAKE_PROCESS, "caption", "--store", "album.store"]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, check=False)
    assert ran.returncode == 1
    assert ran.stderr == "fwd2bot: the output or a file could not be written or read: No space left on device\n"
    closed = [*command[:2], f"import os; os.close(1); os.execv({sys.executable!r}, {command!r})"]
    ran = subprocess.run(closed, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, check=False)
    assert (ran.returncode, ran.stderr) == (1, "fwd2bot: stdout is closed: leave it open, or send it to /dev/null\n")


def test_a_command_works_with_stderr_closed(run: Run, album: Path) -> None:
    command = f"exec {shlex.quote(sys.executable)} -m fwd2bot duplicates album.store --json 2>&-"
    ran = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, check=False)
    assert (ran.returncode, ran.stdout) == (0, "[]\n")


def test_ctrl_c_keeps_what_is_done_and_the_next_run_goes_on(run: Run, tmp_path: Path) -> None:
    for place in range(60):  # twelve seconds, also where the cores are busy
        picture(tmp_path / f"p/{place}.png", "red", "blue").write_bytes(
            picture(tmp_path / f"p/{place}.png", "red", "blue").read_bytes() + bytes([place])
        )
    command = [sys.executable, "-c", FAKE_PROCESS, "compress", "p", "--store", "s", "--batch", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**ENVIRONMENT, "SLOW": "done"})
    assert process.stderr is not None
    done, until = Path("done"), time.monotonic() + 60
    while not (done.exists() and done.stat().st_size > 2) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    said = process.stderr.read().split("\n")
    assert "what was compressed is in s; the same command goes on from there" in said
    assert "fwd2bot: stopped" in said
    process.stderr.close()
    there = len(Store.open("s"))
    assert 0 < there < 60
    assert f"{there} image" in run("compress", "p", "--store", "s").out
    assert len(Store.open("s")) == 60


def test_names_that_the_terminal_cannot_show_are_no_error(run: Run, tmp_path: Path) -> None:
    picture(tmp_path / "p/füchse.png", "red")
    run("compress", "p", "--store", "s")
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
    for arguments, expected in (([], "a red picture\n"), (["--json"], '"f\\u00fcchse.png"')):
        command = [sys.executable, "-c", FAKE_PROCESS, "caption", "--store", "s", *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert expected in ran.stdout
