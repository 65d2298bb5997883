"""A task that changes every file of its workspace."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel

from benchmarks.tasks.contract import CONTROLS, PREFIX, Files, WorkspaceSpec, task, task_name

BLOCK_BYTES = 1 << 20


class Params(BaseModel):
    """None."""


@task(
    name=task_name("rewrite"),
    owner_email="bench@example.com",
    workspace=WorkspaceSpec(prefix=PREFIX),
    controls=CONTROLS,
)
def rewrite(workspace: Path, params: Params) -> Files:  # noqa: ARG001 -- part of the contract
    """Fill every file with as many other bytes, a block at a time."""
    block = os.urandom(BLOCK_BYTES)
    files = [path for path in workspace.rglob("*") if path.is_file()]
    for path in files:
        left = path.stat().st_size
        with path.open("wb") as file:
            while left > 0:
                left -= file.write(block[:left])
    return Files(files=len(files))
