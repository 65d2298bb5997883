"""The clock of the machine."""

from __future__ import annotations

import threading
import time


class SystemClock:
    """`Clock` over the kernel's clocks.

    `CLOCK_BOOTTIME` rather than `CLOCK_MONOTONIC`: a lease goes on running out while the machine is
    suspended.
    """

    def now(self) -> float:
        """Return seconds since boot, suspended time included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def time(self) -> float:
        """Return wall-clock seconds since the epoch."""
        return time.time()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Block until `event` is set or `seconds` have passed; return whether it is set."""
        return event.wait(max(0.0, seconds))
