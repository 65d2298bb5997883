"""Finding and ending everything a body has started, however it tried to get away.

A process group misses what went into a session of its own, so the tree is read from the kernel.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Return the ids of all processes below `pid`, itself not included."""
    found: list[int] = []
    to_visit = [pid]
    while to_visit:
        children = _children(to_visit.pop())
        found.extend(children)
        to_visit.extend(children)
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    # A thread or process that ends while we look has no children any more.
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                children.extend(int(child) for child in (thread / "children").read_text().split())
    return children


def kill_all(pids: Iterable[int], sig: signal.Signals) -> None:
    """Send a signal to every process that still exists."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, sig)


def kill_tree(pid: int, sig: signal.Signals) -> None:
    """Send a signal to a group leader, its group and everything below it."""
    below = descendants(pid)
    with suppress(ProcessLookupError):
        os.killpg(pid, sig)
    kill_all(below, sig)
