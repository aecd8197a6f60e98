"""`fwd2bot serve` as a process: what it says, whom it answers, how it stops."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_run import Run
from serving import chat
from test_cli_process import ENVIRONMENT, FAKE_PROCESS

from fwd2bot import server
from fwd2bot.server.run import address, bind, is_loopback

SLOW_WORDS = FAKE_PROCESS.replace(
    "from fwd2bot.cli import main",
    "import time\nfake_model.FakeRunning.step = lambda self, step=fake_model.FakeRunning.step: "
    "(time.sleep(0.5), step(self))[1]\nfrom fwd2bot.cli import main",
)


@contextmanager
def started(*arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The process, and its address."""
    command = [sys.executable, "-c", SLOW_WORDS, "serve", "album.store", "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert line.startswith("serving album.store (3 images) with fake at http://127.0.0.1:")
        yield process, line.split(" at ")[1].split(";")[0]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_it_finishes_the_answer_that_it_gives(run: Run, album: Path, how: signal.Signals) -> None:
    with started() as (process, url):
        body = json.dumps(chat(stream=True)).encode()
        with urllib.request.urlopen(f"{url}/v1/chat/completions", body, timeout=60) as stream:
            first = [stream.readline() for _ in range(4)]
            process.send_signal(how)
            text = b"".join([*first, stream.read()]).decode()
        pieces = [json.loads(line[6:])["choices"][0]["delta"] for line in text.splitlines() if line[6:7] == "{"]
        assert "".join(piece.get("content", "") for piece in pieces) == "red red red red"
        assert text.endswith("data: [DONE]\n\n")
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == "stopped\n"


def test_a_port_that_is_taken_is_one_line(run: Run, album: Path) -> None:
    with bind("127.0.0.1", 0) as taken:
        port = address(taken).rpartition(":")[2]
        ran = run("serve", "album.store", "--port", port)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert f"127.0.0.1 port {port} cannot be served on (Address already in use): take another" in ran.err


def test_without_the_extra_it_says_how_to_get_it(run: Run, album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fwd2bot.server.run", None)
    monkeypatch.delattr(server, "run")
    ran = run("serve", "album.store")
    assert (ran.code, ran.out) == (2, "")
    assert "pip install 'fwd2bot[serve]'" in ran.err


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("", False),
        ("localhost.example", False),
    ],
)
def test_loopback_is_this_machine_alone(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected
