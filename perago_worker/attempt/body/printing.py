"""What bodies in threads print: told apart by the thread that prints, and taken line by line.

`sys.stdout` and `sys.stderr` belong to the whole process. While there are bodies in threads, both
are stand-ins that give each line to the attempt whose thread wrote it, so that it is logged with
that attempt's identity and without secrets. A thread that a body started without its context
belongs to no attempt that could be told: its lines are logged without one. The main thread, which
runs no bodies, writes as before.

Programs that a body starts write to the descriptors of the process itself, which nothing can tell
apart in one process.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, TextIO, cast
from weakref import WeakSet

from perago_worker.attempt.body.runner import OnOutput

MAX_LINE_CHARS = 1 << 16
"""Longer lines are cut into pieces, as those of child processes are."""

Stream = Literal["stdout", "stderr"]

_logger = logging.getLogger(__name__)


@dataclass
class _Lines:
    """Cuts what one attempt writes to one stream into lines. Safe from any thread."""

    take: Callable[[str], None]
    pending: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def feed(self, text: str) -> None:
        with self.lock:
            *lines, self.pending = (self.pending + text).split("\n")
            while len(self.pending) > MAX_LINE_CHARS:
                lines.append(self.pending[:MAX_LINE_CHARS])
                self.pending = self.pending[MAX_LINE_CHARS:]
        for line in lines:
            self.take(line)

    def end(self) -> None:
        with self.lock:
            rest, self.pending = self.pending, ""
        if rest:
            self.take(rest)


_busy = threading.local()
_sinks: ContextVar[dict[Stream, _Lines] | None] = ContextVar("perago_prints", default=None)


class _Bytes(io.RawIOBase):
    """What `sys.stdout.buffer` is: bytes that are text."""

    def __init__(self, text: _StandIn) -> None:
        self._text = text

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        content = bytes(cast("bytes", data))
        self._text.write(content.decode(errors="backslashreplace"))
        return len(content)


class _StandIn(io.TextIOBase):
    """Takes the place of one standard stream."""

    def __init__(self, stream: Stream, original: TextIO) -> None:
        self._stream = stream
        self.original = original
        self._strays = _Lines(self._log_stray)
        self.buffer = _Bytes(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # of a class that names it only
        return "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        lines = self._lines()
        if lines is None:
            self.original.write(text)
            return len(text)
        # A log handler that fails complains on standard error, which must not be logged again.
        _busy.taking = True
        try:
            lines.feed(text)
        finally:
            _busy.taking = False
        return len(text)

    def _lines(self) -> _Lines | None:
        if getattr(_busy, "taking", False):
            return None
        sinks = _sinks.get()
        if sinks is not None:
            return sinks[self._stream]
        is_main = threading.current_thread() is threading.main_thread()
        return None if is_main else self._strays

    def flush(self) -> None:
        # Closed is what the original may be at the end of the process.
        if not self.original.closed:
            self.original.flush()

    def close(self) -> None:
        """Stay open: a body that closes its output has not closed that of the others."""

    def _log_stray(self, line: str) -> None:
        if line:
            _logger.info("%s", line, extra={"source": "body", "stream": self._stream})


class Printing:
    """Keeps the stand-ins in place while anybody needs them. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: WeakSet[object] = WeakSet()

    def needed_by(self, user: object) -> None:
        """Put the stand-ins in place, also of streams that others put there. Idempotent."""
        with self._lock:
            self._users.add(user)
            if not isinstance(sys.stdout, _StandIn):
                sys.stdout = _StandIn("stdout", sys.stdout)
            if not isinstance(sys.stderr, _StandIn):
                sys.stderr = _StandIn("stderr", sys.stderr)

    def not_needed_by(self, user: object) -> None:
        """Put back what was there when nobody else needs the stand-ins. Idempotent."""
        with self._lock:
            self._users.discard(user)
            if self._users:
                return
            if isinstance(sys.stdout, _StandIn):
                sys.stdout = sys.stdout.original
            if isinstance(sys.stderr, _StandIn):
                sys.stderr = sys.stderr.original


streams = Printing()
"""Of this process, like the streams."""


@contextmanager
def prints_taken(on_output: OnOutput) -> Iterator[None]:
    """Give what this context prints to `on_output`, line by line, until the block ends."""
    sinks: dict[Stream, _Lines] = {
        "stdout": _Lines(lambda line: on_output("stdout", line)),
        "stderr": _Lines(lambda line: on_output("stderr", line)),
    }
    token = _sinks.set(sinks)
    try:
        yield
    finally:
        _sinks.reset(token)
        for lines in sinks.values():
            lines.end()
