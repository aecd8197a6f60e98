"""Figures 3 to 6 of the paper as SVG, from what `analysis` and `attended` measured; needs matplotlib.

On a white page, so that a dark one around it does no harm; letters stay letters. The same figures give the same file.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fwd2bot.data.world import Scene, captions, render
from fwd2bot.errors import InputError
from fwd2bot.evaluation.attended import Watched

SIDE, LARGE_SIDE = 36, 96
"""Pixels of a picture in Fig. 4, of which there are many, and in Fig. 5."""
HOT = np.array([0.84, 0.15, 0.1])
_COLOURS = ("#0969da", "#bf3989", "#1a7f37", "#bc4c00", "#6639ba", "#59636e")
_WIDE = 144
"""Letters in a line of a caption."""


def blank_figure(width: float, height: float) -> Any:
    """An empty page, in inches. Raises InputError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("Figures need matplotlib: run pip install 'fwd2bot[plots]'.") from error
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save(figure: Any, out: Path) -> None:
    """Raises InputError where it cannot be written."""
    from matplotlib import rc_context

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "fwd2bot"}):
            figure.savefig(out, format="svg", metadata={"Date": None})
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror or error}") from error


def draw_norms(models: dict[str, dict[str, Any]], out: Path) -> None:
    """Fig. 3 of `change_norms` by model: the norm by layer, a line an adapter; how alike the stages' changes are."""
    alike = {name: found["cosines"] for name, found in models.items() if "cosines" in found}
    figure = blank_figure(9.0 if alike else 5.0, 3.4)
    panels = figure.subplots(1, 1 + bool(alike), squeeze=False)[0]
    lines = {
        name if adapter == "shared" else f"{name}, {adapter}": norms
        for name, found in models.items()
        for adapter, norms in found["norms"].items()
    }
    _curves(panels[0], lines, "Change of the weights by layer", "norm of ΔW (Frobenius)")
    panels[0].set_ylim(bottom=0)
    if alike:
        _curves(panels[1], alike, "How alike the stages' changes are", "cosine of the two ΔW (1: the same)")
        panels[1].set_ylim(-0.1, 1.0)
    save(figure, out)


def _curves(axes: Any, lines: dict[str, list[float]], title: str, unit: str) -> None:
    for number, (name, values) in enumerate(lines.items()):
        again, colour = divmod(number, len(_COLOURS))
        look = {"color": _COLOURS[colour], "linestyle": ("-", "--", ":")[again % 3]}
        axes.plot(range(1, len(values) + 1), values, marker="o", markersize=4, label=name, **look)
    dress(axes, title, "layer of the language model", unit)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8)


def dress(axes: Any, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)


def draw_attention(seen: Sequence[Watched], grid: int, out: Path) -> None:
    """Fig. 4: for each scene the plain LLaVA's maps, those of pass 1, each summary token's, and the weights of pass 2.

    A map is scaled to its own largest weight.
    """
    figure = blank_figure(12.0, 0.5 + 3.5 * len(seen))
    figure.suptitle(
        "Attention over the picture, mean over heads; each map is scaled to its largest weight", fontsize=11
    )
    for part, one in zip(figure.subfigures(len(seen), 1, squeeze=False)[:, 0], seen, strict=True):
        upper, lower = part.subfigures(2, 1, height_ratios=(2.7, 1.0))
        maps, rest = upper.subfigures(1, 2, width_ratios=(3.4, 1.0))
        _maps_of_layers(maps, one, grid)
        _weights_of_tokens(rest, one.pass_2.mean(dim=1))
        picture, by_token = small_picture(one.scene, SIDE), one.pass_1.mean(dim=0)  # (K, V)
        for token, axes in enumerate(lower.subplots(1, len(by_token), squeeze=False)[0]):
            _image(axes, overlaid(picture, by_token[token], grid), f"{token + 1}")
        lower.suptitle("pass 1, each summary token, all layers", fontsize=8)
    save(figure, out)


def _maps_of_layers(part: Any, one: Watched, grid: int) -> None:
    """The plain LLaVA above, pass 1 below: the picture, a map a layer, and their sum."""
    picture, layers = small_picture(one.scene, SIDE), len(one.base)
    for row, found, name in zip(
        part.subplots(2, layers + 2),
        (one.base, one.pass_1),
        ("plain LLaVA:\ngenerated tokens", "pass 1: all\nsummary tokens"),
        strict=True,
    ):
        _image(row[0], picture, "the picture")
        row[0].text(-0.05, 0.5, name, fontsize=8, rotation=90, ha="right", va="center", transform=row[0].transAxes)
        maps = [*found.mean(dim=1), found.mean(dim=(0, 1))]  # each (V,)
        titles = [*(f"layer {layer}" for layer in range(1, layers + 1)), "all layers"]
        for axes, one_map, title in zip(row[1:], maps, titles, strict=True):
            _image(axes, overlaid(picture, one_map, grid), title)


def _weights_of_tokens(part: Any, found: Tensor) -> None:
    """Pass 2: (L, K), in per cent of all attention."""
    axes = part.subplots()
    layers, count = found.shape
    drawn = axes.imshow(
        100.0 * found.numpy(), cmap="Blues", aspect="auto", vmin=0, extent=(0.5, count + 0.5, layers + 0.5, 0.5)
    )
    axes.set_title("pass 2: generated tokens", fontsize=8)
    axes.set_xlabel("summary token", fontsize=8)
    axes.set_ylabel("layer", fontsize=8)
    axes.set_xticks(sorted({1, *range(4, count + 1, 4)}))
    axes.tick_params(labelsize=7)
    part.colorbar(drawn, ax=axes, label="% of all attention").ax.tick_params(labelsize=7)


def small_picture(scene: Scene, side: int) -> NDArray[np.uint8]:
    """(side, side, 3)."""
    return np.asarray(Image.fromarray(render(scene, size=2 * side)).resize((side, side), Image.Resampling.BOX))


def overlaid(picture: NDArray[np.uint8], weights: Tensor, grid: int) -> NDArray[np.uint8]:
    """A pale grey picture (S, S, 3) with weights (V,) in red on it, the largest as strong as it gets.

    In few shades, because the page holds a hundred of them.
    """
    grey = 0.4 + 0.6 * np.round(picture.mean(axis=2, keepdims=True) / 255.0 * 8) / 8
    share = np.round((weights / weights.max()).reshape(grid, grid).numpy() * 16) / 16
    place = np.arange(len(picture)) * grid // len(picture)
    strength = 0.9 * share[place][:, place, None]
    mixed: NDArray[np.uint8] = np.round(255 * ((1 - strength) * grey + strength * HOT)).astype(np.uint8)
    return mixed


def _image(axes: Any, picture: NDArray[np.uint8], title: str) -> None:
    axes.imshow(picture, interpolation="none")
    axes.set_title(title, fontsize=8, pad=2)
    axes.axis("off")


def draw_captions(
    scenes: Sequence[Scene], texts: dict[int, list[str]], counts: Sequence[dict[str, Any]], out: Path
) -> None:
    """Fig. 5: captions of these scenes by number of tokens beside the true one; below, scores over all scenes.

    texts: as `captions_by_count`, of these scenes first; counts: `caption_scores` with `tokens` and `offered`.
    """
    figure = blank_figure(11.0, 2.6 * len(scenes) + 3.2)
    upper, lower = figure.subfigures(2, 1, height_ratios=(2.6 * len(scenes), 3.2))
    upper.suptitle("Captions from the first tokens of a row", fontsize=11)
    rows = upper.subplots(len(scenes), 2, width_ratios=(1.0, 4.6), squeeze=False)
    for index, (scene, (left, right)) in enumerate(zip(scenes, rows, strict=True)):
        _image(left, small_picture(scene, LARGE_SIDE), "")
        told = [("true", captions(scene)[0]), *((f"{count}", found[index]) for count, found in texts.items())]
        lines = [(name, textwrap.fill(_printable(text), _WIDE)) for name, text in told]
        right.axis("off")
        for place, (name, text) in enumerate(lines):
            height = 0.97 - place / len(lines)
            right.text(0.0, height, name, fontsize=8, weight="bold", va="top", transform=right.transAxes)
            right.text(0.045, height, text, fontsize=8, va="top", transform=right.transAxes, parse_math=False)
    panels = lower.subplots(1, 2)
    names = {"named": "Things of the scene that are named", "not_there": "Named things that are not there"}
    for axes, (name, title), colour in zip(panels, names.items(), (_COLOURS[2], _COLOURS[3]), strict=True):
        tokens, values = [row["tokens"] for row in counts], [row[name] for row in counts]
        axes.plot(range(len(tokens)), values, color=colour)
        for place, row in enumerate(counts):
            inside = colour if row["offered"] else "white"
            axes.plot(place, row[name], marker="o", color=colour, markerfacecolor=inside)
            axes.annotate(f"{row[name]:.0f}", (place, row[name]), (0, 6), textcoords="offset points", fontsize=8)
        axes.set_xticks(range(len(tokens)), [str(count) for count in tokens])
        axes.set_ylim(0, 105)
        dress(axes, title, "summary tokens (hollow: a number that was never trained)", "%")
    save(figure, out)


def _printable(text: str) -> str:
    """A model may say anything; XML may not."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def draw_hidden(scores: dict[str, Any], out: Path) -> None:
    """Fig. 6 of `hidden_scores`: the mean score where a group of tokens is hidden, a bar a group."""
    figure = blank_figure(7.5, 3.6)
    axes = figure.subplots()
    names = []
    for place, group in enumerate(scores["groups"]):
        first, size, mean = group["first"], group["size"], group["scores"]["mean"]
        names.append(f"{first}–{first + size - 1}")
        axes.bar(place, mean, width=0.7, color=_COLOURS[0] if size == scores["groups"][0]["size"] else _COLOURS[4])
        axes.annotate(f"{mean:.1f}", (place, 3), ha="center", color="white", fontsize=9)
    for name, label, colour in (("none", "none hidden", "#1f2328"), ("blank", "blank picture", "#8c959f")):
        mean = scores[name]["mean"]
        axes.axhline(mean, color=colour, linestyle="--", linewidth=1, label=f"{label}: {mean:.1f}")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 118)
    axes.legend(fontsize=8, loc="upper right", ncols=2)
    dress(axes, "Mean score with summary tokens hidden", "hidden tokens", "right answers, %, mean over kinds")
    save(figure, out)
