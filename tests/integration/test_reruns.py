"""Workflows that are run again after their tasks have published, on the real servers."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.worker import started_worker
from tests.integration.platform import Platform, wait_for, workspace

pytestmark = pytest.mark.servers

NAMES = ("first", "second", "third")


def chain(platform: Platform) -> str:
    """Register a workflow of three tasks that each write a file of their own, named after them."""
    tasks = []
    source = "${workflow.input.workspace}"
    for name in NAMES:
        # The text is read from a file, so that a second run can write another one.
        params = {
            "do": "write_from",
            "path": f"{name}.txt",
            "signal_file": f"${{workflow.input.{name}}}",
        }
        tasks.append(
            {
                "name": "probe.files",
                "taskReferenceName": name,
                "inputParameters": {"workspace": source, "params": params},
            }
        )
        source = f"${{{name}.output.workspace}}"
    return platform.workflow(tasks)


@pytest.fixture
def completed(platform: Platform, tmp_path: Path) -> tuple[str, str, str, Path, Path]:
    """A workflow whose three tasks have published "one".

    Returns:
        Workflow id, repository, input commit, the file that says what bodies write, the config.
    """
    config = platform.write_config(tmp_path)
    repository, ref = platform.repository({"data/in.txt": b"input", "kept.txt": b"kept"})
    text_file = tmp_path / "text"
    text_file.write_text("one")
    inputs = {"workspace": workspace(repository, ref), **dict.fromkeys(NAMES, str(text_file))}
    workflow_id = platform.start(chain(platform), inputs)
    with started_worker(config) as worker:
        assert platform.wait_ended(workflow_id)["status"] == "COMPLETED"
        worker.signal()
        assert worker.wait_exit() == 0
    assert contents(platform, repository) == dict.fromkeys(NAMES, "one")
    text_file.write_text("two")
    return workflow_id, repository, ref, text_file, config


def contents(platform: Platform, repository: str) -> dict[str, str]:
    """Return what each task's file holds at the head of the branch."""
    head = platform.history(repository)[0]["id"]
    assert platform.content(repository, head, "kept.txt") == "kept"
    path = ("repositories", repository, "refs", head, "objects", "ls")
    keys = {entry["path"] for entry in platform.lakefs.call("GET", *path)["results"]}
    return {
        name: str(platform.content(repository, head, f"data/{name}.txt"))
        for name in NAMES
        if f"data/{name}.txt" in keys
    }


def run_again(platform: Platform, config: Path, workflow_id: str) -> Mapping[str, Any]:
    """Let a worker finish the workflow that was set going again."""
    with started_worker(config) as worker:
        state = platform.wait_ended(workflow_id)
        worker.signal()
        assert worker.wait_exit() == 0
    assert state["status"] == "COMPLETED", state.get("reasonForIncompletion")
    return state


def ids(platform: Platform, repository: str) -> set[str]:
    """Return the first-parent commits of the branch."""
    return {commit["id"] for commit in platform.history(repository)}


def test_rerun_from_the_middle_task(
    platform: Platform, completed: tuple[str, str, str, Path, Path]
) -> None:
    """The middle and last task run again; the first one's file and all of the history stay."""
    workflow_id, repository, _, _, config = completed
    before = ids(platform, repository)
    middle = platform.state(workflow_id)["tasks"][1]["taskId"]
    request = {"reRunFromWorkflowId": workflow_id, "reRunFromTaskId": middle}
    platform.conductor.post(f"/workflow/{workflow_id}/rerun", json=request).raise_for_status()
    run_again(platform, config, workflow_id)
    assert contents(platform, repository) == {"first": "one", "second": "two", "third": "two"}
    assert ids(platform, repository) > before
    assert len(platform.publications(repository)) == 5
    assert platform.stages(repository) == []


def test_restart_of_the_workflow(
    platform: Platform, completed: tuple[str, str, str, Path, Path]
) -> None:
    """All three run again from the first input; the branch ends with exactly the new trees."""
    workflow_id, repository, _, _, config = completed
    before = ids(platform, repository)
    platform.conductor.post(f"/workflow/{workflow_id}/restart").raise_for_status()
    state = run_again(platform, config, workflow_id)
    assert contents(platform, repository) == dict.fromkeys(NAMES, "two")
    assert ids(platform, repository) > before
    newest = platform.publications(repository)[:3]
    assert [task["outputData"]["workspace"]["ref"] for task in state["tasks"]] == [
        commit["id"] for commit in reversed(newest)
    ]


