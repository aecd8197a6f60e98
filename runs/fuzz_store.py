"""Damage files of a store at random, and see that it never gives a wrong answer or brings the process down.

    python runs/fuzz_store.py --cases 10000        # about an hour on two cores; prints what came of them as JSON

A case flips bytes of one to three files (data, manifest, deletions, guards, anything), cuts them, lengthens or deletes
them. Then the store is opened, counted, searched and read: each gives what the whole store gave, or a StoreError.
`verify` must find what was done to any file that is read and has its guard; a repair, every tenth time, must leave a
whole store of right rows, and lose none in silence. Cases run in child processes, so that a crash is seen.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fwd2bot.errors import StoreError
from fwd2bot.store import Row, Store
from fwd2bot.store.care import repair, verify
from fwd2bot.store.guards import ENDING, FOLDER, guarded_files

TOKENS, WIDTH, CHUNK = 4, 128, 200


def row(number: int) -> Row:
    """A row of a made-up picture."""
    numbers = np.random.default_rng(number)
    vector = numbers.standard_normal(WIDTH)
    return Row(
        name=f"{number % 7}/{number}.png",
        hash=hashlib.sha256(str(number).encode()).hexdigest(),
        path=f"/photos/{number}.png",
        file_bytes=1000 + number,
        modified=number,
        width=30,
        height=40,
        fingerprint="f" * 64,
        tokens=numbers.standard_normal((TOKENS, WIDTH)).astype(np.float32),
        vector=(vector / np.linalg.norm(vector)).astype(np.float32),
    )


def make_store(path: Path) -> None:
    """151 rows in several files, with names that moved, an empty row and leftovers of an older version."""
    store = Store.create(path, fingerprint="f" * 64, model="made up", num_tokens=TOKENS, width=WIDTH)
    for first in range(0, 150, 50):
        store.add([row(number) for number in range(first, first + 50)])
    again = {"name": "again", "tokens": None, "vector": None}
    store.add([Row(**{**vars(row(200)), "name": "0/7.png"}), Row(**{**vars(row(9)), **again})])
    store.tidy()


def last_commit(path: Path) -> None:
    """One image is deleted."""
    Store.open(path).remove(["1/8.png"])


def answers(path: Path) -> dict[str, Callable[[], Any]]:
    """What is asked of a store; each gives something that can be compared."""
    query = row(1000).vector
    assert query is not None

    def rows() -> list[Any]:
        store = Store.open(path)
        found = store.get(store.names())
        return [(one.name, one.hash, np.asarray(one.tokens).tolist(), np.asarray(one.vector).tolist()) for one in found]

    def info() -> tuple[int, int, int]:
        told = Store.open(path).info()
        return told.rows, told.names, told.image_bytes

    return {
        "open": lambda: list(Store.open(path).listing()),
        "info": info,
        "search": lambda: Store.open(path).search(query, 7),
        "get": rows,
    }


def damage(path: Path, chance: random.Random) -> set[str]:
    """Hurts some files; gives those that are not as they were."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "writer.lock")
    changed = set()
    for file in chance.sample(files, chance.choice([1, 1, 1, 2, 3])):
        before = file.read_bytes()
        content = bytearray(before)
        kind = chance.choice(["flip", "flip", "flip", "many", "hole", "cut", "longer", "gone"])
        if kind == "gone":
            file.unlink()
        elif kind in ("flip", "many"):
            last = chance.choice([3000, len(content), len(content)])  # what says where all lies is at the end
            for _ in range(1 if kind == "flip" else chance.randrange(2, 60)):
                content[-1 - chance.randrange(min(last, len(content)))] ^= chance.randrange(1, 256)
        elif kind == "hole":
            start = chance.randrange(len(content))
            content[start : start + 512] = bytes(len(content[start : start + 512]))
        elif kind == "cut":
            del content[chance.randrange(len(content)) :]
        else:
            content += chance.randbytes(chance.randrange(1, 100))
        if kind != "gone":
            file.write_bytes(content)
        if kind == "gone" or bytes(content) != before:
            changed.add(str(file.relative_to(path)))
    return changed


def case(whole: Path, path: Path, number: int, expected: dict[str, Any]) -> Counter[str]:
    """One case. Raises AssertionError where something is wrong; gives what came of each question."""
    chance = random.Random(number)
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(whole, path)
    read = {*guarded_files(path), *(f"{FOLDER}/{file.name}" for file in (path / FOLDER).iterdir())}
    changed = damage(path, chance)
    came: Counter[str] = Counter()
    for name, ask in answers(path).items():
        try:
            assert ask() == expected[name], f"case {number}: {name} is wrong after {sorted(changed)}"
            came[f"{name}: right"] += 1
        except StoreError:
            came[f"{name}: refused"] += 1
    seen = {name for name in changed & read if is_guarded(path, name)}
    try:
        found = verify(path)
        assert not (found.whole and seen), f"case {number}: verify does not see {sorted(seen)}"
        came["verify: " + ("whole" if found.whole else "damaged")] += 1
    except StoreError:
        came["verify: refused"] += 1
        return came
    if number % 10 == 0:
        came[repaired(path, number, expected)] += 1
    return came


def is_guarded(path: Path, name: str) -> bool:
    """Whether a change of the file must be seen: not where its guard is gone, as if it was never written."""
    if name.startswith(FOLDER):
        return (path / name).exists()
    return (path / FOLDER / (Path(name).name + ENDING)).exists()


def repaired(path: Path, number: int, expected: dict[str, Any]) -> str:
    try:
        done = repair(path)
    except StoreError:
        return "repair: refused"
    right = {one[0]: one for one in expected["before" if done.older else "get"]}
    left = {one[0]: one for one in answers(path)["get"]()}
    assert verify(path).whole, f"case {number}: not whole after a repair"
    assert all(right[name] == one for name, one in left.items()), f"case {number}: repair gives wrong rows"
    assert done.unnamed or left.keys() | set(done.gone) == right.keys(), f"case {number}: repair loses rows in silence"
    if done.aside:
        shutil.rmtree(done.aside)
    return "repair: " + ("all rows" if len(left) == len(right) else "some rows lost")


def fuzz(folder: Path, numbers: range) -> Counter[str]:
    """Cases by number. Raises AssertionError for the first that goes wrong."""
    whole = folder / "whole"
    make_store(whole)
    before = answers(whole)["get"]()
    last_commit(whole)
    expected = {name: ask() for name, ask in answers(whole).items()} | {"before": before}
    came: Counter[str] = Counter()
    for number in numbers:
        came += case(whole, folder / "case", number, expected)
    return came


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--in-process", action="store_true", help="as a child does it")
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.cases)
    came: Counter[str] = Counter()
    if options.in_process:
        with tempfile.TemporaryDirectory() as folder:
            came = fuzz(Path(folder), numbers)
    else:
        for start in range(0, options.cases, CHUNK):
            count = min(CHUNK, options.cases - start)
            arguments = ["--in-process", "--first", str(options.first + start), "--cases", str(count)]
            command = [sys.executable, __file__, *arguments]
            ran = subprocess.run(command, capture_output=True, text=True)
            if ran.returncode:
                raise SystemExit(
                    f"cases from {options.first + start}: exit code {ran.returncode}\n{ran.stderr[-3000:]}"
                )
            came += Counter(json.loads(ran.stdout)["came"])
            print(f"{start + count:,} of {options.cases:,} cases", file=sys.stderr, flush=True)
    print(json.dumps({"cases": options.cases, "first": options.first, "came": dict(sorted(came.items()))}, indent=2))


if __name__ == "__main__":
    main()
