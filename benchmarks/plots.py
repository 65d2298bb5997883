"""Results as pictures. Needs matplotlib, which only `make bench` installs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import number
from benchmarks.results import Metric, Results, Row

COLOURS = {
    "worker": "#1f6f8b",
    "worker-threads": "#7fb7be",
    "perago": "#c8553d",
    "perago-threads": "#e5a58f",
    "plain": "#8a7f9e",
    "limit": "#9a9a9a",
    "limit-verified": "#7d7d7d",
    "limit-one": "#b5b5b5",
    "limit-next": "#cfcfcf",
}
INK = "#333333"
TITLE_WIDTH = 48
"""Characters of a small picture's title in a line: it does not run into that of its neighbour."""


def draw(results: Results, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw each curve, and all single rows in one picture; return the files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({
        "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
        "axes.edgecolor": INK, "text.color": INK, "axes.labelcolor": INK,
        "svg.hashsalt": "benchmarks",
    })  # fmt: skip
    files = [
        _save(_curve(pyplot, results, row), folder / f"{row.key}.png", pyplot)
        for row in rows
        if row.x and results.xs(row.key)
    ]
    # A row of one contender compares nothing.
    singles = [row for row in rows if not row.x and len(results.contenders(row.key)) > 1]
    if singles:
        files.append(_save(_bars(pyplot, results, singles), folder / "rows.png", pyplot))
    return files


def _save(figure: Any, path: Path, pyplot: Any) -> Path:
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)
    return path


def _curve(pyplot: Any, results: Results, row: Row) -> Any:
    metric = row.metrics[0]
    figure, axes = pyplot.subplots(figsize=(7, 3.6))
    for contender in results.contenders(row.key):
        points = [
            (x, summary)
            for x in results.xs(row.key)
            if (summary := results.summary(row.key, metric, contender, x))
        ]
        xs, ys = [x for x, _ in points], [summary.value for _, summary in points]
        spread = [
            [s.value - s.low for _, s in points],
            [s.high - s.value for _, s in points],
        ]
        axes.errorbar(
            xs, ys, yerr=spread, marker="o", markersize=4, capsize=2, linewidth=1.4,
            label=contender, color=COLOURS[contender],
            linestyle="--" if contender == "limit" else "-",
        )  # fmt: skip
    places = results.xs(row.key)
    axes.set_xscale("log")
    axes.set_xticks(places, labels=[_place(row.x, x) for x in places], fontsize=8)
    axes.minorticks_off()
    if metric.more_is_better:
        axes.set_ylim(bottom=0)
    else:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(row.x)
    axes.set_ylabel(metric.title)
    axes.set_title(row.title, loc="left")
    axes.grid(visible=True, which="major", color="#e5e5e5")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _place(unit: str, x: float) -> str:
    """Return what a place on the axis is called."""
    if unit != "bytes":
        return f"{x:,.0f}"
    power = min(3, (int(x).bit_length() - 1) // 10)
    return f"{x / 1024**power:g} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def _bars(pyplot: Any, results: Results, rows: Sequence[Row]) -> Any:
    columns = 3
    lines = -(-len(rows) // columns)
    figure, grid = pyplot.subplots(lines, columns, figsize=(12, 2.3 * lines), squeeze=False)
    for axes in grid.flat[len(rows) :]:
        axes.set_axis_off()
    for axes, row in zip(grid.flat, rows, strict=False):
        _bar(axes, results, row, row.metrics[0])
    figure.tight_layout()
    return figure


def _bar(axes: Any, results: Results, row: Row, metric: Metric) -> None:
    contenders = [c for c in results.contenders(row.key) if results.summary(row.key, metric, c)]
    contenders.sort(key=list(COLOURS).index, reverse=True)
    summaries = [results.summary(row.key, metric, each) for each in contenders]
    values = [summary.value for summary in summaries if summary]
    bars = axes.barh(contenders, values, color=[COLOURS[each] for each in contenders])
    axes.bar_label(bars, labels=[number(value) for value in values], padding=3)
    title = textwrap.fill(f"{row.title}: {metric.title}", TITLE_WIDTH)
    axes.set_title(title, loc="left", fontsize=7.5)
    axes.tick_params(axis="x", labelbottom=False, length=0)
    axes.margins(x=0.15)
