"""Compression by several workers of Ray against `fwd2bot compress`: the same store, and how long each takes.

    pip install 'fwd2bot[ray]'
    python runs/bulk_ray.py        # 200 generated images, 2 workers of one thread each: two minutes on two cores

The workers get half of the images first and then all, of which they do the other half. Prints how many rows have tokens
and vectors that are equal byte for byte; the exit code is 1 unless all are.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import ray

import fwd2bot
from fwd2bot.bulk import compress_with_ray
from fwd2bot.data.world.writers import write_world
from fwd2bot.engine import compress_images
from fwd2bot.store import Store


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-world")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    ray.init(num_cpus=options.workers + 1, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_world(place / "world", options.images, "test")
        images = place / "world/images"
        began = time.monotonic()
        model = fwd2bot.load(options.model, device="cpu")
        one = compress_images(model, [images], place / "one.store")
        print(f"compress: {one.added} rows in {one.seconds:.1f} s, {time.monotonic() - began:.1f} s with loading")
        half = sorted(images.iterdir())[: options.images // 2]
        for what in (half, [images]):  # again with all: what is there is not done again
            began = time.monotonic()
            some = compress_with_ray(options.model, what, place / "ray.store", workers=options.workers)
            seconds = time.monotonic() - began
            print(f"{options.workers} workers: {some.added} added, {some.present} there already, {seconds:.1f} s")
        return compare(Store.open(place / "one.store"), Store.open(place / "ray.store"))


def compare(one: Store, several: Store) -> int:
    """Prints how many rows are equal; 1 unless all are."""
    names = one.names()
    pairs = list(zip(one.get(names), several.get(names), strict=True))
    tokens = sum(a.tokens.tobytes() == b.tokens.tobytes() for a, b in pairs)
    vectors = sum(a.vector.tobytes() == b.vector.tobytes() for a, b in pairs)
    far = max(float(np.abs(a.vector - b.vector).max()) for a, b in pairs)
    apart = f"at most {far:.1e} apart"
    print(f"of {len(pairs)} rows, {tokens} have equal tokens and {vectors} equal vectors, {apart}")
    return int(min(tokens, vectors) < len(pairs))


if __name__ == "__main__":
    sys.exit(main())
