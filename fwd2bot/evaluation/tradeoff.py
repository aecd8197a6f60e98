"""Figures against what an image costs, in tokens and in bytes, as SVG: a line a method; needs matplotlib."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fwd2bot.evaluation.drawing import blank_figure, dress, save

OURS = "fwd2bot"
"""The method whose lines are thick."""
_MARKERS = "os^Dv<>PX"
_DASHES = ("--", ":", "-.")
_DARK = "#1f2328"


@dataclass(frozen=True)
class Panel:
    """One plot.

    lines: (cost, per cent) by method, costs ascending. levels: heights that no cost belongs to, by name. marks: points
    of reference, (cost, per cent, what stands beside it), joined by a line called `marked`.
    """

    title: str
    across: str
    up: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    levels: Mapping[str, float] = field(default_factory=dict)
    marks: Sequence[tuple[float, float, str]] = ()
    marked: str = ""


def draw_tradeoffs(panels: Sequence[Panel], out: Path) -> None:
    """Panels two in a row, with one legend for all.

    Raises InputError without matplotlib, or where `out` cannot be written.
    """
    methods = sorted({name for panel in panels for name in panel.lines}, key=lambda name: (OURS not in name, name))
    levels = list(dict.fromkeys(name for panel in panels for name in panel.levels))
    rows = -(-len(panels) // 2)
    figure = blank_figure(10.0, 3.6 * rows + 0.2 * (len(methods) // 4 + 2))
    styles = {name: _style(name, place) for place, name in enumerate(methods)}
    styles |= {name: {"color": _DARK, "linewidth": 1, "linestyle": _DASHES[at % 3]} for at, name in enumerate(levels)}
    seen: dict[str, Any] = {}
    for panel, axes in zip(panels, figure.subplots(rows, 2, squeeze=False).flat, strict=False):
        _draw(axes, panel, styles)
        handles, names = axes.get_legend_handles_labels()
        seen |= dict(zip(names, handles, strict=True))
    figure.legend(seen.values(), seen.keys(), loc="outside lower center", ncols=4, fontsize=8)
    save(figure, out)


def _style(name: str, place: int) -> dict[str, Any]:
    """Of a method's line, each unlike the others."""
    from matplotlib import colormaps

    ours, shades = OURS in name, colormaps["tab20"]
    shade = shades((2 * place + place // 10) % 20)
    marker = _MARKERS[place % len(_MARKERS)]
    return {"color": shade, "marker": marker, "linewidth": 2.6 if ours else 1.2, "zorder": 3 if ours else 2}


def _draw(axes: Any, panel: Panel, styles: Mapping[str, Mapping[str, Any]]) -> None:
    for name, points in panel.lines.items():
        axes.plot(*zip(*points, strict=True), label=name, markersize=5, **styles[name])
    for name, height in panel.levels.items():
        axes.axhline(height, label=name, **styles[name])
    if panel.marks:
        costs, heights, _ = zip(*panel.marks, strict=True)
        axes.plot(costs, heights, color=_DARK, marker="*", markersize=9, linewidth=1, label=panel.marked)
        for cost, height, words in panel.marks:
            axes.annotate(words, (cost, height), (0, -12), textcoords="offset points", fontsize=7, ha="center")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(y=0.1)
    dress(axes, panel.title, panel.across, panel.up)
