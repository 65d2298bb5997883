"""Bars for transfers that take a while, below the log lines of a terminal."""

from __future__ import annotations

import threading
from contextlib import suppress
from io import TextIOBase
from typing import Any, TextIO, cast

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from perago_worker.events import AttemptFinished, Event, TransferProgress, Transferred
from perago_worker.telemetry.summary import SHORT_ID
from perago_worker.telemetry.text import visible

BAR_WIDTH = 24


class ProgressBars:
    """A listener that shows what is being moved. Safe from any thread.

    Whoever else writes to the terminal has to write to `stream`, which puts lines above the bars.

    Args:
        terminal: Where to draw.
    """

    def __init__(self, terminal: TextIO) -> None:
        self._console = Console(file=terminal)
        self._progress = Progress(
            TextColumn("{task.fields[direction]:>8}"),
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(BAR_WIDTH),
            TextColumn("{task.fields[moved]}"),
            TextColumn("{task.fields[objects]}", style="dim"),
            TextColumn("{task.fields[rate]}", style="green"),
            console=self._console,
            auto_refresh=False,  # drawn when there is something new, and by no thread of its own
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._lock = threading.RLock()
        self._bars: dict[tuple[str, str], TaskID] = {}
        self.stream = cast("TextIO", _LinesAbove(terminal, self))  # logging only writes to it

    def on_event(self, event: Event) -> None:
        """Draw a transfer that goes on; take away one that has ended."""
        match event:
            case TransferProgress():
                self._draw(event)
            case Transferred(lease, direction):
                self._remove((lease.task_id, direction))
            case AttemptFinished(lease):
                self._remove((lease.task_id, "download"))
                self._remove((lease.task_id, "upload"))

    def write_line(self, text: str) -> bool:
        """Write above the bars; False when there are none."""
        with self._lock:
            if not self._bars:
                return False
            # whole, for the terminal to wrap: a line that is broken here cannot be copied
            self._console.print(Text.from_ansi(text), soft_wrap=True)
            return True

    def close(self) -> None:
        """Take all bars away."""
        with self._lock:
            for key in list(self._bars):
                self._remove(key)

    def _draw(self, event: TransferProgress) -> None:
        lease = event.lease
        key = (lease.task_id, event.direction)
        with self._lock:
            bar = self._bars.get(key)
            if bar is None:
                name = f"{visible(lease.task_type)} {visible(lease.task_id)[:SHORT_ID]}"
                bar = self._progress.add_task(name, total=None, **_fields(event))
                self._bars[key] = bar
                self._progress.start()
                # A worker that is killed cannot give a hidden cursor back.
                self._console.show_cursor()
            total = event.of_bytes
            self._progress.update(bar, completed=event.bytes, total=total, **_fields(event))
            self._progress.refresh()

    def _remove(self, key: tuple[str, str]) -> None:
        with self._lock:
            bar = self._bars.pop(key, None)
            if bar is None:
                return
            self._progress.remove_task(bar)
            if self._bars:
                self._progress.refresh()
            else:
                self._progress.stop()


def _fields(event: TransferProgress) -> dict[str, Any]:
    of_bytes = "" if event.of_bytes is None else f" of {decimal(event.of_bytes)}"
    of_objects = "" if event.of_objects is None else f" of {event.of_objects:,}"
    rate = event.bytes / event.seconds if event.seconds > 0 else 0.0
    return {
        "direction": event.direction,
        "moved": f"{decimal(event.bytes)}{of_bytes}",
        "objects": f"{event.objects:,}{of_objects} objects",
        "rate": f"{decimal(int(rate))}/s",
    }


class _LinesAbove(TextIOBase):
    """A terminal whose lines go above the bars while there are any."""

    def __init__(self, terminal: TextIO, bars: ProgressBars) -> None:
        self._terminal = terminal
        self._bars = bars

    def write(self, text: str, /) -> int:
        """Write one or more whole lines."""
        if not self._bars.write_line(text.removesuffix("\n")):
            self._terminal.write(text)
        return len(text)

    def flush(self) -> None:
        """Show what was written."""
        with suppress(ValueError):  # closed already
            self._terminal.flush()

    def isatty(self) -> bool:
        """Tell that people look at it."""
        return self._terminal.isatty()
