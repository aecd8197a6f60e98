"""How much batching gives, and whether a busy server says what `fwd2bot ask` says.

    python benchmarks/serving.py                                     # half a minute on a quiet machine
    python benchmarks/serving.py --clients 100 --seconds 300 --out benchmarks/results/serving-MACHINE-DATE.json

Batching: the same questions about the rows of the bundled album, and captions of them, through one worker with one
answer at once and through one with 32; they take turns, after a warm-up, and medians count. Load: `fwd2bot serve` in a
process of its own, clients that ask as fast as they are answered, and every answer, caption and search compared with
the one that was given offline before. Ends with exit code 1 where one differs. Standard output ends with one line of
JSON (with --json it is all there is).
"""

import argparse
import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

from ending import add_options, end

from fwd2bot.data.conversations import Encoded
from fwd2bot.engine import ask, caption, compress_images, search
from fwd2bot.errors import Fwd2BotError, InputError
from fwd2bot.model import BUNDLED, Fwd2Bot, load
from fwd2bot.server.batching import Worker
from fwd2bot.store import Store
from fwd2bot.store.urls import url_of

ALBUM = BUNDLED / "album"
BATCH = 32
TOP = 5


@dataclass(frozen=True)
class Request:
    """What is asked, and what was said offline."""

    path: str
    body: dict[str, Any]
    expected: Any


@dataclass
class Load:
    """What clients saw. refused: told to come again; wrong: (asked, said, expected)."""

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    failed: list[str] = field(default_factory=list)
    wrong: list[tuple[Any, Any, Any]] = field(default_factory=list)


def questions() -> list[tuple[str, str]]:
    """(image, question) of the bundled album."""
    lines = (ALBUM / "questions.jsonl").read_text("utf-8").splitlines()
    return [(line["image"], line["question"]) for line in map(json.loads, lines)]


# Batching.


def batching(model: Fwd2Bot, store: Store, rounds: int, count: int) -> dict[str, Any]:
    """Answers a second with one at once and with many, and their ratio; of short answers and of captions."""
    pairs = (questions() * count)[:count]
    asked = {"questions": pairs, "captions": [(image, model.caption_question) for image, _ in pairs]}
    workers = {at_once: Worker(model, num_tokens=store.header.num_tokens, batch=at_once) for at_once in (1, BATCH)}
    found: dict[str, Any] = {}
    for name, chosen in asked.items():
        jobs = [(row.tokens, prompt_of(model, store, text)) for row, text in rows_of(store, chosen)]
        taken: dict[int, list[float]] = {at_once: [] for at_once in workers}
        for number in range(rounds + 1):
            for at_once, worker in workers.items():
                worker.queue = len(jobs) + 1
                began = time.perf_counter()
                futures = [worker.answer(prompt, tokens=tokens) for tokens, prompt in jobs]
                for future in futures:
                    future.result()
                if number:
                    taken[at_once].append(time.perf_counter() - began)
        one, many = (len(jobs) / median(taken[at_once]) for at_once in workers)
        rates = {"one_at_once_per_s": one, f"{BATCH}_at_once_per_s": many}
        found[name] = {"answers": len(jobs), **rates, "ratio": many / one}
    for worker in workers.values():
        worker.close()
    return found


def rows_of(store: Store, pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[Any, str]]:
    names = sorted({image for image, _ in pairs})
    rows = dict(zip(names, store.get(names), strict=True))
    return ((rows[image], text) for image, text in pairs)


def prompt_of(model: Fwd2Bot, store: Store, text: str) -> Encoded:
    return model.prompt([(text, None)], store.header.num_tokens)


# Load.


def expected_requests(model: Fwd2Bot, store: Store) -> list[Request]:
    """Every question of the album, a caption of each image, and a search for each caption."""
    pairs = questions()
    requests = [
        Request("/v1/chat/completions", chat(model.name, reply.image, reply.question), reply.text)
        for reply in ask(model, store, pairs)
    ]
    captions = list(caption(model, store, store.names()))
    requests += [Request("/album/caption", {"image": reply.image}, reply.text) for reply in captions]
    texts = [reply.text for reply in captions if reply.text]  # an untrained model may say nothing
    for text, found in zip(texts, search(model, store, texts, top=TOP), strict=True):
        requests.append(Request("/album/search", {"query": text, "top": TOP}, [name for name, _ in found.results]))
    return requests


def chat(model: str, image: str, question: str) -> dict[str, Any]:
    content = [
        {"type": "image_url", "image_url": {"url": url_of(image)}},
        {"type": "text", "text": question},
    ]
    return {"model": model, "messages": [{"role": "user", "content": content}]}


