"""How fast: a compressor beside the plain LLaVA that it stands on, as ratios within one run.

    python benchmarks/speed.py                     # the bundled model; a minute or so on a quiet machine
    python benchmarks/speed.py --model FOLDER --out benchmarks/results/speed-MACHINE-DATE.json

Jobs that are compared take turns, after a warm-up, and medians count, so that a busy machine slows both. Times of one
machine say little of another; ratios do. Standard output ends with one line of JSON (with --json it is all there is).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from ending import add_options, end
from PIL import Image
from torch import Tensor

from fwd2bot.adapters import GENERATE
from fwd2bot.compressors.base import Compressor
from fwd2bot.data.conversations import encode_conversation, template_named
from fwd2bot.data.world import make_scene
from fwd2bot.errors import Fwd2BotError, InputError
from fwd2bot.evaluation.world import pictures
from fwd2bot.llava import Llava
from fwd2bot.model import Fwd2Bot, load
from fwd2bot.store.rows import Header

GOAL = 0.8
"""Compress at least this share of the images a second that one plain forward takes."""
QUESTION = "what is at the top left?"
NEW_TOKENS = 16
BATCH = 32
ALL = "all"


def medians(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each job: the median of `rounds`, the jobs taking turns, after one that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            _wait()
            began = time.perf_counter()
            job()
            _wait()
            if number:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def ceiling(llava: Llava, rounds: int, side: int = 1024) -> float:
    """Billions of operations a second of one large matrix product: what no pass can exceed."""
    left, right = (torch.randn(side, side, dtype=llava.dtype, device=llava.device) for _ in range(2))
    seconds = medians({"product": lambda: left @ right}, max(5, rounds))["product"]
    return 2 * side**3 / seconds / 1e9


def plain_forward(compressor: Compressor, pixels: Tensor) -> Tensor:
    """The LLaVA itself over [BOS; visual tokens; the same prompt], to the logits of the last token."""
    llava = compressor.llava
    ids = llava.tokenizer(compressor.config.prompt, add_special_tokens=False)["input_ids"]
    before = [llava.tokenizer.bos_token_id] if llava.tokenizer.bos_token_id is not None else []
    text = llava.embed(torch.tensor([*before, *ids], device=llava.device)).expand(len(pixels), -1, -1)
    rows = torch.cat([text[:, : len(before)], llava.visual_tokens(pixels), text[:, len(before) :]], dim=1)
    return llava.logits(llava.run(rows)[:, -1])


def asked(compressor: Compressor, tokens: Tensor, scale: float) -> Tensor:
    """The rows of the language model for one question about each row of `tokens`: (B, K, D) -> (B, T + K, D)."""
    llava, template = compressor.llava, template_named(compressor.config.template)
    turns: list[tuple[str, str | None]] = [(QUESTION, None)]
    encoded = encode_conversation(llava.tokenizer, template, turns, has_image=True)
    text = llava.embed(torch.tensor(encoded.ids, device=llava.device)).expand(len(tokens), -1, -1)
    place = encoded.image_position or 0
    return torch.cat([text[:, :place], (tokens * scale).to(text.dtype), text[:, place:]], dim=1)


def answer(llava: Llava, rows: Tensor, stage: str | None, count: int) -> object:
    """Exactly `count` new tokens to every row, whatever they are."""
    with patch.object(type(llava), "stop_ids", frozenset()):
        return llava.generate(rows, None, stage, max_new_tokens=count)


@torch.inference_mode()
def compress_figures(model: Fwd2Bot, images: list[Image.Image], rounds: int) -> dict[str, float]:
    """Images a second of pass 1 and of one plain forward, both from pixels; and of `compress` from pictures."""
    compressor, chunk = model.compressor, images[: model.batch_size]
    pixels = compressor.llava.pixels(chunk)
    taken = medians(
        {
            "plain_forward": lambda: plain_forward(compressor, pixels),
            "compress": lambda: compressor.compress(pixels),
            "compress_pictures": lambda: model.compress(chunk),
        },
        rounds,
    )
    rates = {f"{name}_images_per_s": len(chunk) / seconds for name, seconds in taken.items()}
    return {**rates, "batch": len(chunk), "ratio": taken["plain_forward"] / taken["compress"], "goal": GOAL}


@torch.inference_mode()
def answer_figures(model: Fwd2Bot, images: list[Image.Image], rounds: int) -> list[dict[str, Any]]:
    """Answers from all visual tokens and from every number of tokens, one at a time and a batch at a time.

    Seconds to the first token, and tokens a second after it, all rows at once.
    """
    compressor, llava = model.compressor, model.compressor.llava
    found: list[dict[str, Any]] = []
    for batch in sorted({1, min(BATCH, len(images))}):
        pixels = llava.pixels(images[:batch])
        sources = _sources(model, pixels)
        jobs: dict[str, Callable[[], object]] = {"tower": partial(llava.visual_tokens, pixels)}
        for name, (rows, stage) in sources.items():
            jobs[f"{name} first"] = partial(answer, llava, rows, stage, 1)
            jobs[f"{name} all"] = partial(answer, llava, rows, stage, NEW_TOKENS)
        taken = medians(jobs, rounds)
        for name, (rows, _) in sources.items():
            first, every = taken[f"{name} first"], taken[f"{name} all"]
            rate = batch * (NEW_TOKENS - 1) / max(1e-9, every - first)
            tokens = compressor.llava.num_visual_tokens if name == ALL else int(name)
            line: dict[str, Any] = {
                "from": "visual tokens" if name == ALL else "a row",
                "tokens": tokens,
                "batch": batch,
            }
            line |= {"positions": rows.shape[1], "first_token_s": first, "tokens_per_s": rate}
            if name == ALL:
                full, line["first_token_with_tower_s"] = line, first + taken["tower"]
            else:
                line["first_token_ratio"] = full["first_token_s"] / first
                line["tokens_ratio"] = rate / full["tokens_per_s"]
            found.append(line)
    return found


def _sources(model: Fwd2Bot, pixels: Tensor) -> dict[str, tuple[Tensor, str | None]]:
    """What an answer is given from, all visual tokens first: the rows of the language model, and the stage."""
    compressor = model.compressor
    sources: dict[str, tuple[Tensor, str | None]] = {
        ALL: (asked(compressor, compressor.llava.visual_tokens(pixels), 1.0), None)
    }
    for count in _counts(model):
        tokens = compressor.compress(pixels, num_tokens=count)
        sources[str(count)] = (asked(compressor, tokens, compressor.config.token_scale), GENERATE)
    return sources


def _counts(model: Fwd2Bot) -> list[int]:
    """16 and 4 where the model offers them; else its most and its fewest."""
    offered = model.token_counts
    chosen = [count for count in offered if count in (4, 16)] or [offered[0], offered[-1]]
    return sorted(set(chosen), reverse=True)


def stored_bytes(model: Fwd2Bot, images: list[Image.Image]) -> dict[str, float]:
    """Of a picture as a JPEG (quality 85), on average, and of a row of each number of tokens, its vector included."""
    about = {"model": model.name, "source": model.source, "fingerprint": "", "width": model.width}
    rows = {f"row_{count}": Header(**about, num_tokens=count).bytes_per_row for count in _counts(model)}
    return {"jpeg": statistics.mean(map(_jpeg_bytes, images)), **rows}


def _jpeg_bytes(image: Image.Image) -> int:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.tell()


# Memory: in a process of its own, where freed memory goes back to the system at once.


def memory_elsewhere(options: argparse.Namespace) -> dict[str, float] | None:
    """Peak megabytes above the loaded model; None where the system does not tell."""
    command = [sys.executable, __file__, "--model", options.model, "--images", str(options.images), "--only-memory"]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    peaks: dict[str, float] | None = json.loads(done.stdout.splitlines()[-1])
    return peaks


@torch.inference_mode()
def memory_figures(model: Fwd2Bot, images: list[Image.Image]) -> dict[str, float] | None:
    """Megabytes that each job takes above what the model holds, over a batch."""
    compressor, llava = model.compressor, model.compressor.llava
    pixels = llava.pixels(images[:BATCH])
    jobs: dict[str, Callable[[], object]] = {
        "plain_forward": partial(plain_forward, compressor, pixels),
        "compress": partial(compressor.compress, pixels),
    }
    for name, (rows, stage) in _sources(model, pixels).items():
        jobs[f"answer_{name}"] = partial(answer, llava, rows, stage, NEW_TOKENS)
    found = {name: _peak(job) for name, job in jobs.items()}
    return None if None in found.values() else {name: value for name, value in found.items() if value is not None}


def _peak(job: Callable[[], object]) -> float | None:
    """Megabytes by which memory in use rises above where it was."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not reset.exists():
        return None
    reset.write_text("5")
    before = _status(status, "VmRSS")
    job()
    return (_status(status, "VmHWM") - before) / 2**10


