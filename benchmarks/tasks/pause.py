"""A task that waits, as one does that calls another service."""

from __future__ import annotations

import time

from pydantic import BaseModel

from benchmarks.tasks.contract import CONTROLS, Files, task, task_name


class Params(BaseModel):
    """How long to wait, in seconds."""

    seconds: float


@task(name=task_name("pause"), owner_email="bench@example.com", controls=CONTROLS)
def pause(params: Params) -> Files:
    """Wait."""
    time.sleep(params.seconds)
    return Files(files=0)
