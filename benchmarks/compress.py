"""How much of the time the model works while a folder is compressed, and what goes on beside it.

    python benchmarks/compress.py                     # the bundled model, 256 files; half a minute on two cores
    python benchmarks/compress.py --model FOLDER --side 2000 --out benchmarks/results/compress-MACHINE-DATE.json

Generated pictures are written as JPEGs of so many pixels a side, and `fwd2bot compress`'s own function takes them.
While the model works (pixels to vectors), the next files are read and decoded, and pixels are prepared for it (resized
and normalised); rows are written when it has done a few batches. What these take is a share of the same time. Reading
is measured alone, before, with the same threads. Standard output ends with one line of JSON (with --json it is all
there is).
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from ending import add_options, end
from PIL import Image

from fwd2bot import ingest
from fwd2bot.data.world import make_scene
from fwd2bot.engine import compress_images
from fwd2bot.errors import Fwd2BotError, InputError
from fwd2bot.evaluation.world import pictures
from fwd2bot.images import find_images
from fwd2bot.model import Fwd2Bot, load
from fwd2bot.store.lance import LanceStore

PARTS = {
    "prepare": (Fwd2Bot, "prepare"),
    "model": (Fwd2Bot, "compress"),
    "vectors": (Fwd2Bot, "embed"),
    "write": (LanceStore, "add"),
    "tidy": (LanceStore, "tidy"),
}
"""What is timed, by the method that does it."""


def write_files(folder: Path, count: int, side: int) -> None:
    """JPEGs of the generated world, as large as photographs."""
    folder.mkdir()
    for number, image in enumerate(pictures([make_scene("test", index) for index in range(count)])):
        image.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number:06}.jpg", quality=90)


def measure(model: Fwd2Bot, photos: Path, store: Path) -> dict[str, Any]:
    """Shares of the time of one `compress`, and of reading alone, which took place before it."""
    found = find_images([photos])
    began = time.perf_counter()
    for _ in ingest.read_ahead(found, frozenset(), model.batch_size):
        pass
    reading = time.perf_counter() - began
    taken = dict.fromkeys(PARTS, 0.0)
    with ExitStack() as patches:
        for name, (owner, method) in PARTS.items():
            patches.enter_context(patch.object(owner, method, _timed(getattr(owner, method), name, taken)))
        report = compress_images(model, [photos], store, batch_size=model.batch_size)
    whole = report.seconds
    parts = {
        "model": taken["model"] + taken["vectors"],
        "reading": reading,
        "prepare": taken["prepare"],
        "write": taken["write"] + taken["tidy"],
    }
    shares = {name: seconds / whole for name, seconds in parts.items()}
    return {"images": report.added, "images_per_s": report.added / whole, **shares}


def _timed(function: Callable[..., Any], name: str, taken: dict[str, float]) -> Callable[..., Any]:
    @wraps(function)
    def timed(*given: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*given, **options)
        finally:
            taken[name] += time.perf_counter() - began

    return timed


def told(result: dict[str, Any]) -> str:
    """The figures for people."""
    share = {name: f"{100 * result[name]:.1f} %" for name in ("model", "reading", "prepare", "write")}
    return (
        f"{result['model_name']}, {result['images']} files of {result['side']} x {result['side']} pixels, "
        f"{result['images_per_s']:.3g} a second on {result['machine']}\n"
        f"of the time the model works {share['model']}; beside it, pixels are prepared {share['prepare']}, rows are "
        f"written {share['write']}; to read and decode the files takes {share['reading']} of that time, alone"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-world", help="bundled name or folder")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--side", type=int, default=1024, help="pixels of the files")
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        if min(options.images, options.side) < 1:
            raise InputError("--images and --side must be at least 1.")
        model = load(options.model)
        with TemporaryDirectory() as folder:
            photos = Path(folder, "photos")
            write_files(photos, options.images, options.side)
            model.compress([photos / "000000.jpg"])  # warm-up
            figures = measure(model, photos, Path(folder, "album.store"))
    except Fwd2BotError as error:
        print(f"fwd2bot: {error}", file=sys.stderr)
        return error.exit_code
    end(options, {"model_name": model.name, "side": options.side, **figures}, told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
