"""Workers that are paused in an attempt and continued after others were given their task.

Real processes on the embedded pair, stopped by SIGSTOP. PERAGO_TEST_ZOMBIES says how many episodes
run: a number, `all`, or a pattern of names such as `body/published/3`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from perago_worker.adapters.local.queue import LocalQueue
from perago_worker.adapters.local.store import LocalStore
from perago_worker.adapters.system import SystemClock
from perago_worker.task import load_module_tasks
from tests.rig.evidence import local_tasks, of_local, sweep
from tests.rig.history import Journal
from tests.rig.oracle import judge
from tests.rig.sampling import choose, run_all, tell, time_limit, wanted
from tests.rig.scenes import FILES
from tests.rig.worker_config import write_config
from tests.rig.worker_main import Forkers, forkers
from tests.rig.zombie_tasks import RESPONSE_S
from tests.rig.zombies import Episode, Outcomes, Stage, episodes
from tests.support import Rig, put

CASES = "PERAGO_TEST_ZOMBIES"
EVERYDAY = 6
REPEAT = f"{CASES}='{{}}' python -m pytest tests/unit/rig/test_zombies.py"
THREADS = 3
MODULE = "tests.rig.zombie_tasks"


@pytest.fixture(scope="module")
def workers() -> Iterator[tuple[Forkers, Forkers]]:
    """Forkers of zombies and of their successors."""
    with forkers() as zombies, forkers() as successors:
        yield zombies, successors


def run_episode(
    episode: Episode, folder: Path, workers: tuple[Forkers, Forkers], outcomes: Outcomes
) -> list[str]:
    """Let an episode happen; return what is wrong then."""
    root = Path(tempfile.mkdtemp(dir=folder)) / "case"
    rig = Rig(root)
    try:
        put(rig.local_store, dict(FILES))
        rig.start = rig.head()
        rig.submit(load_module_tasks(MODULE)[0])
    finally:
        rig.close()
    config = write_config(
        root / "worker.toml",
        module=MODULE,
        isolation=episode.isolation,
        on_abandoned=episode.on_abandoned,
    )
    clock, store = SystemClock(), LocalStore(root / "store")
    with closing(LocalQueue(root / "queue.db", clock=clock, worker_id="judge")) as queue:

        def ended() -> bool:
            return all(t.status not in {"SCHEDULED", "IN_PROGRESS"} for t in local_tasks(queue))

        stage = Stage(episode, config, root, response_s=RESPONSE_S, workers=workers, ended=ended)
        complaints = stage.play()
        outcomes.count(episode.phase, stage.ending())
        sweep(store, queue, clock=clock)
        evidence = of_local(store, queue, root / "work", Journal(root / "journal").read())
    if evidence.tasks[-1].status != "COMPLETED":
        complaints.append(f"the task is {evidence.tasks[-1].status} in the end")
    complaints += judge(evidence)
    if not complaints:
        shutil.rmtree(root.parent)
    return complaints


@pytest.mark.long
@pytest.mark.timeout(time_limit(CASES, 120))
def test_no_zombie_breaks_a_promise(tmp_path: Path, workers: tuple[Forkers, Forkers]) -> None:
    """The zombie ends without a word and publishes nothing after its successor has."""
    everything, outcomes = episodes(), Outcomes()
    assert len(everything) == 72
    chosen = choose(everything, wanted(CASES, EVERYDAY))
    assert chosen, "no episode has such a name"
    summary = run_all(
        chosen,
        lambda episode: run_episode(episode, tmp_path, workers, outcomes),
        threads=THREADS,
        repeat=REPEAT,
    )
    tell(f"zombies: {summary}, of {len(everything)}; {outcomes}")
