"""`perago-worker gc` on the real Conductor and the real lakeFS."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from perago_worker.models.probe_name import ProbeName
from tests.e2e.worker import Worker, run_command, started_worker
from tests.integration.platform import Platform, wait_for, workspace

pytestmark = pytest.mark.servers


@contextmanager
def branch_held(platform: Platform, repository: str) -> Iterator[None]:
    """Leave something uncommitted on the branch: lakeFS merges nothing into it meanwhile."""
    platform.lakefs.upload(repository, "main", "uncommitted.txt", b"by somebody else")
    yield
    path = ("repositories", repository, "branches", "main")
    platform.lakefs.answer("PUT", *path, send={"type": "reset"})


def start(platform: Platform) -> tuple[str, str]:
    """Start a workflow whose task changes a repository; return the workflow's id and that."""
    repository, ref = platform.repository({"data/in.txt": b"input"})
    inputs = {"workspace": workspace(repository, ref), "params": {"do": "write"}}
    return platform.start_task("probe.files", inputs), repository


def wait_publishing(worker: Worker) -> None:
    worker.wait_event("step.finished", step="stage")


def gc(config: Path, repository: str) -> dict[str, Any]:
    """Remove what can be removed; return what the command tells, by kind."""
    arguments = ("gc", repository, "--older-than", "0s", "--apply", "--format", "json")
    done = run_command(config, *arguments)
    assert done.returncode == 0, done.stderr
    items: list[dict[str, Any]] = json.loads(done.stdout)
    found = {item["kind"]: item for item in items}
    assert len(found) == len(items)
    return found


def test_the_stage_of_a_killed_worker_goes_when_its_task_has_ended(
    platform: Platform, tmp_path: Path
) -> None:
    config = platform.write_config(tmp_path)
    workflow_id, repository = start(platform)
    with branch_held(platform, repository), started_worker(config) as worker:
        wait_publishing(worker)
        worker.signal(signal.SIGKILL)
        worker.wait_exit()
    (left,) = platform.stages(repository)
    (task,) = platform.state(workflow_id)["tasks"]

    found = gc(config, repository)
    assert found["directory"]["action"] == "removed"
    stage = found["stage"]
    assert (stage["name"], stage["task_id"]) == (left, task["taskId"])
    assert (stage["action"], stage["task_end"]) == ("keep", "running")
    assert platform.stages(repository) == [left]

    platform.conductor.delete(f"/workflow/{workflow_id}").raise_for_status()
    platform.wait_ended(workflow_id)
    found = gc(config, repository)
    assert (found["stage"]["action"], found["stage"]["task_end"]) == ("removed", "failed")
    assert platform.stages(repository) == []
    assert platform.publications(repository) == []
    assert gc(config, repository) == {}


def test_the_stage_of_a_running_attempt_stays(platform: Platform, tmp_path: Path) -> None:
    """The attempt publishes and completes although the command ran in the middle of it."""
    config = platform.write_config(tmp_path)
    workflow_id, repository = start(platform)
    with started_worker(config) as worker:
        with branch_held(platform, repository):
            wait_publishing(worker)
            found = gc(config, repository)
        assert {item["action"] for item in found.values()} == {"keep"}
        state = platform.wait_ended(workflow_id)
        worker.signal()
        assert worker.wait_exit() == 0
    assert state["status"] == "COMPLETED"
    assert len(platform.publications(repository)) == 1
    wait_for(lambda: not platform.stages(repository), "end of the stage")


def test_a_probe_of_the_fence_that_was_left_goes_once_it_is_old(
    platform: Platform, tmp_path: Path
) -> None:
    config = platform.write_config(tmp_path)
    repository, ref = platform.repository({"data/in.txt": b"input"})
    now = time.time()
    old, young = (str(ProbeName.new(created_at=now - age_s)) for age_s in (3600, 0))
    platform.lakefs.store.stage(repository, ref, old)

    shown = run_command(config, "gc", repository, "--format", "json")
    (item,) = json.loads(shown.stdout)
    assert (item["name"], item["action"], item["task_id"]) == (old, "remove", None)
    assert platform.stages(repository) == [old]

    platform.lakefs.store.stage(repository, ref, young)
    done = run_command(config, "gc", repository, "--apply", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert {item["name"]: item["action"] for item in json.loads(done.stdout)} == {
        old: "removed",
        young: "keep",
    }
    assert platform.stages(repository) == [young]
