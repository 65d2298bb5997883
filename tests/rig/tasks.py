"""Tasks whose bodies write down what they made, and die where a case wants them to.

Cases copy queues and stores that were prepared once, so where the journal is cannot stand in a
task's input: the environment tells, for bodies in a child process as in a thread.
"""

from __future__ import annotations

import hashlib
import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from perago_worker import (
    RetryPolicy,
    TaskControls,
    TimeoutPolicy,
    WorkspaceSpec,
    current_attempt,
    require_file,
    task,
)
from tests.rig.history import Journal, Killed, Made

CASE = "PERAGO_RIG_CASE"
"""Environment variable: the folder of the case."""

PREFIX = "data"
RESPONSE_S = 30

Deed = Literal["write", "delete", "nothing"]

BODY_POINTS = ("begun", "half", "written", "noted")
"""Places in a body where it, or its worker, can be killed."""


class Order(BaseModel):
    """What the body is to do.

    Attributes:
        first: In the first try.
        later: In retries.
    """

    first: Deed = "write"
    later: Deed = "write"


class Answer(BaseModel):
    """The run of the body that made the workspace; everything it wrote names it."""

    run: str


def controls(response_s: int) -> TaskControls:
    """Return controls with this response timeout and retries that wait for nothing."""
    return TaskControls(
        retry=RetryPolicy(count=5, delay_seconds=0),
        timeout=TimeoutPolicy(response_seconds=response_s, policy="RETRY"),
    )


SPEC = WorkspaceSpec(prefix=PREFIX, pre=[require_file("in.txt")])


@task(
    name="rig.files",
    owner_email="tests@example.com",
    workspace=SPEC,
    controls=controls(RESPONSE_S),
)
def files(workspace: Path, params: Order) -> Answer:
    """Change a workspace."""
    return change(workspace, params)


def change(workspace: Path, order: Order) -> Answer:
    """Do what is ordered and write down what was made."""
    case = Path(os.environ[CASE])
    run = uuid.uuid4().hex
    die(case, "begun")
    deed = order.later if current_attempt().retry_count else order.first
    written, deleted = _DEEDS[deed](case, workspace, run)
    die(case, "written")
    made = Made(
        task_id=current_attempt().task_id,
        run=run,
        written={key(name): checksum(workspace / name) for name in written},
        deleted=tuple(key(name) for name in deleted),
    )
    Journal(case / "journal").note(made)
    die(case, "noted")
    return Answer(run=run)


def _write(case: Path, workspace: Path, run: str) -> tuple[list[str], list[str]]:
    names = ["in.txt", "out/one.txt", "out/two.txt"]
    (workspace / "out").mkdir(exist_ok=True)
    for name in names:
        (workspace / name).write_text(f"{name} of run {run}")
        die(case, "half")
    return names, []


def _delete(case: Path, workspace: Path, run: str) -> tuple[list[str], list[str]]:
    (workspace / "old.txt").unlink()
    die(case, "half")
    (workspace / "in.txt").write_text(f"in.txt of run {run}")
    return ["in.txt"], ["old.txt"]


def _nothing(case: Path, workspace: Path, run: str) -> tuple[list[str], list[str]]:
    die(case, "half")
    return [], []


_DEEDS: dict[Deed, Callable[[Path, Path, str], tuple[list[str], list[str]]]] = {
    "write": _write,
    "delete": _delete,
    "nothing": _nothing,
}


def key(name: str) -> str:
    """Return the object key of a file in the workspace."""
    return f"{PREFIX}/{name}"


def checksum(path: Path) -> str:
    """Return what the rig knows contents by."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def die(case: Path, point: str) -> None:
    """Kill who is to die at this point of the body, the first time it is reached.

    The file `die` of the case says who and where: `child:half`, `worker:noted`.
    """
    order = case / "die"
    if not order.exists():
        return
    who, _, where = order.read_text().partition(":")
    if where != point:
        return
    order.unlink()
    pid = os.getpid() if who == "child" else os.getppid()
    Journal(case / "journal").note(Killed(f"body.{point}.{who}", pid))
    os.kill(pid, signal.SIGKILL)
    if who == "worker":
        signal.pause()  # the kernel ends this process, too: its worker is gone
