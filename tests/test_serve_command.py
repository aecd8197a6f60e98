"""`fwd2bot serve` as a process: what it says, whom it answers, how it stops."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_run import Run
from serving import chat
from test_cli_process import ENVIRONMENT, FAKE_PROCESS

from fwd2bot import server
from fwd2bot.server.guard import is_loopback
from fwd2bot.server.run import address, bind
from fwd2bot.store.lance import LanceStore

SLOW_WORDS = FAKE_PROCESS.replace(
    "from fwd2bot.cli import main",
    "import time\nfake_model.FakeRunning.step = lambda self, step=fake_model.FakeRunning.step: "
    "(time.sleep(0.5), step(self))[1]\n"
    "fake_model.FakeModel.embed = lambda self, *given, embed=fake_model.FakeModel.embed, **more: "
    "(time.sleep(60 if len(given[0]) > 100 else 0), embed(self, *given, **more))[1]\nfrom fwd2bot.cli import main",
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


def test_told_twice_it_ends_at_once(run: Run, album: Path) -> None:
    with started() as (process, url):
        body = json.dumps({"input": [f"red {number}" for number in range(256)], "model": "fake"}).encode()
        said: list[object] = []

        def ask() -> None:
            try:
                urllib.request.urlopen(f"{url}/v1/embeddings", body, timeout=60)
            except urllib.error.HTTPError as error:
                said.append((error.code, json.loads(error.read())["error"]["message"]))
            except OSError as error:
                said.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(1)  # it is at work, for a minute
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        asking.join(10)
        assert process.stderr is not None
        assert process.stderr.read() == "stopped\n"
        assert len(said) == 1


def test_the_search_is_ready_before_it_can_be_asked(run: Run, album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    search = LanceStore.search

    def searched(self: LanceStore, *given: object, **more: object) -> object:
        done.append("searched")
        return search(self, *given, **more)

    def serve(self: server.run.Stoppable, listening: socket.socket, began: object) -> None:
        done.append("served")
        listening.close()

    monkeypatch.setattr(LanceStore, "search", searched)
    monkeypatch.setattr(server.run.Stoppable, "serve_on", serve)
    assert run("serve", "album.store", "--port", "0").code == 0
    assert done == ["searched", "served"]


@pytest.mark.parametrize("given", ["secret\n", " secret"])
def test_white_space_around_a_token_is_none_of_it(
    run: Run, album: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("FWD2BOT_TOKEN", given)
    opened = []

    def serve(self: server.run.Stoppable, listening: socket.socket, began: object) -> None:
        opened.append(self._served.token)
        listening.close()

    monkeypatch.setattr(server.run.Stoppable, "serve_on", serve)
    assert run("serve", "album.store", "--port", "0").code == 0
    assert opened == ["secret"]


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
