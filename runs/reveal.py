"""What a stored row reveals of its image: facts that its model tells, and the picture that a decoder learns to guess.

    python runs/reveal.py        # three minutes on two cores; half an hour beside a training

Facts: of each test scene, what is at each of the nine places and which colour is behind, asked of the row. Picture: who
has the model has as many pairs of picture and row as he wants, so a decoder is trained on such pairs, from the row as
the store keeps it (--quantise) to a picture of 24 x 24 pixels: ridge regression, and an MLP with one hidden layer. PSNR
in dB, the mean over test scenes; the mean picture of the training scenes is what a guess without the row gives. Writes
results/reveal.json and docs/reveal.png: pictures, what the MLP guesses, and the mean picture.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import fwd2bot
from fwd2bot.data.world import Scene, make_scene
from fwd2bot.data.world.questions import PLACES
from fwd2bot.evaluation.world import pictures
from fwd2bot.model import Fwd2Bot
from fwd2bot.provenance import provenance
from fwd2bot.store.quantise import DEFAULT_QUANTISATION, QUANTISERS, quantiser

ROOT = Path(__file__).resolve().parent.parent
SIDE, SHOWN = 24, 6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-world")
    parser.add_argument("--scenes", type=int, default=3000, help="to train the decoders on")
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--quantise", choices=tuple(QUANTISERS), default=DEFAULT_QUANTISATION)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = fwd2bot.load(options.model, device="cpu")
    test = [make_scene("test", index) for index in range(options.test)]
    train = [make_scene("train", index) for index in range(options.scenes)]
    seen, shown = rows_and_pictures(model, train, options.quantise)
    rows, wanted = rows_and_pictures(model, test, options.quantise)
    mean, scale = seen.mean(dim=0), seen.std()
    guesses = {
        "mean picture": shown.mean(dim=0).expand_as(wanted),
        "ridge": ridge((seen - mean) / scale, shown, (rows - mean) / scale),
        "mlp": mlp((seen - mean) / scale, shown, (rows - mean) / scale),
    }
    found = {
        "model": model.name, "tokens": model.num_tokens, "quantisation": options.quantise,
        "scenes": options.scenes, "test": options.test,
        "facts": facts(model, rows.view(len(rows), model.num_tokens, -1), test),
        "psnr": {name: round(psnr(guess, wanted), 2) for name, guess in guesses.items()}, **provenance(),
    }  # fmt: skip
    (ROOT / "results/reveal.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    draw([wanted, guesses["mlp"], guesses["mean picture"]], ROOT / "docs/reveal.png")
    return 0


def rows_and_pictures(model: Fwd2Bot, scenes: list[Scene], quantisation: str) -> tuple[Tensor, Tensor]:
    """(N, K * D) as a store keeps them, (N, SIDE * SIDE * 3) in 0 to 1."""
    rows, small, kept = [], [], quantiser(quantisation)
    for start in range(0, len(scenes), 100):
        images = pictures(scenes[start : start + 100])
        rows.append(torch.from_numpy(kept.decode(kept.encode(model.compress(images).numpy()))).flatten(1))
        small += [np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)).reshape(-1) for image in images]
        print(f"{start + len(images)} of {len(scenes)} scenes", file=sys.stderr)
    return torch.cat(rows), torch.from_numpy(np.stack(small)).float() / 255


def ridge(rows: Tensor, wanted: Tensor, asked: Tensor) -> Tensor:
    """The penalty is the best of four on a fifth of the pairs."""
    fit = len(rows) * 4 // 5

    def solved(count: int, penalty: float, others: Tensor) -> Tensor:
        part, middle = rows[:count], wanted[:count].mean(dim=0)
        kernel = part @ part.T + penalty * torch.eye(count)
        return others @ (part.T @ torch.linalg.solve(kernel, wanted[:count] - middle)) + middle

    penalties = (1e2, 1e3, 1e4, 1e5)
    best = max(penalties, key=lambda one: psnr(solved(fit, one, rows[fit:]), wanted[fit:]))
    return solved(len(rows), best, asked)


def mlp(rows: Tensor, wanted: Tensor, asked: Tensor, epochs: int = 40) -> Tensor:
    layers = nn.Sequential(
        nn.Linear(rows.shape[1], 512), nn.GELU(), nn.Dropout(0.2), nn.Linear(512, wanted.shape[1]), nn.Sigmoid()
    )
    optimizer = torch.optim.AdamW(layers.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(rows)).split(64):
            optimizer.zero_grad()
            nn.functional.mse_loss(layers(rows[batch]), wanted[batch]).backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        guess: Tensor = layers.eval()(asked)
    return guess


def psnr(guess: Tensor, wanted: Tensor) -> float:
    """The mean over pictures."""
    errors = (guess.clamp(0, 1) - wanted).square().mean(dim=1)
    return float((-10 * errors.log10()).mean())


def facts(model: Fwd2Bot, rows: Tensor, scenes: list[Scene]) -> dict[str, float]:
    """Per cent of the things that are named right at their places, of empty places told empty, and of colours."""
    asked = [(row, place, f"what is at the {place}?") for row in range(len(scenes)) for place in PLACES]
    asked += [(row, "", "what colour is the background?") for row in range(len(scenes))]
    answers = model.answer(rows[[row for row, _, _ in asked]], [question for _, _, question in asked])
    right: dict[str, list[bool]] = {"things": [], "empty places": [], "colours": []}
    for (row, place, _), answer in zip(asked, answers, strict=True):
        thing = scenes[row].at(PLACES.index(place)) if place else None
        kind = "things" if thing else "empty places" if place else "colours"
        right[kind].append(answer == (thing.name if thing else "nothing" if place else scenes[row].colour))
    return {kind: round(100 * sum(hits) / len(hits), 1) for kind, hits in right.items()}


def draw(lines: list[Tensor], path: Path) -> None:
    """The first pictures of each line side by side, pixels four times as large."""
    bytes_: list[NDArray[np.uint8]] = [
        (line[:SHOWN].clamp(0, 1) * 255).round().byte().numpy().reshape(-1, SIDE, SIDE, 3) for line in lines
    ]
    grid = np.concatenate([np.concatenate(list(line), axis=1) for line in bytes_], axis=0)
    Image.fromarray(grid).resize((grid.shape[1] * 4, grid.shape[0] * 4), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    sys.exit(main())
