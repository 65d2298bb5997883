"""The task of the rig under the shortest lease there is; its body can be paused half-way."""

from __future__ import annotations

import os
from pathlib import Path

from perago_worker import task
from tests.rig.pausing import pause_body
from tests.rig.tasks import CASE, SPEC, Answer, Order, change, controls

RESPONSE_S = 1


@task(
    name="rig.zombie",
    owner_email="tests@example.com",
    workspace=SPEC,
    controls=controls(RESPONSE_S),
)
def zombie(workspace: Path, params: Order) -> Answer:
    """Change a workspace, with a pause in the middle if there is to be one."""
    (workspace / "in.txt").write_text("half")
    pause_body(Path(os.environ[CASE]))
    return change(workspace, params)
