"""Whole workflows through the daemon, on the real Conductor and the real lakeFS."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.servers.servers import LakeFSAccess
from perago_worker.attempt.directories import SHELF_NAME, SPARE_NAME
from tests.e2e.worker import Worker, child_pids, started_worker
from tests.integration.platform import Platform, wait_for, workspace

pytestmark = pytest.mark.servers

CHAIN = [
    {
        "name": "probe.files",
        "taskReferenceName": "first",
        "inputParameters": {
            "workspace": "${workflow.input.workspace}",
            "params": {"do": "write", "path": "one.txt", "text": "${workflow.input.text}"},
        },
    },
    {
        "name": "probe.files",
        "taskReferenceName": "second",
        "inputParameters": {
            "workspace": "${first.output.workspace}",
            "params": {"do": "write", "path": "two.txt", "text": "${workflow.input.text}"},
        },
    },
    {
        "name": "probe.plain",
        "taskReferenceName": "third",
        "inputParameters": {"params": {"do": "nothing"}},
    },
]


def nothing_left(worker: Worker, config: Path, platform: Platform, repository: str) -> None:
    """Check that neither stages nor attempt directories are left while the worker goes on.

    What is kept for the next attempts is none of them, and goes with the worker.
    """
    wait_for(lambda: not platform.stages(repository), "end of the stages")
    root = config.parent / "var/workspaces"
    kept = {SHELF_NAME, SPARE_NAME}
    # An attempt reports first and clears away afterwards.
    wait_for(
        lambda: {entry.name for entry in root.glob("[0-9]*/*")} - kept == {"owner.lock"},
        "end of the attempt directories",
    )
    assert len(child_pids(worker.process.pid)) <= 4  # one warm child for each task type


def test_chain_of_three_tasks_ten_times(platform: Platform, tmp_path: Path) -> None:
    """Two publications a run, each on top of the one before; nothing is left behind."""
    config = platform.write_config(tmp_path)
    repository, ref = platform.repository({"data/in.txt": b"input", "other/kept.txt": b"kept"})
    chain = platform.workflow(CHAIN)
    with started_worker(config) as worker:
        for run in range(1, 11):
            workflow_id = platform.start(
                chain, {"workspace": workspace(repository, ref), "text": f"run {run}"}
            )
            state = platform.wait_ended(workflow_id)
            assert state["status"] == "COMPLETED", state.get("reasonForIncompletion")
            by_name = {task["referenceTaskName"]: task for task in state["tasks"]}
            published = platform.publications(repository)
            assert len(published) == 2 * run
            second, first = published[0], published[1]
            assert first["parents"][0] == ref
            assert second["parents"][0] == first["id"]
            assert by_name["first"]["outputData"]["workspace"]["ref"] == first["id"]
            assert by_name["second"]["outputData"]["workspace"]["ref"] == second["id"]
            assert by_name["third"]["outputData"]["result"]["did"] == "nothing"
            ref = second["id"]
            for key in ("data/one.txt", "data/two.txt"):
                assert platform.content(repository, ref, key) == f"run {run}"
            assert platform.content(repository, ref, "other/kept.txt") == "kept"
        nothing_left(worker, config, platform, repository)
        children = child_pids(worker.process.pid)
        worker.signal()
        assert worker.wait_exit() == 0
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert [entry.name for entry in (tmp_path / "var/workspaces").iterdir()] == ["cache"]


@dataclass(frozen=True)
class Service:
    """A worker that runs for all tests of this module which need nothing but its answers."""

    platform: Platform
    worker: Worker
    folder: Path

    def one_task(self, task: str, inputs: dict[str, Any]) -> dict[str, Any]:
        """Run a workflow of one task to its end and return the task's first attempt."""
        workflow_id = self.platform.start_task(task, inputs)
        state = self.platform.wait_ended(workflow_id)
        first: dict[str, Any] = state["tasks"][0]
        return first

    def nothing_left(self, repository: str) -> None:
        """Check that neither stages nor attempt directories are left, as soon as may be."""
        nothing_left(self.worker, self.folder / "worker.toml", self.platform, repository)


