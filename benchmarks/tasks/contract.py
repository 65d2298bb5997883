"""The names that tasks are declared with, from whichever framework runs them.

Both call them the same. `BENCHMARK_CONTRACT` names the framework, `BENCHMARK_RUN` sets the names of
one worker's tasks apart from those of every other on the same servers: a poll of a worker that was
stopped may still be open there, and would swallow a task.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

__all__ = [
    "CONTRACT_VARIABLE",
    "CONTROLS",
    "NO_RUN",
    "PREFIX",
    "RUN_VARIABLE",
    "Files",
    "WorkspaceSpec",
    "task",
    "task_name",
]

CONTRACT_VARIABLE = "BENCHMARK_CONTRACT"
RUN_VARIABLE = "BENCHMARK_RUN"
PREFIX = "data"
NO_RUN = "none"

if TYPE_CHECKING:
    from perago_worker import WorkspaceSpec, task

_framework: Any = importlib.import_module(os.environ.get(CONTRACT_VARIABLE, "perago_worker"))
if not TYPE_CHECKING:
    task = _framework.task
    WorkspaceSpec = _framework.WorkspaceSpec
CONTROLS = _framework.TaskControls(
    retry=_framework.RetryPolicy(count=1, delay_seconds=0),
    timeout=_framework.TimeoutPolicy(response_seconds=600),
)


class Files(BaseModel):
    """How many files a body wrote or read."""

    files: int


def task_name(kind: str, run: str | None = None) -> str:
    """Return the name of one kind of task in a run: the one the environment names unless given."""
    return f"bench.{run or os.environ.get(RUN_VARIABLE, NO_RUN)}.{kind}"
