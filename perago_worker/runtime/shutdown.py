"""Signals: the first asks the worker to drain, the second to end now.

Handlers only leave a note for a thread that sets the events, and are put back when the worker is
done. They set no event themselves: a handler runs in the main thread between any two of its steps,
also while that thread waits for the event and holds its lock, and then would wait for itself.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType


class Shutdown:
    """What the process was asked to do.

    Attributes:
        drain: Set by the first signal: take no new work, finish what runs.
        now: Set by the second: stop what runs and give it back.
        signal_number: The last signal; None when none came.
    """

    def __init__(self) -> None:
        self.drain = threading.Event()
        self.now = threading.Event()
        self.signal_number: int | None = None

    def ask(self, signal_number: int | None = None) -> None:
        """Take note of one request to end."""
        self.signal_number = signal_number
        if self.drain.is_set():
            self.now.set()
        self.drain.set()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT as requests to end, within the block. For the main thread."""
        came: SimpleQueue[int | None] = SimpleQueue()  # its `put` may interrupt itself

        def handle(number: int, _frame: FrameType | None) -> None:
            came.put(number)

        def listen() -> None:
            while (number := came.get()) is not None:
                self.ask(number)

        listener = threading.Thread(target=listen, name="signals", daemon=True)
        listener.start()
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            came.put(None)
            listener.join()