def _status(path: Path, name: str) -> int:
    (line,) = [line for line in path.read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def told(result: dict[str, Any]) -> str:
    """The figures for people."""
    compress = result["compress"]
    product = f"a matrix product reaches {result['ceiling_gflops']:.0f} GFLOP/s"
    rates = {name.removesuffix("_images_per_s"): f"{rate:.3g}" for name, rate in compress.items()}
    beside = f"one plain forward {rates['plain_forward']}: {compress['ratio']:.2f} of it (goal {GOAL})"
    lines = [
        f"{result['model']} on {result['machine']}: {product}",
        f"compress        {rates['compress']} images/s; {beside}; with preprocessing {rates['compress_pictures']}",
    ]
    for one in result["answer"]:
        more = f"first token {1e3 * one['first_token_s']:.3g} ms, then {one['tokens_per_s']:.3g} tokens/s"
        if "first_token_ratio" in one:
            more += f": {one['first_token_ratio']:.1f} and {one['tokens_ratio']:.1f} times as fast"
        else:
            more += f"; from the picture {1e3 * one['first_token_with_tower_s']:.3g} ms"
        lines.append(f"answer {one['batch']:>2} at once from {one['tokens']:>3} tokens   {more}")
    jpeg, *rows = result["bytes"].items()
    for name, size in rows:
        lines.append(
            f"bytes           {name.replace('_', ' of ')} {size:,}, the JPEG {jpeg[1] / size:.1f} times as many"
        )
    if result["memory_mb"]:
        lines.append("memory (MB)     " + ", ".join(f"{name} {mb:.0f}" for name, mb in result["memory_mb"].items()))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-world", help="bundled name or folder")
    parser.add_argument("--images", type=int, default=BATCH)
    parser.add_argument("--rounds", type=int, default=7)
    add_options(parser)
    parser.add_argument("--only-memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        if options.images < 1 or options.rounds < 1:
            raise InputError("--images and --rounds must be at least 1.")
        model = load(options.model)
    except Fwd2BotError as error:
        print(f"fwd2bot: {error}", file=sys.stderr)
        return error.exit_code
    images = pictures([make_scene("test", index) for index in range(options.images)])
    if options.only_memory:
        print(json.dumps(memory_figures(model, images)))
        return 0
    result = {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "device": str(model.compressor.llava.device),
        "dtype": str(model.compressor.llava.dtype).removeprefix("torch."),
        "ceiling_gflops": ceiling(model.compressor.llava, options.rounds),
        "compress": compress_figures(model, images, options.rounds),
        "answer": answer_figures(model, images, options.rounds),
        "bytes": stored_bytes(model, images),
        "memory_mb": memory_elsewhere(options),
    }
    end(options, result, told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