def test_restart_while_the_first_task_published_only_its_own(
    platform: Platform, completed: tuple[str, str, str, Path, Path]
) -> None:
    """The first task publishes its own file on the input, and none of the later tasks' old ones."""
    workflow_id, repository, _, _, config = completed
    platform.conductor.post(f"/workflow/{workflow_id}/restart").raise_for_status()
    with started_worker(config) as worker:
        wait_for(lambda: len(platform.publications(repository)) > 3, "fourth publication")
        state = platform.wait_ended(workflow_id)
        worker.signal()
        worker.wait_exit()
    first = state["tasks"][0]["outputData"]["workspace"]["ref"]
    path = ("repositories", repository, "refs", first, "objects", "ls")
    keys = [entry["path"] for entry in platform.lakefs.call("GET", *path)["results"]]
    assert keys == ["data/first.txt", "data/in.txt", "kept.txt"]


def test_retry_of_a_failed_workflow_whose_earlier_tasks_have_published(
    platform: Platform, tmp_path: Path
) -> None:
    """The last task failed for good; `retry` runs it again on what the others published."""
    config = platform.write_config(tmp_path)
    repository, ref = platform.repository({"data/in.txt": b"input", "kept.txt": b"kept"})
    text_file, missing = tmp_path / "text", tmp_path / "missing"
    text_file.write_text("one")
    texts = {**dict.fromkeys(NAMES, str(text_file)), "third": str(missing)}
    workflow_id = platform.start(
        chain(platform), {"workspace": workspace(repository, ref), **texts}
    )
    with started_worker(config) as worker:
        assert platform.wait_ended(workflow_id)["status"] == "FAILED"
        missing.write_text("two")
        platform.conductor.post(f"/workflow/{workflow_id}/retry").raise_for_status()
        assert platform.wait_ended(workflow_id)["status"] == "COMPLETED"
        worker.signal()
        assert worker.wait_exit() == 0
    assert contents(platform, repository) == {"first": "one", "second": "one", "third": "two"}
    assert len(platform.publications(repository)) == 3


def test_zombie_of_the_first_run_publishes_nothing_after_a_rerun(
    platform: Platform, tmp_path: Path
) -> None:
    """A worker paused while its task was run again finds its lease lost when it goes on."""
    config = platform.write_config(tmp_path)
    repository, ref = platform.repository({"data/in.txt": b"input", "kept.txt": b"kept"})
    begun = tmp_path / "begun"
    params = {"do": "wait", "signal_file": str(begun), "path": "first.txt", "text": "zombie"}
    workflow_id = platform.start_task(
        "probe.files", {"workspace": workspace(repository, ref), "params": params}
    )
    with started_worker(config) as zombie:
        zombie.wait_for(begun.exists, "begun body")
        zombie.signal(signal.SIGSTOP)
        begun.unlink()
        task = platform.state(workflow_id)["tasks"][0]
        platform.conductor.delete(f"/workflow/{workflow_id}").raise_for_status()
        request = {"reRunFromWorkflowId": workflow_id, "reRunFromTaskId": task["taskId"]}
        platform.conductor.post(f"/workflow/{workflow_id}/rerun", json=request).raise_for_status()
        folder = tmp_path / "successor"
        folder.mkdir()
        with started_worker(platform.write_config(folder)) as successor:
            wait_for(begun.exists, "begun body of the successor")
            begun.unlink()
            state = platform.wait_ended(workflow_id)
            successor.signal()
            assert successor.wait_exit() == 0
        assert state["status"] == "COMPLETED"
        published = platform.publications(repository)
        zombie.signal(signal.SIGCONT)
        ended = zombie.wait_event("attempt.finished")
        assert ended["outcome"] in {"superseded", "cancelled"}
        zombie.signal()
        assert zombie.wait_exit() == 0
    assert platform.publications(repository) == published
    assert len(published) == 1
    assert platform.stages(repository) == []
