"""Keeps what the worker has in memory from bodies, which run as the same user, and out of cores.

A process that is not dumpable leaves no core, not even to a handler that takes cores whatever their
limit is, and only a privileged user can look into it: its memory, its environment, its descriptors.
The kernel makes a process dumpable again when it executes another program, so that children are
what they are by their own choice.
"""

from __future__ import annotations

import ctypes

PR_SET_DUMPABLE = 4
"""Source: linux/prctl.h."""


def keep_to_itself() -> None:
    """Let nobody but a privileged user look into this process; debuggers included. Idempotent."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
