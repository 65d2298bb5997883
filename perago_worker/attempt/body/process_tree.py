"""Finding and ending everything a body has started, however it tried to get away.

A process group misses what went into a session of its own, so the tree is read from the kernel.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

WALL = 0x40000000
"""Source: __WALL in linux/wait.h, for children of whatever kind."""

_LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT
"""Options for looking at children without waiting for them."""


def has_ended(pid: int) -> bool:
    """Whether a child of this process has ended; it is still to be waited for."""
    return os.waitid(os.P_PID, pid, _LOOK) is not None


def has_children() -> bool:
    """Whether this process has any children, ended ones that nobody waited for included."""
    try:
        os.waitid(os.P_ALL, 0, _LOOK | WALL)
    except ChildProcessError:
        return False
    return True


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
