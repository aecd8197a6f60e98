"""Kill `compress` again and again, with a second writer at the same store, and look for rows that are gone.

    python runs/kill_store.py --kills 500        # about ten minutes on two cores; prints what came of it as JSON

Writers add pictures in small commits, and say after each commit which rows are in (they are acknowledged). They are
killed (SIGKILL) at random moments: while they open or make the store, compress or commit. After every kill the store
opens, or was not made yet, and has all that was ever acknowledged; at the end it is filled up and verified.
No model is loaded: a row's numbers are those of its picture.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fwd2bot import ingest
from fwd2bot.engine import compress_images
from fwd2bot.errors import StoreError
from fwd2bot.store import Row, Store
from fwd2bot.store.care import verify

ROOT = Path(__file__).resolve().parent.parent
TOKENS, WIDTH, PICTURES, COMMIT = 4, 8, 1000, 7


class Numbers(np.ndarray[Any, Any]):
    """An array that answers where a tensor is asked."""

    def detach(self) -> "Numbers":
        return self

    def cpu(self) -> "Numbers":
        return self

    def float(self) -> "Numbers":
        return self

    def numpy(self) -> np.ndarray[Any, Any]:
        return np.asarray(self, dtype=np.float32)


class Model:
    """Tokens are what a picture's number gives; without torch, so that a child starts at once."""

    name = source = "numbers"
    fingerprint = "sha256:" + "12" * 32
    num_tokens, width, batch_size = TOKENS, WIDTH, 4
    token_counts = (TOKENS,)
    storable = cuttable = True

    def prepare(self, images: list[Image.Image]) -> list[Image.Image]:
        return images

    def compress(self, images: list[Image.Image], num_tokens: int | None = None) -> Numbers:
        numbers = [sum(256**i * part for i, part in enumerate(image.getpixel((0, 0)))) for image in images]
        return np.stack([tokens_of(number) for number in numbers]).view(Numbers)

    def embed(self, tokens: Numbers, num_tokens: int | None = None) -> Numbers:
        means = np.asarray(tokens).mean(axis=1)
        return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32).view(Numbers)


def tokens_of(number: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(number).standard_normal((TOKENS, WIDTH)).astype(np.float32)


def make_pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        colour = (number % 256, number // 256, 0)
        Image.new("RGB", (2, 2), colour).save(folder / f"{number:05}.png")


def write(pictures: Path, path: Path) -> None:
    """What a child does: waits for its start, adds pictures, and tells every commit."""
    ingest.COMMIT_ROWS = COMMIT
    open_store = Store.open

    def opened(place: str | Path) -> Store:
        store = open_store(place)
        return told(store)

    def told(store: Store) -> Store:
        add = store.add

        def telling(rows: list[Row]) -> None:
            add(rows)
            print(*(row.name for row in rows), flush=True)

        store.add = telling
        return store

    create = Store.create
    Store.open = staticmethod(opened)
    Store.create = staticmethod(lambda *a, **o: told(create(*a, **o)))
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        compress_images(Model(), [pictures], path, batch_size=4)
    except StoreError as error:
        print(f"refused: {error}", flush=True)


class Writer:
    """A child that waits for its start; what it says goes into a file."""

    def __init__(self, pictures: Path, path: Path, log: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--write", str(pictures), str(path)]
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, env=environment)

    def said(self) -> list[str]:
        """Whole lines."""
        return self.log.read_text().split("\n")[:-1]

    def go(self) -> None:
        wait_for(lambda: self.said() == ["ready"])
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def kill(self) -> list[str]:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
        return self.said()[1:]


def wait_for(come: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not come() and time.monotonic() < end:
        time.sleep(0.003)


def rounds(
    pictures: Path, path: Path, kills: int, writers: int, chance: random.Random
) -> Iterator[tuple[int, set[str]]]:
    """(how many writers were refused, what was acknowledged) of each kill. The next writers start up meanwhile."""

    def start(number: int) -> list[Writer]:
        return [Writer(pictures, path, path.with_name(f"log-{number}-{i}")) for i in range(writers)]

    def lines(running: list[Writer]) -> int:
        return sum(not line.startswith(("refused", "ready")) for writer in running for line in writer.said())

    waiting = start(0)
    for number in range(1, kills + 1):
        running, waiting = waiting, start(number)
        for writer in running:
            writer.go()
        commits = chance.choice([0, 0, 1, 2, 4])
        wait_for(lambda wanted=commits, those=running: lines(those) >= wanted, seconds=20)
        time.sleep(chance.random() ** 2 * (0.1 if commits else 1.0))
        said = [line for writer in running for line in writer.kill()]
        refused = [line for line in said if line.startswith("refused")]
        assert not [line for line in refused if "being written by process" not in line], refused
        yield len(refused), {name for line in said if line not in refused for name in line.split()}
    for writer in waiting:
        writer.kill()


def kill_often(
    folder: Path, kills: int, *, writers: int = 2, pictures: int = PICTURES, seed: int = 0
) -> dict[str, int]:
    """Raises AssertionError where anything acknowledged is gone or wrong; gives what was seen."""
    make_pictures(folder / "pictures", pictures)
    path, acknowledged, seen = (
        folder / "store",
        set[str](),
        {"kills": kills, "refused": 0, "commits": 0, "rows acknowledged": 0},
    )
    for number, (refused, told) in enumerate(rounds(folder / "pictures", path, kills, writers, random.Random(seed))):
        seen["refused"] += refused
        seen["commits"] += -(-len(told) // COMMIT)
        seen["rows acknowledged"] += len(told - acknowledged)
        acknowledged |= told
        if not Store.exists(path):
            assert not acknowledged, "the store is gone"
            continue
        store = Store.open(path)
        missing = acknowledged - set(store.names())
        assert not missing, f"kill {number}: {len(missing)} acknowledged rows are gone: {sorted(missing)[:5]}"
        if len(store.names()) == pictures:  # all are in: from the beginning again
            check_rows(store, pictures)
            shutil.rmtree(path)
            acknowledged.clear()
        elif number % 10 == 0:
            assert verify(path).whole, f"kill {number}: {verify(path)}"
    compress_images(Model(), [folder / "pictures"], path, batch_size=64)
    assert verify(path).whole
    check_rows(Store.open(path), pictures)
    return {**seen, "lost": 0}


def check_rows(store: Store, pictures: int) -> None:
    assert store.names() == [f"{number:05}.png" for number in range(pictures)]
    for number, row in enumerate(store.get(store.names())):
        expected = tokens_of(number)
        assert row.tokens is not None
        assert (np.abs(row.tokens - expected) <= store.header.quantiser.tolerance(expected)).all(), row.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--writers", type=int, default=2, help="at once; only one may write (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", nargs=2, metavar=("PICTURES", "STORE"), help="as a child does it")
    options = parser.parse_args()
    if options.write:
        write(*map(Path, options.write))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(kill_often(Path(folder), options.kills, writers=options.writers, seed=options.seed), indent=2))


if __name__ == "__main__":
    main()
