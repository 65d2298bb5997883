"""Short tasks that are taken ahead, on the real Conductor: each runs once, and none is stranded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.worker import started_worker
from tests.integration.platform import Platform

pytestmark = pytest.mark.servers

TASKS = 60


def backlog(platform: Platform) -> list[str]:
    """Start workflows of one short task each; return their ids."""
    workflow = platform.workflow(
        [{"name": "probe.plain", "taskReferenceName": "it", "inputParameters": {"params": {}}}]
    )
    return [platform.start(workflow, {}) for _ in range(TASKS)]


def tasks(platform: Platform, workflows: list[str]) -> list[dict[str, Any]]:
    """Return all attempts that Conductor knows of these workflows' tasks."""
    return [task for each in workflows for task in platform.state(each)["tasks"]]


@pytest.fixture(autouse=True)
def however_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine no attempt is so short that others would be taken ahead of their slot."""
    monkeypatch.setenv("PERAGO_WORKER__TAKE_AHEAD", "60s")


def test_a_backlog_is_worked_off_with_few_polls(platform: Platform, tmp_path: Path) -> None:
    config = platform.write_config(tmp_path)
    workflows = backlog(platform)
    with started_worker(config) as worker:
        for each in workflows:
            assert platform.wait_ended(each)["status"] == "COMPLETED"
        worker.signal()
        assert worker.wait_exit() == 0
        brought = [
            e["count"]
            for e in worker.all_events("poll.finished", task="probe.plain", outcome="tasks")
        ]
        begun = [e["task_id"] for e in worker.all_events("attempt.started")]
    found = tasks(platform, workflows)
    assert {(t["status"], t["retryCount"]) for t in found} == {("COMPLETED", 0)}
    assert sorted(begun) == sorted(t["taskId"] for t in found)
    assert max(brought) > 1, "nothing was taken ahead"


def test_a_worker_that_stops_amid_a_backlog_leaves_no_task_behind(
    platform: Platform, tmp_path: Path
) -> None:
    """What waited is in the queue again before the worker is gone, and no retry is used."""
    config = platform.write_config(tmp_path)
    workflows = backlog(platform)
    with started_worker(config) as worker:
        worker.wait_event("attempt.finished", count=TASKS // 4)
        worker.signal()
        assert worker.wait_exit() == 0
    states = {(t["status"], t["retryCount"]) for t in tasks(platform, workflows)}
    assert states <= {("COMPLETED", 0), ("SCHEDULED", 0)}
    with started_worker(config) as successor:
        for each in workflows:
            assert platform.wait_ended(each)["status"] == "COMPLETED"
        successor.signal()
        assert successor.wait_exit() == 0
    assert len(tasks(platform, workflows)) == TASKS
