"""A task that does nothing: what is left is the framework's own work."""

from __future__ import annotations

from pydantic import BaseModel

from benchmarks.tasks.contract import CONTROLS, Files, task, task_name


class Params(BaseModel):
    """None."""


@task(name=task_name("noop"), owner_email="bench@example.com", controls=CONTROLS)
def noop(params: Params) -> Files:  # noqa: ARG001 -- part of the contract
    """Do nothing."""
    return Files(files=0)
