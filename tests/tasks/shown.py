"""Tasks for looking at: attempts that have ended in every way, and one that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from perago_worker import (
    RetryPolicy,
    TaskControls,
    TaskFailed,
    TaskTerminalError,
    TimeoutPolicy,
    WorkspaceSpec,
    current_attempt,
    task,
)

ONCE = TaskControls(
    retry=RetryPolicy(count=0), timeout=TimeoutPolicy(response_seconds=60, policy="RETRY")
)


class Order(BaseModel):
    """What the body is to do, and what it says while it does it, or in the end."""

    how: Literal["return", "fail", "give_up", "go_on"] = "return"
    says: str = ""


class Answer(BaseModel):
    """Nothing to tell."""


@task(
    name="weather.daily_summary_of_all_stations",
    owner_email="tests@example.com",
    workspace=WorkspaceSpec(prefix="data"),
    controls=ONCE,
)
def summary(workspace: Path, params: Order) -> Answer:
    """Write a file, or go on."""
    (workspace / "summary.txt").write_text(params.says)
    return _do(params)


@task(name="weather.dew_point", owner_email="tests@example.com", controls=ONCE)
def dew_point(params: Order) -> Answer:
    """Do as told."""
    return _do(params)


def _do(order: Order) -> Answer:
    attempt = current_attempt()
    attempt.progress(3, 12, order.says)
    if order.how == "fail":
        raise TaskFailed(order.says)
    if order.how == "give_up":
        raise TaskTerminalError(order.says)
    if order.how == "go_on":
        attempt.cancelled.wait()
    return Answer()
