"""A task whose body runs the code it is sent, so that one warm child serves many tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from perago_worker import current_attempt, task

NAME = "obedient.task"
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
CHANNEL = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else -1
"""The child's descriptor to the worker."""

NAMES = {
    "CHANNEL": CHANNEL,
    "SLEEP": SLEEP,
    "Path": Path,
    "current_attempt": current_attempt,
    "os": os,
    "signal": signal,
    "subprocess": subprocess,
    "sys": sys,
    "threading": threading,
    "time": time,
}
"""What the code finds, beside `value`."""


class Order(BaseModel):
    """The body of a function, and its argument `value`."""

    code: str
    value: Any = None


class Answer(BaseModel):
    """What the code returned."""

    value: Any = None


@task(name=NAME, owner_email="tests@example.com")
def obey(params: Order) -> Answer:
    """Run the code."""
    scope: dict[str, Any] = dict(NAMES)
    exec(f"def body(value):\n{textwrap.indent(params.code, '    ')}", scope)  # noqa: S102
    return Answer(value=scope["body"](params.value))
