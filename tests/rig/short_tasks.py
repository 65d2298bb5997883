"""The task of the rig under a lease as short as a real server notices soon."""

from __future__ import annotations

from pathlib import Path

from perago_worker import task
from tests.rig.tasks import SPEC, Answer, Order, change, controls

RESPONSE_S = 3


@task(
    name="rig.short",
    owner_email="tests@example.com",
    workspace=SPEC,
    controls=controls(RESPONSE_S),
)
def short(workspace: Path, params: Order) -> Answer:
    """Change a workspace, under a short lease."""
    return change(workspace, params)
