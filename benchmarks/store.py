"""A store of many rows: how fast it fills, is searched and looked after, what it takes on disk and in memory.

    python benchmarks/store.py --rows 10000 100000        # a quarter of an hour
    python benchmarks/store.py --out benchmarks/results/store-MACHINE-DATE.json      # with 1,000,000: half an hour

Rows are made up: vectors whose variance falls along their axes as it does for the bundled model's, tokens by chance.
They come in as `compress` brings them, 256 to a commit. Each query is a row's vector turned away from it as far as a
caption's is from its picture's. Filling, searching and the rest happen in processes of their own, whose peak memory
counts.
Recall is against all rows compared, of the vectors as they are stored. Times are of a store whose files the system has
in its cache. Needs 1.7 GB of disk a million rows.
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from ending import add_options, end
from numpy.typing import NDArray

from fwd2bot.ingest import COMMIT_ROWS
from fwd2bot.store import Row, Store
from fwd2bot.store.care import verify
from fwd2bot.store.duplicates import duplicates
from fwd2bot.store.filters import Filter

SIZES = (10_000, 100_000, 1_000_000)
TOKENS, WIDTH = 16, 256
TOP = 10
QUERIES, CHECKED = 300, 50
"""Searches that are timed, and of these the ones whose results are compared with those of all rows."""
SOME = 1000
"""Images that are moved, then deleted."""
COMPARED_ALL = 100_000
"""Rows up to which duplicates are looked for: time grows with the square."""
GOALS = {"p99_ms": 100.0, "recall": 0.99, "disk_ratio": 1.2}
MODEL = "made-up"
Floats = NDArray[np.float32]


def vectors(first: int, count: int) -> Floats:
    """(count, WIDTH) unit vectors of the rows from `first`, a multiple of the commit's size."""
    spread = np.exp(-np.arange(WIDTH) / 24) ** 0.5
    spread /= np.sqrt((spread**2).sum())
    blocks = [
        np.random.default_rng(start).standard_normal((COMMIT_ROWS, WIDTH))
        for start in range(first, first + count, COMMIT_ROWS)
    ]
    centred = np.concatenate(blocks)[:count] * spread
    return _unit(centred + 0.3 * np.random.default_rng(0).standard_normal(WIDTH) / WIDTH**0.5)


def queries(rows: int, count: int) -> Floats:
    """(count, WIDTH): rows with noise of their own kind, at a cosine of about 0.7."""
    chosen = np.random.default_rng(1).integers(0, rows, count)
    near = np.concatenate([vectors(row - row % COMMIT_ROWS, COMMIT_ROWS)[row % COMMIT_ROWS][None] for row in chosen])
    return _unit(near + vectors(2**40, count))


def commits(rows: int) -> Iterator[list[Row]]:
    """Rows as `compress` commits them."""
    pool = np.random.default_rng(2).standard_normal((COMMIT_ROWS, TOKENS, WIDTH)).astype(np.float32)
    for first in range(0, rows, COMMIT_ROWS):
        count = min(COMMIT_ROWS, rows - first)
        yield [
            Row(
                name=f"{number // 1000:04}/IMG_{number:08}.jpg",
                hash=hashlib.sha256(str(number).encode()).hexdigest(),
                path=f"/photos/{number // 1000:04}/IMG_{number:08}.jpg",
                file_bytes=1_000_000,
                fingerprint=MODEL,
                tokens=tokens,
                vector=vector,
            )
            for number, tokens, vector in zip(range(first, first + count), pool, vectors(first, count), strict=False)
        ]


def fill(path: Path, rows: int) -> dict[str, float]:
    """Make the store. Rows a second are those of `Store.add`, the work of making rows up left out."""
    store = Store.create(path, fingerprint=MODEL, model=MODEL, num_tokens=TOKENS, width=WIDTH)
    seconds = 0.0
    with store.writing():
        for commit in commits(rows):
            began = time.perf_counter()
            store.add(commit)
            seconds += time.perf_counter() - began
        began = time.perf_counter()
        store.tidy()
        seconds += time.perf_counter() - began
    info = store.info()
    return {
        "rows_per_s": rows / seconds,
        "bytes_per_row": info.bytes_per_row,
        "disk_ratio": info.disk_bytes / (info.rows * info.bytes_per_row),
        "fill_memory_mb": _peak(),
    }