def said(answer: dict[str, Any]) -> Any:
    """What an answer comes down to."""
    if "choices" in answer:
        return answer["choices"][0]["message"]["content"]
    return answer["caption"] if "caption" in answer else [one["image"] for one in answer["results"]]


@contextmanager
def server(store: Store, model: str) -> Iterator[tuple[str, int]]:
    """`fwd2bot serve` on a free port: its host and port."""
    command = [sys.executable, "-m", "fwd2bot", "serve", str(store.path), "--model", model, "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        if not line.startswith("serving "):
            raise InputError(f"The server did not start: {line.strip()}")
        host, _, port = line.split("http://")[1].split(";")[0].rpartition(":")
        try:
            yield host, int(port)
        finally:
            process.terminate()


def client(place: tuple[str, int], requests: Sequence[Request], until: float, seed: int, load: Load) -> None:
    """Asks one thing after the other, in an order of its own, until the time is over."""
    numbers = random.Random(seed)
    connection = http.client.HTTPConnection(*place, timeout=300)
    while time.monotonic() < until:
        request = numbers.choice(requests)
        began = time.monotonic()
        try:
            connection.request("POST", request.path, json.dumps(request.body))
            answer = connection.getresponse()
            content = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            load.failed.append(f"{type(error).__name__}: {error}")
            connection.close()
            continue
        if answer.status == 429:
            load.refused += 1
            time.sleep(min(float(answer.headers["retry-after"]), max(0.0, until - time.monotonic())))
        elif answer.status != 200:
            load.failed.append(content["error"]["message"])
        else:
            load.seconds.append(time.monotonic() - began)
            if said(content) != request.expected:
                load.wrong.append((request.body, said(content), request.expected))
    connection.close()


def load_figures(place: tuple[str, int], requests: Sequence[Request], clients: int, seconds: float) -> dict[str, Any]:
    """So many clients for so long."""
    loads = [Load() for _ in range(clients)]
    began = time.monotonic()
    threads = [
        threading.Thread(target=client, args=(place, requests, began + seconds, seed, load))
        for seed, load in enumerate(loads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.monotonic() - began
    waited = sorted(second for load in loads for second in load.seconds)
    cuts = quantiles(waited, n=100) if len(waited) > 1 else [0.0] * 99
    return {
        "clients": clients,
        "seconds": taken,
        "answers": len(waited),
        "answers_per_s": len(waited) / taken,
        "p50_s": cuts[49],
        "p99_s": cuts[98],
        "refused": sum(load.refused for load in loads),
        "failed": [told for load in loads for told in load.failed][:20],
        "wrong": [one for load in loads for one in load.wrong][:20],
    }


def told(result: dict[str, Any]) -> str:
    """The figures for people."""
    lines = []
    for name, one in result["batching"].items():
        lines.append(f"{name:<10} {BATCH} at once: {one['ratio']:.1f} times as many a second as one at once")
    load = result["load"]
    bad = f"{len(load['wrong'])} wrong, {len(load['failed'])} failed, {load['refused']} refused"
    rates = f"{load['answers']} answers, p50 {load['p50_s']:.2f} s, p99 {load['p99_s']:.2f} s"
    lines.append(f"{load['clients']} clients, {load['seconds']:.0f} s: {rates}; {bad}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-world", help="bundled name or folder")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0, help="of load; 300 for the real test")
    parser.add_argument("--answers", type=int, default=128, help="in a round of batching")
    parser.add_argument("--rounds", type=int, default=5)
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        if min(options.clients, options.rounds, options.answers, options.seconds) < 1:
            raise InputError("--clients, --rounds, --answers and --seconds must be at least 1.")
        with TemporaryDirectory() as folder:
            model = load(options.model)
            compress_images(model, [ALBUM], Path(folder) / "album.store")
            store = Store.open(Path(folder) / "album.store")
            figures = batching(model, store, options.rounds, options.answers)
            requests = expected_requests(model, store)
            with server(store, options.model) as place:
                loaded = load_figures(place, requests, options.clients, options.seconds)
    except Fwd2BotError as error:
        print(f"fwd2bot: {error}", file=sys.stderr)
        return error.exit_code
    end(options, {"model": model.name, "batching": figures, "load": loaded}, told)
    return 1 if loaded["wrong"] or loaded["failed"] or not loaded["answers"] else 0


if __name__ == "__main__":
    sys.exit(main())
