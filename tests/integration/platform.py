"""A team's Conductor and lakeFS, as the tests of the whole worker use them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx

from deploy.servers.servers import LakeFSAccess
from perago_worker import build_taskdef
from perago_worker.task import load_module_tasks
from tests.contract.lakefs_harness import LakeFSHarness
from tests.e2e.worker import REPOSITORY_ROOT

T = TypeVar("T")

DEADLINE_S = 120.0
ENDED = {"COMPLETED", "FAILED", "TERMINATED", "TIMED_OUT"}

SERVED_PAIR = """\
[queue]
kind = "conductor"
url = "{conductor}"
domain = "{domain}"
[store]
kind = "lakefs"
endpoint = "{lakefs}"
access_key_id_file = "id"
secret_access_key_file = "key"
"""

CONFIG = """
[worker]
modules = ["{modules}"]
python_path = ["{root}"]
drain_timeout = "60s"
kill_grace = "1s"
{pair}[http]
listen = "127.0.0.1:0"
[logging]
format = "json"
level = "debug"
[publish]
heartbeat_interval = "{heartbeat}"
"""


class Platform:
    """Workflows, repositories and workers' configurations; the operator's side of everything.

    Every platform has a task domain of its own, so that workers of other tests take none of its
    tasks.
    """

    def __init__(self, conductor_url: str, lakefs: LakeFSAccess) -> None:
        self.domain = f"d{uuid.uuid4().hex[:12]}"
        self.conductor_url = conductor_url
        self.lakefs_access = lakefs
        self.lakefs = LakeFSHarness(lakefs)
        self.conductor = httpx.Client(base_url=conductor_url, timeout=30)
        self._register_tasks()

    def _register_tasks(self) -> None:
        taskdefs = [build_taskdef(d) for d in load_module_tasks("tests.tasks.probe")]
        self.conductor.post("/metadata/taskdefs", json=taskdefs).raise_for_status()

    def close(self) -> None:
        self.lakefs.close()
        self.conductor.close()

    def write_config(
        self,
        folder: Path,
        *,
        heartbeat: str = "1s",
        extra: str = "",
        modules: str = "tests.tasks.probe",
        root: Path = REPOSITORY_ROOT,
    ) -> Path:
        """Write a worker's configuration.

        Args:
            modules: The module with tasks.
            root: Where to import it from.
        """
        config = folder / "worker.toml"
        config.write_text(
            CONFIG.format(
                modules=modules,
                root=root,
                pair=self.pair_for(folder),
                heartbeat=heartbeat,
            )
            + extra
        )
        return config

    def pair_for(self, folder: Path, *, conductor: str = "", lakefs: str = "") -> str:
        """Put the keys into a folder; return the part of a configuration there about the servers.

        Args:
            conductor: Where a worker finds the servers, if not where they are.
            lakefs: Likewise.
        """
        access = self.lakefs_access
        for name, secret in (("id", access.access_key_id), ("key", access.secret_access_key)):
            (folder / name).write_text(secret)
            (folder / name).chmod(0o600)
        return SERVED_PAIR.format(
            conductor=conductor or self.conductor_url,
            domain=self.domain,
            lakefs=lakefs or access.endpoint,
        )

    def repository(self, files: Mapping[str, bytes]) -> tuple[str, str]:
        """Create a repository with these files on `main`; return its name and the commit's id."""
        name = self.lakefs.repository()
        for key, content in files.items():
            self.lakefs.upload(name, "main", key, content)
        return name, self.lakefs.commit(name, "main", message="input")

    def workflow(self, tasks: Sequence[Mapping[str, Any]]) -> str:
        """Register a workflow that runs these tasks one after the other; return its name."""
        name = f"wf-{uuid.uuid4().hex[:12]}"
        definition = {
            "name": name,
            "version": 1,
            "schemaVersion": 2,
            "ownerEmail": "tests@example.com",
            "tasks": [{"type": "SIMPLE", **task} for task in tasks],
            "outputParameters": {},
            "timeoutSeconds": 0,
        }
        self.conductor.put("/metadata/workflow", json=[definition]).raise_for_status()
        return name

    def start(self, workflow: str, inputs: Mapping[str, Any]) -> str:
        """Start a workflow; return its id."""
        request = {
            "name": workflow,
            "version": 1,
            "input": inputs,
            "taskToDomain": {"*": self.domain},
        }
        return self.conductor.post("/workflow", json=request).raise_for_status().text

    def start_task(self, task: str, inputs: Mapping[str, Any]) -> str:
        """Start a workflow of one task with this input; return its id."""
        parameters = {key: f"${{workflow.input.{key}}}" for key in inputs}
        workflow = self.workflow(
            [{"name": task, "taskReferenceName": "the_task", "inputParameters": parameters}]
        )
        return self.start(workflow, inputs)

    def state(self, workflow_id: str) -> dict[str, Any]:
        """Return a workflow with its tasks."""
        answer = self.conductor.get(f"/workflow/{workflow_id}", params={"includeTasks": True})
        state: dict[str, Any] = answer.raise_for_status().json()
        return state

    def wait_ended(self, workflow_id: str) -> dict[str, Any]:
        """Wait for the end of a workflow and return it with its tasks."""

        def ended() -> dict[str, Any] | None:
            state = self.state(workflow_id)
            return state if state["status"] in ENDED else None

        return wait_for(ended, f"end of workflow {workflow_id}")

    def task_log(self, task_id: str) -> list[str]:
        """Return the lines of a task's log."""
        entries = self.conductor.get(f"/tasks/{task_id}/log").raise_for_status().json()
        return [line for entry in entries for line in entry["log"].splitlines()]

    def history(self, repository: str, branch: str = "main") -> list[dict[str, Any]]:
        """Return the first-parent commits of a branch, newest first."""
        path = ("repositories", repository, "refs", branch, "commits")
        answer = self.lakefs.call("GET", *path, query={"first_parent": "true", "amount": "100"})
        commits: list[dict[str, Any]] = answer["results"]
        return commits

    def publications(self, repository: str) -> list[dict[str, Any]]:
        """Return the commits of `main` that a worker published, newest first."""
        return [c for c in self.history(repository) if "perago-publication" in c["metadata"]]

    def content(self, repository: str, ref: str, key: str) -> bytes | str:
        """Return an object's content as text."""
        path = ("repositories", repository, "refs", ref, "objects")
        status, answer = self.lakefs.answer("GET", *path, query={"path": key})
        assert status == 200, (status, answer)
        return str(answer)

    def stages(self, repository: str) -> list[str]:
        """Return the hidden branches that attempts stage on."""
        path = ("repositories", repository, "branches")
        answer = self.lakefs.call("GET", *path, query={"show_hidden": "true"})
        return [b["id"] for b in answer["results"] if b["id"].startswith("perago-")]


def workspace(repository: str, ref: str) -> dict[str, str]:
    """Return a task's `workspace` input."""
    return {"repository": repository, "branch": "main", "ref_type": "commit", "ref": ref}


def wait_for(probe: Callable[[], T | None], what: str, *, timeout_s: float = DEADLINE_S) -> T:
    """Ask until `probe` answers with something true."""
    give_up_at = time.monotonic() + timeout_s
    while not (found := probe()):
        assert time.monotonic() < give_up_at, f"waited {timeout_s:.0f} s in vain for {what}"
        time.sleep(0.05)
    return found
