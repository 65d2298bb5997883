"""A task that only looks at its workspace."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from benchmarks.tasks.contract import CONTROLS, PREFIX, Files, WorkspaceSpec, task, task_name


class Params(BaseModel):
    """None."""


@task(
    name=task_name("read"),
    owner_email="bench@example.com",
    workspace=WorkspaceSpec(prefix=PREFIX, read_only=True),
    controls=CONTROLS,
)
def read(workspace: Path, params: Params) -> Files:  # noqa: ARG001 -- part of the contract
    """Count the files."""
    return Files(files=sum(path.is_file() for path in workspace.rglob("*")))
