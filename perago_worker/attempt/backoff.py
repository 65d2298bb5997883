"""Trying again: exponential waits with jitter, measured on the worker's clock.

No retry library: every wait here must end the moment the attempt or the worker is told to stop, and
must pass on the clock that was handed in, so that a test can move it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from perago_worker.ports import Clock

R = TypeVar("R")


class Backoff:
    """Endless iterator of waits in seconds, each from the upper half below a rising ceiling."""

    def __init__(self, *, first_s: float, cap_s: float, factor: float = 2.0) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._factor = factor
        self._failures = 0

    def __iter__(self) -> Iterator[float]:
        while True:
            yield self.next_wait()

    def next_wait(self) -> float:
        """Return the next wait and raise the ceiling."""
        ceiling = min(self._cap_s, self._first_s * self._factor ** min(self._failures, 30))
        self._failures += 1
        # Not from zero: many workers that failed together would try again together.
        return random.uniform(ceiling / 2, ceiling)  # noqa: S311 -- jitter, not a secret

    def reset(self) -> None:
        """Start over after a success."""
        self._failures = 0


class Retry:
    """Calls again what failed with one kind of error, a bounded number of times."""

    def __init__(
        self,
        on: type[Exception],
        *,
        tries: int,
        first_s: float,
        cap_s: float,
        factor: float,
        clock: Clock,
        stop: threading.Event,
        check: Callable[[], None],
        on_repeat: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare.

        Args:
            on: The error after which to try again; it is raised after the last try.
            stop: Ends a wait early.
            check: Called before every try; raises to stop trying.
            on_repeat: Called before every try but the first.
        """
        self._on = on
        self._tries = tries
        self._waits = (first_s, cap_s, factor)
        self._clock = clock
        self._stop = stop
        self._check = check
        self._on_repeat = on_repeat

    def __call__(self, work: Callable[..., R], *args: object) -> R:
        """Return what `work` returns, at the first try that does not fail."""
        again = self.repeats()
        while True:
            self._check()
            try:
                return work(*args)
            except self._on:
                if not again():
                    raise

    def repeats(self) -> Callable[[], bool]:
        """Return what waits for the next try of one thing; it returns False where there is none."""
        first_s, cap_s, factor = self._waits
        backoff = Backoff(first_s=first_s, cap_s=cap_s, factor=factor)
        left = iter(range(1, self._tries))

        def again() -> bool:
            if next(left, None) is None:
                return False
            self._clock.wait(self._stop, backoff.next_wait())
            self._on_repeat()
            return True

        return again
