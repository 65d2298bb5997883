"""Results as tables for people, as JSON for everything else."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.bench import Scale
from benchmarks.perago_venv import VERSION as PERAGO_VERSION
from benchmarks.results import Metric, Results, Row
from benchmarks.stats import Summary, ratio

LIBRARIES = ("conductor-python", "lakefs-sdk", "urllib3", "httpx", "pydantic")
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
BASE = "limit"
"""Contender that ratios are given to, where it took part."""


def number(value: float) -> str:
    """Write a number with three digits that mean something."""
    if value == 0:
        return "0"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def cell(summary: Summary | None, base: float | None) -> str:
    """Write a middle, its spread, and how many times the base it is."""
    if summary is None:
        return "-"
    text = number(summary.value)
    if summary.count > 1:
        text += f" ({number(summary.low)}-{number(summary.high)})"
    times = ratio(summary.value, base)
    return text if times is None else f"{text} {times:.2f}x"


def row_table(results: Results, row: Row) -> Table:
    """Return one row's contenders, or a curve's, with their metrics."""
    first = [row.x] if row.x else []
    headings = [*first, "contender", *(metric.title for metric in row.metrics)]
    table = Table(*headings, title=row.title, box=SIMPLE_HEAD, title_justify="left")
    for x in results.places(row.key):
        for contender in results.contenders(row.key):
            cells = [_cell(results, row, metric, contender, x) for metric in row.metrics]
            if set(cells) != {"-"}:
                place = [f"{x:,.0f}"] if x is not None else []
                table.add_row(*place, contender, *cells)
    return table


def _cell(results: Results, row: Row, metric: Metric, contender: str, x: float | None) -> str:
    base = None
    if contender != BASE and (limit := results.summary(row.key, metric, BASE, x)):
        base = limit.value
    return cell(results.summary(row.key, metric, contender, x), base)


def steps_table(results: Results, rows: Sequence[Row]) -> Table | None:
    """Return the median milliseconds of the worker's steps in every row that has them."""
    places = [(row, x) for row in rows for x in results.places(row.key)]
    found = [(row, x, results.steps(row.key, x=x)) for row, x in places]
    found = [each for each in found if each[2]]
    if not found:
        return None
    names = list(dict.fromkeys(name for _, _, steps in found for name in steps))
    title = "steps of the worker's attempts, ms"
    table = Table("row", *names, title=title, box=SIMPLE_HEAD, title_justify="left")
    for row, x, steps in found:
        cells = (number(1000 * steps[name]) if name in steps else "-" for name in names)
        table.add_row(row.key if x is None else f"{row.key} {x:,.0f}", *cells)
    return table


def goals_table(results: Results, rows: Sequence[Row]) -> Table:
    """Return the goals of the rows that were measured, and whether they are met."""
    table = Table("row", "goal", "worker", "bound", "met", title="goals", box=SIMPLE_HEAD)
    for row in rows:
        for goal in row.goals:
            medians = results.medians(row.key, row.metrics[goal.metric])
            met = goal.met(medians)
            if met is not None:
                value, bound = number(medians[goal.contender]), number(goal.bound(medians))
                table.add_row(row.key, goal.text, value, bound, "yes" if met else "NO")
    return table


def show(results: Results, rows: Sequence[Row], console: Console) -> None:
    """Print everything that was measured."""
    measured = [row for row in rows if results.contenders(row.key)]
    for row in measured:
        console.print(row_table(results, row))
    steps = steps_table(results, measured)
    if steps:
        console.print(steps)
    console.print(goals_table(results, measured))


def markdown(results: Results, rows: Sequence[Row]) -> str:
    """Return everything that was measured as Markdown, a table for each row."""
    measured = [row for row in rows if results.contenders(row.key)]
    tables = [(row.title, row_table(results, row)) for row in measured]
    if steps := steps_table(results, measured):
        tables.append((str(steps.title), steps))
    tables.append(("goals", goals_table(results, measured)))
    facts = circumstances()
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    lead = f"{facts['date']}, {facts['processors']} processors shared with the servers; {versions}."
    note = (
        "Middles, in brackets the smallest and the largest of several, and how many times the "
        "bare client's they are."
    )
    parts = [f"{lead} {note}"]
    parts += [f"### {title[0].upper()}{title[1:]}\n\n{_markdown(table)}" for title, table in tables]
    return "\n\n".join(parts) + "\n"


def _markdown(table: Table) -> str:
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    lines = [[str(column.header) for column in table.columns], ["---"] * len(columns)]
    lines += [list(cells) for cells in zip(*columns, strict=True)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def renew(page: Path, figures: str) -> None:
    """Put figures into a page, between its two marks."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    page.write_text(f"{before}{begin}\n\n{figures}\n{end}{after}", encoding="utf-8")


def write_json(results: Results, rows: Sequence[Row], scale: Scale, path: Path) -> None:
    """Write everything that was measured, and with what; nothing that tells where."""
    path.write_text(
        json.dumps(
            {**circumstances(), "scale": asdict(scale), "rows": results.to_json(rows)}, indent=1
        )
        + "\n",
        encoding="utf-8",
    )


def circumstances() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processors": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            "perago": PERAGO_VERSION,
            **{name: version(name) for name in LIBRARIES},
            "perago-worker": _own_version(),
        },
    }


def _own_version() -> str:
    from perago_worker._version import __version__

    return __version__
