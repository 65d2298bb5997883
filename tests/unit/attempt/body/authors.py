"""Calls of bodies, and modules of authors that do not load."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perago_worker.attempt.body.child_process import ChildSpec
from perago_worker.attempt.body.process import child_environment
from perago_worker.attempt.body.protocol import Call
from perago_worker.attempt.stop import StopCause, StopToken
from tests.support import ROOT, child_spec, eventually

TASK = """
from pydantic import BaseModel
from perago_worker import task
class Model(BaseModel): pass
@task(name="authors.task", owner_email="tests@example.com")
def body(params: Model) -> Model:
    return Model()
"""


def authors_module(folder: Path, code: str) -> ChildSpec:
    """Write a module with one task, after some code; return how to start a child for it."""
    (folder / "authors_module.py").write_text(f"import os, sys, time\n{code}\n{TASK}")
    environment = child_environment(os.environ, allowed=(), python_path=[folder, ROOT])
    return child_spec("authors.task", "authors_module", environment=environment)


def call(scratch: Path, *, remaining_s: float | None = None, **params: Any) -> Call:
    """Return a call of a task without a workspace."""
    return Call(
        workflow_id="workflow",
        task_id="task",
        retry_count=1,
        params=params,
        workspace=None,
        scratch=str(scratch),
        remaining_s=remaining_s,
    )


@contextmanager
def stopping(stop: StopToken, when: Callable[[], bool]) -> Iterator[None]:
    """Give the order to stop, from another thread, once something has come about."""

    def give_order() -> None:
        eventually(when)
        stop.trip(StopCause.DRAINED, "the test says so")

    thread = threading.Thread(target=give_order)
    thread.start()
    try:
        yield
    finally:
        thread.join()
