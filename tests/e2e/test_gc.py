"""`perago-worker gc` over what a worker leaves that was killed while it published."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from perago_worker.adapters.local.queue import LocalQueue
from perago_worker.adapters.system import SystemClock
from tests.e2e.worker import (
    Worker,
    recorded_tasks,
    run_command,
    started_worker,
    submit,
    write_local_config,
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_local_config(tmp_path)


@pytest.fixture
def task_id(config: Path, tmp_path: Path) -> str:
    """A task that waits, whose body writes a file."""
    data = tmp_path / "files"
    (data / "data").mkdir(parents=True)
    (data / "data/in.txt").write_text("input")
    return submit(config, "probe.files", {"do": "write"}, files=data)


@contextmanager
def branch_held(config: Path) -> Iterator[None]:
    """Hold the branch as another git process does, so that a publication has to wait."""
    lock = config.parent / "var/repositories/repo.git/refs/heads/main.lock"
    lock.touch(exist_ok=False)
    ahead = time.time() + 3600  # or it would soon pass for one that a killed process left
    os.utime(lock, (ahead, ahead))
    yield
    lock.unlink()


def stages(config: Path) -> list[str]:
    folder = config.parent / "var/repositories/repo.git/refs/perago/stages"
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def homes(config: Path) -> list[str]:
    return [path.name for path in (config.parent / "var/workspaces").iterdir()]


def wait_publishing(worker: Worker) -> None:
    worker.wait_event("step.finished", step="stage")


def gc(config: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run the command and return what it tells of stages and directories."""
    done = run_command(config, "gc", "--older-than", "0s", "--format", "json", *arguments)
    assert done.returncode == 0, done.stderr
    items: list[dict[str, Any]] = json.loads(done.stdout)
    return items


def actions(items: list[dict[str, Any]]) -> dict[str, str]:
    return {item["kind"]: item["action"] for item in items}


def end_workflow(config: Path) -> None:
    """Take the task from its dead worker before its lease runs out."""
    (record,) = recorded_tasks(config)
    path = config.parent / "var/queue.db"
    with closing(LocalQueue(path, clock=SystemClock(), worker_id="operator")) as queue:
        queue.terminate_workflow(record["workflow_id"], "the worker is gone")


def test_what_a_worker_leaves_that_is_killed_while_it_publishes(config: Path, task_id: str) -> None:
    """Its directory goes at once, its stage when the task has ended, and neither by a dry run."""
    with branch_held(config), started_worker(config) as worker:
        wait_publishing(worker)
        worker.signal(signal.SIGKILL)
        worker.wait_exit()
    (left,) = stages(config)
    assert len(homes(config)) == 1

    items = gc(config, "--apply")
    assert actions(items) == {"stage": "keep", "directory": "removed"}
    (stage,) = (item for item in items if item["kind"] == "stage")
    assert (stage["name"], stage["task_id"], stage["task_end"]) == (left, task_id, "running")
    assert stage["reason"] == "its task has not ended"
    assert (stages(config), homes(config)) == ([left], [])

    end_workflow(config)
    (stage,) = gc(config)
    assert (stage["action"], stage["task_end"]) == ("remove", "failed")
    assert stages(config) == [left]

    assert actions(gc(config, "--apply")) == {"stage": "removed"}
    assert stages(config) == []
    assert gc(config) == []


def test_nothing_of_a_running_attempt_is_removed(config: Path, task_id: str) -> None:
    """The attempt publishes and completes although the command ran in the middle of it."""
    with started_worker(config) as worker:
        with branch_held(config):
            wait_publishing(worker)
            assert actions(gc(config, "--apply")) == {"stage": "keep", "directory": "keep"}
            assert len(stages(config)) == len(homes(config)) == 1
        worker.wait_event("attempt.finished", outcome="completed", task_id=task_id)
        worker.signal()
        assert worker.wait_exit() == 0
    assert stages(config) == homes(config) == []


def test_stages_are_kept_for_an_hour_unless_told_otherwise(config: Path, task_id: str) -> None:
    with branch_held(config), started_worker(config) as worker:
        wait_publishing(worker)
        worker.signal(signal.SIGKILL)
        worker.wait_exit()
    end_workflow(config)

    done = run_command(config, "gc", "--apply")

    assert done.returncode == 0, done.stderr
    assert "keep: it is younger than 3600 s" in done.stdout
    assert "1 removed. 1 kept." in done.stdout
    assert len(stages(config)) == 1


def test_a_successor_removes_the_directory_and_says_so(config: Path, task_id: str) -> None:
    with branch_held(config), started_worker(config) as worker:
        wait_publishing(worker)
        worker.signal(signal.SIGKILL)
        worker.wait_exit()
    (dead,) = homes(config)
    with started_worker(config) as successor:
        removed = successor.wait_event("gc.removed", kind="directory")
        successor.signal()
        assert successor.wait_exit() == 0
    assert removed["name"] == dead
    assert homes(config) == []


class TestReport:
    def test_nothing_to_find(self, config: Path) -> None:
        done = run_command(config, "gc")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Nothing was found")

    def test_a_dry_run_says_how_to_go_on(self, config: Path, task_id: str) -> None:
        home = config.parent / "var/workspaces/1-dead"
        home.mkdir(parents=True)
        (home / "owner.lock").touch()

        done = run_command(config, "gc")

        assert done.returncode == 0
        heading, row, _, summary = done.stdout.splitlines()
        assert heading.split() == [
            *("WHAT", "REPOSITORY", "NAME", "AGE", "TASK", "ID"),
            *("TASK", "ACTION"),
        ]
        assert row.split()[:3] == ["directory", "-", "1-dead"]
        assert row.split()[-1] == "remove"
        assert summary == "1 can be removed: say so with --apply."
        assert home.is_dir()


class TestMistakes:
    def test_a_repository_that_does_not_exist(self, config: Path) -> None:
        done = run_command(config, "gc", "nowhere")
        assert done.returncode == 2
        assert "repository 'nowhere' does not exist" in done.stderr

    def test_an_age_that_is_none(self, config: Path) -> None:
        done = run_command(config, "gc", "--older-than", "soon")
        assert done.returncode == 2
        assert "'soon' is no duration" in done.stderr

    def test_servers_are_not_looked_at_as_a_whole(self, tmp_path: Path) -> None:
        config = server_config(tmp_path)
        done = run_command(config, "gc")
        assert done.returncode == 2
        assert "name the repositories" in done.stderr

    def test_a_queue_that_does_not_answer_keeps_everything(self, tmp_path: Path) -> None:
        config = server_config(tmp_path)
        home = tmp_path / "var/workspaces/1-dead"
        home.mkdir(parents=True)
        (home / "owner.lock").touch()

        done = run_command(config, "gc", "repo", "--apply")

        assert done.returncode == 3
        assert "nothing was removed" in done.stderr
        assert home.is_dir()


def server_config(folder: Path) -> Path:
    """Write a configuration of servers that are not there."""
    for secret in ("id", "key"):
        (folder / secret).write_text("secret")
        (folder / secret).chmod(0o600)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    config = write_local_config(folder)
    text = config.read_text().replace(
        '[queue]\nkind = "local"', f'[queue]\nkind = "conductor"\nurl = "http://127.0.0.1:{port}"'
    )
    text = text.replace(
        '[store]\nkind = "local"',
        f'[store]\nkind = "lakefs"\nendpoint = "http://127.0.0.1:{port}"\n'
        'access_key_id_file = "id"\nsecret_access_key_file = "key"',
    )
    config.write_text(text)
    return config
