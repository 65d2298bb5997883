"""What a run of the worker did, as a table at its end."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perago_worker.events import AttemptFinished, Event
from perago_worker.models.outcome import Outcome
from perago_worker.telemetry.text import aligned, visible

MAX_ROWS = 1000
"""Attempts that are kept; the totals count those before them too."""

HEADINGS = ("TASK", "TASK ID", "STATUS", "SECONDS", "OUTPUT REF", "REASON")

SHORT_ID = 8
SHORT_REF = 12
"""Characters of ids and commits that people see on a terminal; elsewhere they are whole."""

_STATUSES = {
    "completed": "COMPLETED",
    "failed": "FAILED",
    "terminal": "FAILED_WITH_TERMINAL_ERROR",
}
_STYLES = {"completed": "green", "failed": "red", "terminal": "bold red"}


@dataclass(frozen=True)
class _Row:
    kind: str
    cells: tuple[str, ...]


class RunSummary:
    """A listener that remembers finished attempts and shows them. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: deque[_Row] = deque(maxlen=MAX_ROWS)
        self._totals: Counter[str] = Counter()

    def on_event(self, event: Event) -> None:
        """Remember finished attempts."""
        if not isinstance(event, AttemptFinished):
            return
        status = _status(event.outcome, reported=event.reported)
        cells = (
            event.lease.task_type,
            event.lease.task_id,
            status,
            f"{event.seconds:.2f}",
            event.outcome.output_ref or "-",
            event.outcome.full_reason or "-",
        )
        row = _Row(event.outcome.kind, tuple(visible(cell) for cell in cells))
        with self._lock:
            self._rows.append(row)
            self._totals[status] += 1

    def render(self, stream: TextIO) -> None:
        """Write the table: with colours and lines on a terminal, aligned text elsewhere."""
        with self._lock:
            rows, totals = list(self._rows), dict(self._totals)
        if not rows:
            stream.write("No task was waiting.\n")
            return
        if stream.isatty():
            _print_for_people(Console(file=stream), rows)
        else:
            stream.write(aligned([HEADINGS, *(row.cells for row in rows)]))
        earlier = sum(totals.values()) - len(rows)
        counts = ", ".join(f"{count} {status}" for status, count in sorted(totals.items()))
        stream.write(f"{counts}{f'; the first {earlier} are not shown' if earlier else ''}\n")


def _status(outcome: Outcome, *, reported: bool) -> str:
    status = _STATUSES.get(outcome.kind)
    if status is None:
        return outcome.kind
    return status if reported else f"{status} (not reported)"


def _print_for_people(console: Console, rows: list[_Row]) -> None:
    """Print a table that fits a terminal, and below it why attempts did not complete."""
    table = Table(*HEADINGS[:-1], box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        task, task_id, status, seconds, ref, _ = row.cells
        table.add_row(
            Text(task, no_wrap=True),
            Text(task_id[:SHORT_ID], no_wrap=True),
            Text(status, style=_STYLES.get(row.kind, "yellow"), no_wrap=True),
            Text(seconds, no_wrap=True),
            Text(ref[:SHORT_REF], no_wrap=True),
        )
    console.print(table)
    for row in rows:
        if row.cells[-1] != "-":
            console.print(Text(f"{row.cells[1][:SHORT_ID]}  {row.cells[-1]}"), soft_wrap=True)
