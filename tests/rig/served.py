"""Cases over the real servers: a workflow and a repository each, and workers in processes.

What a scene needs to have happened is brought about by a worker that dies after its merge. The
server notices a lease that has run out when it looks at the workflow, which an operator can ask it
to do.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perago_worker import build_taskdef
from perago_worker.adapters.conductor.client import ConductorSettings
from perago_worker.adapters.conductor.queue import ConductorQueue
from perago_worker.adapters.lakefs.fence import ACTION, ACTION_PATH
from perago_worker.attempt.directories import CACHE_NAME, AttemptDirectories
from perago_worker.task import load_module_tasks
from tests.integration.platform import ENDED, Platform, wait_for, workspace
from tests.rig.cached import entry_of
from tests.rig.clocks import LaterClock
from tests.rig.evidence import branch_of, left_in, sweep, task_from
from tests.rig.history import Journal
from tests.rig.oracle import Evidence, Task, judge
from tests.rig.tasks import PREFIX, Deed
from tests.rig.worker_config import write_config
from tests.rig.worker_main import Forkers, WorkerOrder

MODULE = "tests.rig.short_tasks"
DEFINITION = load_module_tasks(MODULE)[0]
FILES = {
    f"{PREFIX}/in.txt": b"input",
    f"{PREFIX}/old.txt": b"old",
    f"{PREFIX}/same.txt": b"same",
    "other/kept.txt": b"kept",
}
CACHED = f"{PREFIX}/old.txt"
"""The object that is in the cache where something has happened before."""

AFTER_MERGE = "call.store.publish.1.after"


@dataclass(frozen=True)
class ServedScene:
    """What has happened before a case on the servers.

    Attributes:
        abandoned: Whether an attempt has published and died.
        adopt: Whether that is taken over.
        fenced: Whether the repository holds the fence.
    """

    name: str
    first: Deed = "write"
    later: Deed = "write"
    abandoned: bool = False
    adopt: bool = False
    fenced: bool = False


SERVED_SCENES = {
    scene.name: scene
    for scene in (
        ServedScene("first"),
        ServedScene("deletion", first="delete", later="delete"),
        ServedScene("replace", abandoned=True),
        ServedScene("adopt", abandoned=True, adopt=True),
        ServedScene("no_op", later="nothing", abandoned=True),
        ServedScene("fenced", fenced=True),
        ServedScene("fenced_replace", abandoned=True, fenced=True),
    )
}


class ServedCase:
    """One case: its folder, its workflow, its repository and its workers."""

    def __init__(
        self, scene: ServedScene, root: Path, platform: Platform, workers: Forkers
    ) -> None:
        """Start the workflow, and let happen what the scene says."""
        self.scene = scene
        self.root = root
        self.platform = platform
        self.journal = Journal(root / "journal")
        self._workers = workers
        root.mkdir(parents=True)
        taskdef = build_taskdef(DEFINITION)
        platform.conductor.post("/metadata/taskdefs", json=[taskdef]).raise_for_status()
        fence = {ACTION_PATH: ACTION.encode()} if scene.fenced else {}
        self.repository, ref = platform.repository({**FILES, **fence})
        self.workflow = platform.start_task(
            DEFINITION.name,
            {
                "workspace": workspace(self.repository, ref),
                "params": {"first": scene.first, "later": scene.later},
            },
        )
        if scene.abandoned:
            self.run(kill=AFTER_MERGE)
            self._cache_one()
            self.await_retry()

    def _cache_one(self) -> None:
        """Leave one object of the input in the cache, whatever who died has added to it."""
        work, content = self.root / "work", FILES[CACHED]
        shutil.rmtree(work / CACHE_NAME, ignore_errors=True)
        entry = entry_of(content, work=work, store=self.platform.lakefs.store)
        entry.parent.mkdir(parents=True)
        entry.write_bytes(content)

    def configure(self, name: str, *, conductor: str = "", lakefs: str = "", child: bool) -> Path:
        """Write a worker's configuration.

        Args:
            conductor: Where it finds the servers, if not where they are.
            lakefs: Likewise.
            child: Whether bodies run in a child process.
        """
        return write_config(
            self.root / f"{name}.toml",
            module=MODULE,
            isolation="process" if child else "thread",
            on_abandoned="adopt" if self.scene.adopt else "replace",
            pair=self.platform.pair_for(self.root, conductor=conductor, lakefs=lakefs),
        )

    def run(self, name: str = "worker", *, kill: str = "", calls: bool = False, **way: Any) -> int:
        """Run a worker until it is killed or has nothing left to do; return its exit code."""
        config = self.configure(name, **{"child": False, **way})
        order = WorkerOrder(config=str(config), case=str(self.root), kill=kill, calls=calls)
        return self._workers.get().run(order)

    def await_retry(self) -> None:
        """Wait until the task waits in the queue, or the workflow has ended."""

        def over() -> bool:
            path = f"/workflow/decide/{self.workflow}"
            self.platform.conductor.put(path).raise_for_status()
            state = self.platform.state(self.workflow)
            waits = any(task["status"] == "SCHEDULED" for task in state["tasks"])
            return waits or state["status"] in ENDED

        wait_for(over, "retry of the task")

    def finish(self, *, ahead_s: float = 0.0) -> list[str]:
        """Let clean workers do what is left; return what is wrong then.

        Args:
            ahead_s: How much later it is tidied up.
        """
        for _ in range(4):
            self.await_retry()
            state = self.platform.state(self.workflow)
            if state["status"] in ENDED:
                break
            code = self.run("clean")
            if code != 0:
                return [f"a clean worker ended with {code}"]
        status = self.platform.state(self.workflow)["status"]
        wrong = [] if status == "COMPLETED" else [f"the workflow is {status} in the end"]
        return [*wrong, *judge(self.evidence(ahead_s=ahead_s))]

    def evidence(self, *, ahead_s: float) -> Evidence:
        """Tidy up, and return what there is to judge by."""
        store = self.platform.lakefs.store
        clock = LaterClock(ahead_s)
        settings = ConductorSettings(url=self.platform.conductor_url)
        with closing(ConductorQueue.open(settings, clock=clock, worker_id="judge")) as queue:
            sweep(store, queue, clock=clock, repository=self.repository)
        work = self.root / "work"
        AttemptDirectories(work, owner="judge").remove_dead()
        history = self.journal.read()
        return Evidence(
            branch=branch_of(store, repository=self.repository),
            tasks=self._tasks(),
            history=history,
            left=[
                each
                for each in left_in(store, work, history, repository=self.repository)
                if not self._was_told_of(each)
            ],
        )

    def _was_told_of(self, left: str) -> bool:
        """Whether it is the branch of a fence's self-test, which the log says is still there."""
        name = left.removeprefix("stage ")
        lines = (self.root / "log").read_text().splitlines()
        return any(name in line and "fence.probe_left" in line for line in lines)

    def _tasks(self) -> Sequence[Task]:
        return [
            task_from(
                task["inputData"],
                task["outputData"],
                task_id=task["taskId"],
                lineage=f"{self.workflow}/{task['referenceTaskName']}/{task['iteration']}",
                status=task["status"],
                reason=task.get("reasonForIncompletion") or "",
            )
            for task in self.platform.state(self.workflow)["tasks"]
        ]

    def log(self) -> list[str]:
        """Return the end of the workers' log."""
        log = self.root / "log"
        return [line[:400] for line in log.read_text().splitlines()[-4:]] if log.exists() else []
