"""Signals, ended workflows and servers that go away, on the real Conductor and the real lakeFS."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.servers.servers import Servers
from tests.e2e.worker import child_pids, fetch, started_worker
from tests.integration.platform import Platform, wait_for, workspace

pytestmark = pytest.mark.servers


def start_waiting_body(
    platform: Platform, begun: Path, *, task: str = "probe.files", do: str = "wait"
) -> tuple[str, str, str]:
    """Start a workflow whose body goes on while `begun` exists.

    Returns:
        The workflow's id, the repository, and the input commit.
    """
    repository, ref = platform.repository({"data/in.txt": b"input"})
    params = {"do": do, "signal_file": str(begun)}
    inputs = {"workspace": workspace(repository, ref), "params": params}
    return platform.start_task(task, inputs), repository, ref


def test_sigterm_lets_the_running_body_finish_publish_and_report(
    platform: Platform, tmp_path: Path
) -> None:
    """Exit code 0, one publication, and no poll that was sent after the signal."""
    config = platform.write_config(tmp_path)
    begun = tmp_path / "begun"
    workflow_id, repository, _ = start_waiting_body(platform, begun)
    with started_worker(config) as worker:
        worker.wait_for(begun.exists, "begun body")
        worker.signal()
        worker.wait_event("worker.state_changed", state="draining")
        before = len(worker.all_events("poll.finished"))
        heartbeats = len(worker.all_events("heartbeat.sent"))
        worker.wait_event("heartbeat.sent", count=heartbeats + 2, outcome="held")
        begun.unlink()
        assert worker.wait_exit() == 0
        polls = worker.all_events("poll.finished")[before:]
    assert len(polls) <= 3, "more polls came back than were in flight"
    state = platform.state(workflow_id)
    assert state["status"] == "COMPLETED"
    assert len(platform.publications(repository)) == 1
    assert platform.stages(repository) == []


def test_task_that_comes_with_the_last_poll_is_given_back(
    platform: Platform, tmp_path: Path
) -> None:
    """Polled after the signal, never started: it waits in the queue again, no retry used."""
    config = platform.write_config(tmp_path)
    with started_worker(config) as worker:
        # Three idle polls of this task type: the next one is held open by the server by now.
        worker.wait_event("poll.finished", task="probe.plain", outcome="empty", count=2)
        worker.signal()
        worker.wait_event("worker.state_changed", state="draining")
        workflow_id = platform.start_task("probe.plain", {"params": {"do": "nothing"}})
        given_back = worker.wait_event("task.given_back")
        assert worker.wait_exit() == 0
    (task,) = platform.state(workflow_id)["tasks"]
    assert (task["status"], task["retryCount"]) == ("SCHEDULED", 0)
    assert given_back["task_id"] == task["taskId"]
    with started_worker(config) as successor:
        state = platform.wait_ended(workflow_id)
        successor.signal()
        successor.wait_exit()
    assert state["status"] == "COMPLETED"
    assert len(state["tasks"]) == 1


def test_terminated_workflow_ends_the_body_and_publishes_nothing(
    platform: Platform, tmp_path: Path
) -> None:
    """The next heartbeat finds out; a body that ignores SIGTERM is killed after the grace."""
    config = platform.write_config(tmp_path)
    begun = tmp_path / "begun"
    workflow_id, repository, ref = start_waiting_body(platform, begun, do="loop")
    with started_worker(config) as worker:
        worker.wait_for(begun.exists, "begun body")
        body = int(begun.read_text())
        platform.conductor.delete(f"/workflow/{workflow_id}").raise_for_status()
        worker.wait_event("attempt.finished", outcome="cancelled")
        assert not Path(f"/proc/{body}").exists()
        worker.signal()
        assert worker.wait_exit() == 0
    (task,) = platform.state(workflow_id)["tasks"]
    assert task["status"] == "CANCELED"
    assert platform.history(repository)[0]["id"] == ref
    assert platform.stages(repository) == []


def test_attempt_that_was_superseded_publishes_nothing(platform: Platform, tmp_path: Path) -> None:
    """The task is given to somebody else while the body runs: the first worker finds out."""
    config = platform.write_config(tmp_path)
    begun = tmp_path / "begun"
    workflow_id, repository, ref = start_waiting_body(platform, begun)
    with started_worker(config) as worker:
        worker.wait_for(begun.exists, "begun body")
        (task,) = platform.state(workflow_id)["tasks"]
        give_back = {
            "workflowInstanceId": workflow_id,
            "taskId": task["taskId"],
            "status": "IN_PROGRESS",
            "callbackAfterSeconds": 600,
        }
        platform.conductor.post("/tasks", json=give_back).raise_for_status()
        worker.wait_event("attempt.finished", outcome="superseded")
        begun.unlink()
        worker.signal()
        assert worker.wait_exit() == 0
    assert platform.history(repository)[0]["id"] == ref
    (task,) = platform.state(workflow_id)["tasks"]
    assert task["status"] == "SCHEDULED"


def test_deaf_body_keeps_a_lease_of_three_seconds(platform: Platform, tmp_path: Path) -> None:
    """A body that holds the interpreter and ignores everything does not delay heartbeats."""
    config = platform.write_config(tmp_path)
    begun = tmp_path / "begun"
    workflow_id, _, _ = start_waiting_body(platform, begun, task="probe.short_lease", do="loop")
    with started_worker(config) as worker:
        worker.wait_for(begun.exists, "begun body")
        worker.wait_event("heartbeat.sent", count=8, outcome="held")
        begun.unlink()
        state = platform.wait_ended(workflow_id)
        worker.signal()
        assert worker.wait_exit() == 0
        assert worker.all_events("heartbeat.sent", outcome="lost") == []
    assert state["status"] == "COMPLETED"
    assert [task["pollCount"] for task in state["tasks"]] == [1]


@pytest.mark.timeout(400)
def test_servers_that_are_away_at_the_start_and_go_away_while_a_task_runs(
    private_servers: Servers, private_platform: Platform, tmp_path: Path
) -> None:
    """The worker never exits, says in the log what is away, and takes up work by itself."""
    platform = private_platform
    config = platform.write_config(tmp_path)
    private_servers.conductor.stop()
    private_servers.lakefs.stop()
    with started_worker(config) as worker:
        away = worker.wait_event("poll.finished", outcome="error")
        assert away["level"] == "warning"
        listening = worker.wait_event("http.listening")["address"]
        assert fetch(f"http://{listening}/livez")[0] == 200
        status, why = fetch(f"http://{listening}/readyz")
        assert (status, "cannot poll" in why) == (503, True)

        private_servers.conductor.start()
        private_servers.lakefs.start()
        begun = tmp_path / "begun"
        workflow_id, repository, _ = start_waiting_body(platform, begun)
        worker.wait_for(begun.exists, "begun body", timeout_s=90)

        private_servers.conductor.stop()
        private_servers.lakefs.kill()
        worker.wait_event("heartbeat.sent", outcome="error")
        begun.unlink()  # the body returns while neither server is there
        worker.wait_event("step.finished", step="body")
        private_servers.lakefs.start()
        private_servers.conductor.start()
        state = platform.wait_ended(workflow_id)
        children = child_pids(worker.process.pid)
        worker.signal()
        assert worker.wait_exit() == 0
    assert state["status"] == "COMPLETED"
    assert len(platform.publications(repository)) == 1
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_lakefs_that_goes_away_around_the_publication(
    private_servers: Servers, private_platform: Platform, tmp_path: Path
) -> None:
    """The store is killed before the body returns and comes back later: nothing is lost."""
    platform = private_platform
    config = platform.write_config(tmp_path)
    begun = tmp_path / "begun"
    workflow_id, repository, _ = start_waiting_body(platform, begun)
    with started_worker(config) as worker:
        worker.wait_for(begun.exists, "begun body")
        private_servers.lakefs.kill()
        begun.unlink()
        worker.wait_event("step.finished", step="changes")
        private_servers.lakefs.start()
        state = platform.wait_ended(workflow_id)
        worker.signal()
        assert worker.wait_exit() == 0
    assert [task["status"] for task in state["tasks"]] == ["COMPLETED"]
    assert len(platform.publications(repository)) == 1
    wait_for(lambda: not platform.stages(repository), "end of the stages")