@pytest.fixture(scope="module")
def service(
    conductor_url: str, lakefs: LakeFSAccess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    platform = Platform(conductor_url, lakefs)
    folder = tmp_path_factory.mktemp("service")
    with started_worker(platform.write_config(folder)) as worker:
        yield Service(platform, worker, folder)
        worker.signal()
        assert worker.wait_exit() == 0
    platform.close()


FAILED, TERMINAL = "FAILED", "FAILED_WITH_TERMINAL_ERROR"


@pytest.mark.parametrize(
    ("do", "status", "reason"),
    [
        ("fail", FAILED, "task_failed: the upstream service is away"),
        ("terminal", TERMINAL, "task_terminal: this input can never work"),
        ("raise", FAILED, "task_exception: FileNotFoundError: "),
        ("wrong_result", FAILED, "result_invalid: the body did not return what it declares: "),
        ("die", FAILED, "child_died: the child process was killed by SIGKILL (peak memory "),
        ("exit", FAILED, "child_died: the child process ended with exit code 3 "),
        ("forbidden", FAILED, "post_guard: "),
        ("symlink", FAILED, "file_refused: file 'link' cannot be published: it is a symbolic link"),
        ("huge", TERMINAL, "output_too_large: "),
    ],
)
def test_body_that_fails(
    service: Service, tmp_path: Path, do: str, status: str, reason: str
) -> None:
    """Each way of failing has its status, and a reason with a stable first word."""
    platform = service.platform
    repository, ref = platform.repository({"data/in.txt": b"input"})
    inputs = {"workspace": workspace(repository, ref), "params": {"do": do}}
    task = service.one_task("probe.files", inputs)
    assert task["status"] == status
    assert task["reasonForIncompletion"].startswith(reason), task["reasonForIncompletion"]
    assert str(service.folder) not in task["reasonForIncompletion"]
    assert platform.history(repository)[0]["id"] == ref
    service.nothing_left(repository)
    if do == "raise":
        assert any("FileNotFoundError" in line for line in platform.task_log(task["taskId"]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"params": {"do": "no such deed"}}, "params_invalid: "),
        ({"params": "text"}, "params_invalid: the task input's 'params' is a str"),
        ({"workspace": {"repository": "x"}}, "workspace_invalid: "),
        ({"workspace": "main"}, "workspace_invalid: "),
        ({"repository": "no-such-repository"}, "not_found: repository 'no-such-repository'"),
        ({"ref": "f" * 64}, "not_found: commit "),
        ({"branch": "no-such-branch"}, "not_found: branch 'no-such-branch'"),
        ({"files": {"data/other.txt": b"x"}}, "pre_guard: "),
    ],
)
def test_input_that_cannot_be_used(
    service: Service, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    """Bad input fails terminally before the body runs, with a reason that names what is wrong."""
    platform = service.platform
    repository, ref = platform.repository(change.get("files", {"data/in.txt": b"input"}))
    place = workspace(repository, ref)
    place |= {key: change[key] for key in ("repository", "ref", "branch") if key in change}
    inputs: dict[str, Any] = {"workspace": place, "params": {"do": "write"}}
    inputs |= {key: change[key] for key in ("params", "workspace") if key in change}
    task = service.one_task("probe.files", inputs)
    assert task["status"] == TERMINAL
    assert task["reasonForIncompletion"].startswith(reason), task["reasonForIncompletion"]
    assert platform.history(repository)[0]["id"] == ref


def test_branch_that_somebody_else_moved_before_the_attempt(
    service: Service, tmp_path: Path
) -> None:
    """The body does not run, the foreign commit stays, and the reason says what to do."""
    platform = service.platform
    repository, ref = platform.repository({"data/in.txt": b"input"})
    foreign = platform.lakefs.foreign_commit(
        repository, "main", write={"data/theirs.txt": b"theirs"}, message="their work"
    )
    begun = tmp_path / "begun"
    params = {"do": "write", "signal_file": str(begun)}
    inputs = {"workspace": workspace(repository, ref), "params": params}
    task = service.one_task("probe.files", inputs)
    assert task["status"] == TERMINAL
    assert task["reasonForIncompletion"].startswith("head_moved: ")
    assert "their work" in task["reasonForIncompletion"]
    assert not begun.exists()
    assert platform.history(repository)[0]["id"] == foreign


def test_branch_that_somebody_else_moves_while_the_body_runs(
    platform: Platform, tmp_path: Path
) -> None:
    """Nothing is published over the foreign commit, and no stage is left."""
    config = platform.write_config(tmp_path)
    repository, ref = platform.repository({"data/in.txt": b"input"})
    begun = tmp_path / "begun"
    workflow_id = platform.start_task(
        "probe.files",
        {
            "workspace": workspace(repository, ref),
            "params": {"do": "wait", "signal_file": str(begun)},
        },
    )
    with started_worker(config) as worker:
        worker.wait_for(begun.exists, "begun body")
        foreign = platform.lakefs.foreign_commit(
            repository, "main", write={"theirs.txt": b"theirs"}, message="their work"
        )
        begun.unlink()
        state = platform.wait_ended(workflow_id)
        worker.signal()
        assert worker.wait_exit() == 0
    (task,) = state["tasks"]
    assert task["status"] == TERMINAL
    assert task["reasonForIncompletion"].startswith("head_moved: ")
    assert platform.history(repository)[0]["id"] == foreign
    assert platform.stages(repository) == []


def test_nothing_changed_publishes_nothing(service: Service, tmp_path: Path) -> None:
    """A body that leaves, or rewrites, what it found ends with its input ref."""
    platform = service.platform
    repository, ref = platform.repository({"data/in.txt": b"input"})
    for do in ("nothing", "rewrite"):
        inputs = {"workspace": workspace(repository, ref), "params": {"do": do}}
        task = service.one_task("probe.files", inputs)
        assert task["status"] == "COMPLETED"
        assert task["outputData"]["workspace"]["ref"] == ref
    assert platform.history(repository)[0]["id"] == ref


def test_deleted_file_is_gone_from_the_branch_and_others_stay(
    service: Service, tmp_path: Path
) -> None:
    platform = service.platform
    repository, ref = platform.repository(
        {"data/in.txt": b"input", "data/old.txt": b"old", "data2/kept.txt": b"kept"}
    )
    params = {"do": "delete", "path": "old.txt"}
    inputs = {"workspace": workspace(repository, ref), "params": params}
    task = service.one_task("probe.files", inputs)
    assert task["status"] == "COMPLETED"
    head = platform.history(repository)[0]["id"]
    path = ("repositories", repository, "refs", head, "objects", "ls")
    listing = platform.lakefs.call("GET", *path)
    assert [entry["path"] for entry in listing["results"]] == ["data/in.txt", "data2/kept.txt"]


def test_output_answers_in_the_spelling_of_the_input(service: Service, tmp_path: Path) -> None:
    platform = service.platform
    repository, ref = platform.repository({"data/in.txt": b"input"})
    place = {"repository": repository, "branch": "main", "refType": "commit", "ref": ref}
    inputs = {"workspace": place, "params": {"do": "write"}, "unknown": 1}
    task = service.one_task("probe.files", inputs)
    assert task["status"] == "COMPLETED"
    head = platform.history(repository)[0]["id"]
    assert task["outputData"]["workspace"] == {**place, "ref": head}


HOSTILE_KEYS = [
    "data/../../escape.txt",
    "data/..",
    "data/./dot",
    "data//abs",
    "data/a//b",
    "data/nul\0byte",
    "data/" + "n" * 300,
    "data/tail/../up",
]


@pytest.mark.parametrize("key", HOSTILE_KEYS)
def test_key_that_cannot_be_a_file_is_refused_by_name(
    service: Service, tmp_path: Path, key: str
) -> None:
    """The body does not run, and nothing is written outside of the attempt's directory."""
    platform = service.platform
    repository, ref = platform.repository({"data/in.txt": b"input", key: b"hostile"})
    begun = tmp_path / "begun"
    params = {"do": "write", "signal_file": str(begun)}
    inputs = {"workspace": workspace(repository, ref), "params": params}
    task = service.one_task("probe.files", inputs)
    assert task["status"] == TERMINAL
    assert task["reasonForIncompletion"].startswith("key_refused: object key ")
    assert ascii(key)[1:40] in task["reasonForIncompletion"]
    assert not begun.exists()
    service.nothing_left(repository)
    hostile = [path for path in _files(service.folder) if path.read_bytes() == b"hostile"]
    assert not hostile, "an object was written to disk under a key that cannot be a file"


def _files(folder: Path) -> Iterator[Path]:
    """All files beneath a folder in which a worker may still make and remove directories."""
    for parent, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(parent, name)).is_file())


