"""Figures against what an image costs, in tokens and in bytes, as SVG: a line a method; needs matplotlib."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fwd2bot.evaluation.drawing import blank_figure, dress, save

OURS = "fwd2bot"
"""The method whose lines are thick."""
_MARKERS = "os^Dv<>PX"
_REFERENCE = "#1f2328"


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
    """Panels two in a row, with one legend for all. Raises InputError without matplotlib, or where `out` cannot be
    written."""
    from matplotlib import colormaps

    names = sorted({name for panel in panels for name in panel.lines}, key=lambda name: (OURS not in name, name))
    shades = colormaps["tab20"].colors
    styles = {
        name: {
            "color": shades[2 * place % 20 + place // 10 % 2],
            "marker": _MARKERS[place % len(_MARKERS)],
            "linewidth": 2.6 if OURS in name else 1.2,
            "zorder": 3 if OURS in name else 2,
        }
        for place, name in enumerate(names)
    }
    rows = -(-len(panels) // 2)
    figure = blank_figure(10.0, 3.6 * rows + 0.25 * (len(names) // 4 + 2))
    seen: dict[str, Any] = {}
    for panel, axes in zip(panels, figure.subplots(rows, 2, squeeze=False).flat, strict=False):
        _draw(axes, panel, styles)
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            seen.setdefault(name, handle)
    figure.legend(seen.values(), seen.keys(), loc="outside lower center", ncols=4, fontsize=8)
    save(figure, out)


def _draw(axes: Any, panel: Panel, styles: Mapping[str, Mapping[str, Any]]) -> None:
    for name, points in panel.lines.items():
        axes.plot(*zip(*points, strict=True), label=name, markersize=5, **styles[name])
    for name, height in panel.levels.items():
        dashes = ("--", ":", "-.")[list(panel.levels).index(name) % 3]
        axes.axhline(height, color=_REFERENCE, linestyle=dashes, linewidth=1, label=name, zorder=1)
    if panel.marks:
        costs, heights, _ = zip(*panel.marks, strict=True)
        axes.plot(costs, heights, color=_REFERENCE, marker="*", markersize=9, linewidth=1, label=panel.marked)
        for cost, height, words in panel.marks:
            axes.annotate(words, (cost, height), (0, -12), textcoords="offset points", fontsize=7, ha="center")
    axes.set_xscale("log", base=2)
    ticks = sorted({cost for points in panel.lines.values() for cost, _ in points})
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks], rotation=30 if max(ticks) > 999 else 0)
    axes.set_xticks([], minor=True)
    dress(axes, panel.title, panel.across, panel.up)