def search(path: Path, rows: int) -> dict[str, float]:
    """Open the store, search in it, and read rows by name."""
    asked = queries(rows, QUERIES)
    store, began = Store.open(path), time.perf_counter()
    store.search(asked[0], TOP)
    first = time.perf_counter() - began
    times = np.array([_seconds(partial(store.search, query, TOP)) for query in asked])
    memory = _peak()
    found = [{name for name, _ in store.search(query, TOP)} for query in asked[:CHECKED]]
    began = time.perf_counter()
    truth = store.search_many(asked[:CHECKED], TOP, exact=True)
    exact = (time.perf_counter() - began) / CHECKED
    hits = [len(one & {name for name, _ in right}) / len(right) for one, right in zip(found, truth, strict=True)]
    other, name = Store.open(path), "{0:04}/IMG_{1:08}.jpg"
    chosen = [name.format(number // 1000, number) for number in np.random.default_rng(3).integers(0, rows, 100)]
    return {
        "first_search_s": first,
        "p50_ms": 1e3 * float(np.median(times)),
        "p99_ms": 1e3 * float(np.quantile(times, 0.99)),
        "exact_ms": 1e3 * exact,
        "recall": float(np.mean(hits)),
        "first_get_s": _seconds(partial(other.get, chosen[:1])),
        "get_ms": 1e3 * float(np.median([_seconds(partial(other.get, [one])) for one in chosen[1:]])),
        "search_memory_mb": memory,
    }


def look_after(path: Path, rows: int) -> dict[str, float]:
    """What one does to a store: search in a part of it, move and delete files, find duplicates, verify."""
    asked = queries(rows, 1)[0]
    store, found = Store.open(path), dict[str, float]()
    for name, pattern in (("tenth", "*7.jpg"), ("hundredth", "*77.jpg")):
        found[f"search_{name}_s"] = _seconds(partial(store.search, asked, TOP, wanted=Filter(path=pattern)))
    some = store.names(0, min(SOME, rows // 2))
    with store.writing():
        moved = [replace(row, name=f"moved/{row.name}", path=f"/moved/{row.name}") for row in store.get(some)]
        moved = [replace(row, tokens=None, vector=None) for row in moved]
        found["move_s"] = _seconds(lambda: (store.add(moved), store.remove(some)))
        found["delete_s"] = _seconds(lambda: (store.remove([row.name for row in moved]), store.tidy(erase=True)))
    assert len(store) == rows - len(some)
    found["verify_s"] = _seconds(lambda: verify(path))
    if rows <= COMPARED_ALL:
        found["duplicates_s"] = _seconds(lambda: duplicates(store, 0.999))
    return found | {"look_after_memory_mb": _peak()}


def _seconds(job: Callable[[], object]) -> float:
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


PARTS = {"fill": fill, "search": search, "look_after": look_after}


def _peak() -> float:
    """Megabytes that this process has held at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def _unit(rows: NDArray[np.float64] | Floats) -> Floats:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def measured(folder: Path, rows: int) -> dict[str, float]:
    """The figures of a store of so many rows, each part in a process of its own."""
    found: dict[str, float] = {"rows": rows}
    for part in PARTS:
        command = [sys.executable, __file__, "--part", part, "--rows", str(rows), "--folder", str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found |= json.loads(done.stdout.splitlines()[-1])
    return found


def told(one: dict[str, float]) -> str:
    """The figures for people."""
    return (
        f"{one['rows']:>9,.0f} rows   {one['rows_per_s']:,.0f} in a second; search {one['p50_ms']:.1f} ms, "
        f"p99 {one['p99_ms']:.1f} ms, recall@{TOP} {one['recall']:.4f} (all rows: {one['exact_ms']:.0f} ms a query of "
        f"{CHECKED}; the first {one['first_search_s']:.2f} s); a row by name {one['get_ms']:.1f} ms (the first "
        f"{one['first_get_s']:.2f} s); disk {one['disk_ratio']:.3f} of the rows; memory {one['fill_memory_mb']:.0f} MB "
        f"to fill, {one['search_memory_mb']:.0f} MB to search; among a tenth {one['search_tenth_s']:.1f} s, among a "
        f"hundredth {one['search_hundredth_s']:.1f} s; {SOME:,} moved in {one['move_s']:.1f} s, deleted in "
        f"{one['delete_s']:.1f} s; verified in {one['verify_s']:.1f} s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--folder", type=Path, help="where stores are made and left (default: a temporary one)")
    add_options(parser)
    parser.add_argument("--part", choices=tuple(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        print(json.dumps(PARTS[options.part](options.folder / f"{options.rows[0]}.store", options.rows[0])))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        sizes = []
        for rows in options.rows:
            sizes.append(measured(options.folder or Path(temporary), rows))
            print(told(sizes[-1]), file=sys.stderr, flush=True)
    result = {
        "tokens": TOKENS,
        "width": WIDTH,
        "top": TOP,
        "goals": GOALS,
        "sizes": sizes,
    }
    end(options, result, lambda result: "\n".join(map(told, result["sizes"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
