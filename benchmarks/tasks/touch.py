"""A task that changes one file of its workspace."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel

from benchmarks.tasks.contract import CONTROLS, PREFIX, Files, WorkspaceSpec, task, task_name


class Params(BaseModel):
    """Which file to write, and how many random bytes."""

    file: str
    size: int


@task(
    name=task_name("touch"),
    owner_email="bench@example.com",
    workspace=WorkspaceSpec(prefix=PREFIX),
    controls=CONTROLS,
)
def touch(workspace: Path, params: Params) -> Files:
    """Write one file."""
    (workspace / params.file).write_bytes(os.urandom(params.size))
    return Files(files=1)