def test_file_that_is_also_a_directory_is_refused_by_name(service: Service, tmp_path: Path) -> None:
    platform = service.platform
    repository, ref = platform.repository(
        {"data/in.txt": b"input", "data/both": b"file", "data/both/inner": b"inner"}
    )
    inputs = {"workspace": workspace(repository, ref), "params": {"do": "write"}}
    task = service.one_task("probe.files", inputs)
    assert task["status"] == TERMINAL
    assert "would be a file and a directory at once" in task["reasonForIncompletion"]


def test_directory_markers_are_harmless(service: Service, tmp_path: Path) -> None:
    """Empty `dir/` objects, as S3 tools make them, become directories and are kept."""
    platform = service.platform
    repository, ref = platform.repository({"data/": b"", "data/in.txt": b"input", "data/raw/": b""})
    params = {"do": "write", "path": "raw/out.txt"}
    inputs = {"workspace": workspace(repository, ref), "params": params}
    task = service.one_task("probe.files", inputs)
    assert task["status"] == "COMPLETED", task.get("reasonForIncompletion")
    head = platform.history(repository)[0]["id"]
    path = ("repositories", repository, "refs", head, "objects", "ls")
    keys = [entry["path"] for entry in platform.lakefs.call("GET", *path)["results"]]
    assert keys == ["data/", "data/in.txt", "data/raw/", "data/raw/out.txt"]
