"""Workers that are paused in an attempt and continued later, on the real Conductor and lakeFS.

Here Conductor notices that a lease has run out, and lakeFS gets the late merges.
PERAGO_TEST_ZOMBIES says how many episodes run: a number, `all`, or a pattern of names such as
`confirmed/published/1.1`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from deploy.servers.servers import LakeFSAccess
from perago_worker import build_taskdef
from perago_worker.adapters.system import SystemClock
from perago_worker.bootstrap.adapters import open_queue, open_store
from perago_worker.bootstrap.run import new_worker_id
from perago_worker.config import load_config
from perago_worker.task import load_module_tasks
from tests.integration.platform import ENDED, Platform, workspace
from tests.rig.evidence import branch_of, left_in, sweep, task_from
from tests.rig.history import Journal
from tests.rig.oracle import Evidence, Task, judge
from tests.rig.sampling import choose, run_all, tell, time_limit, wanted
from tests.rig.scenes import FILES
from tests.rig.tasks import CASE
from tests.rig.worker_main import Forkers, forkers
from tests.rig.zombie_tasks import RESPONSE_S
from tests.rig.zombies import Episode, Outcomes, Stage, episodes

pytestmark = pytest.mark.servers

CASES = "PERAGO_TEST_ZOMBIES"
EVERYDAY = 6
REPEAT = f"{CASES}='{{}}' python -m pytest tests/integration/test_zombies.py"
THREADS = 4
MODULE = "tests.rig.zombie_tasks"
REFERENCE = "the_task"
PAUSE = 1.1
"""In response timeouts; what is waited for is that Conductor has noticed."""


@pytest.fixture(scope="module")
def workers() -> Iterator[tuple[Forkers, Forkers]]:
    """Forkers of zombies and of their successors."""
    with forkers(for_servers=True) as zombies, forkers(for_servers=True) as successors:
        yield zombies, successors


def write_config(platform: Platform, root: Path, episode: Episode) -> Path:
    """Write the configuration of both workers."""
    extra = f'on_abandoned = "{episode.on_abandoned}"\n[workspace]\nroot = "work"\n'
    config = platform.write_config(root, extra=extra)
    worker = f'"{MODULE}"]\nisolation = "{episode.isolation}"\nbody_env = ["{CASE}"]'
    config.write_text(config.read_text().replace('"tests.tasks.probe"]', worker))
    return config


def tasks_of(state: dict[str, Any]) -> list[Task]:
    """Return a workflow's tasks as the oracle wants them, in the order they were scheduled in."""
    return [
        task_from(
            task["inputData"],
            task.get("outputData") or {},
            task_id=task["taskId"],
            lineage=f"{state['workflowId']}/{REFERENCE}/0",
            status=task["status"],
            reason=task.get("reasonForIncompletion", ""),
        )
        for task in state["tasks"]
    ]


def run_episode(
    episode: Episode,
    platform: Platform,
    root: Path,
    workers: tuple[Forkers, Forkers],
    outcomes: Outcomes,
) -> list[str]:
    """Let an episode happen; return what is wrong then."""
    path = write_config(platform, root, episode)
    files = {key: content.encode() for key, content in FILES.items()}
    repository, ref = platform.repository({**files, "data/in.txt": b"in"})
    workflow_id = platform.start_task(
        "rig.zombie", {"workspace": workspace(repository, ref), "params": {}}
    )

    def ended() -> bool:
        return bool(platform.state(workflow_id)["status"] in ENDED)

    def decide() -> None:
        """Have timeouts noticed: what sweeps workflows comes by once in two minutes."""
        platform.conductor.put(f"/workflow/decide/{workflow_id}").raise_for_status()

    stage = Stage(
        *(episode, path, root),
        response_s=RESPONSE_S,
        workers=workers,
        ended=ended,
        nudge=decide,
    )
    complaints = stage.play()
    outcomes.count(episode.phase, stage.ending())
    config, clock = load_config(path), SystemClock()
    history = Journal(root / "journal").read()
    with ExitStack() as opened:
        store = opened.enter_context(closing(open_store(config)))
        worker_id = new_worker_id(config)
        queue = opened.enter_context(closing(open_queue(config, worker_id=worker_id, clock=clock)))
        sweep(store, queue, clock=clock, repository=repository)
        state = platform.state(workflow_id)
        evidence = Evidence(
            branch=branch_of(store, repository=repository),
            tasks=tasks_of(state),
            history=history,
            left=left_in(store, root / "work", history, repository=repository),
        )
    if state["status"] != "COMPLETED":
        complaints.append(f"the workflow is {state['status']} in the end")
    return [*complaints, *judge(evidence)]


@pytest.mark.timeout(time_limit(CASES, 240))
def test_no_zombie_breaks_a_promise(
    conductor_url: str, lakefs: LakeFSAccess, tmp_path: Path, workers: tuple[Forkers, Forkers]
) -> None:
    """The zombie ends without a word and publishes nothing after its successor has."""
    everything, outcomes = episodes((PAUSE,)), Outcomes()
    assert len(everything) >= 20
    chosen = choose(everything, wanted(CASES, EVERYDAY))
    assert chosen, "no episode has such a name"

    def run(episode: Episode) -> list[str]:
        platform = Platform(conductor_url, lakefs)
        with closing(platform):
            taskdefs = [build_taskdef(each) for each in load_module_tasks(MODULE)]
            platform.conductor.post("/metadata/taskdefs", json=taskdefs).raise_for_status()
            root = Path(mkdtemp(dir=tmp_path))
            return run_episode(episode, platform, root, workers, outcomes)

    summary = run_all(chosen, run, threads=THREADS, repeat=REPEAT)
    tell(f"zombies: {summary}, of {len(everything)}; {outcomes}")
