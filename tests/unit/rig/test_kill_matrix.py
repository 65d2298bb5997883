"""SIGKILL for a worker and its bodies at every place of an attempt, on the embedded pair.

Each case is a real process that dies and another that comes after it; that one's clock is two hours
ahead, so that leases have run out. PERAGO_TEST_KILL_CASES says how many cases run: a number, `all`,
or a pattern of names.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perago_worker.adapters.local.queue import LocalQueue
from perago_worker.adapters.local.store import LocalStore
from tests.rig.clocks import LaterClock
from tests.rig.evidence import of_local, sweep
from tests.rig.history import Journal, Killed
from tests.rig.kill_points import KillPoint, points_of
from tests.rig.oracle import judge
from tests.rig.sampling import choose, run_all, tell, time_limit, wanted
from tests.rig.scenes import LEASE_OVER_S, MODULE, SCENES, Scene
from tests.rig.worker_config import write_config
from tests.rig.worker_main import Forkers, WorkerOrder, forkers

CASES = "PERAGO_TEST_KILL_CASES"
EVERYDAY = 30
REPEAT = f"{CASES}='{{}}' python -m pytest tests/unit/rig/test_kill_matrix.py"
THREADS = 2

LATER_S = 7200.0
"""How much later the clean worker lives: the janitor leaves alone what is younger than an hour."""


@dataclass(frozen=True)
class Case:
    """One death in one scene."""

    scene: Scene
    point: KillPoint

    def __str__(self) -> str:
        return f"{self.scene.name}/{self.point}"


class Bed:
    """Where a case takes place: its folder and the processes in it."""

    def __init__(
        self, scene: Scene, root: Path, *, templates: Path, point: KillPoint | None = None
    ) -> None:
        self.root = root
        self.journal = Journal(root / "journal")
        shutil.copytree(scene.template(templates), root)
        self.config = write_config(
            root / "worker.toml",
            module=MODULE,
            isolation="process" if point and point.in_body else "thread",
            on_abandoned="adopt" if scene.adopt else "replace",
        )
        if point and point.in_body:
            (root / "die").write_text(point.in_body)

    def order(self, **fields: Any) -> WorkerOrder:
        return WorkerOrder(config=str(self.config), case=str(self.root), **fields)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder in memory, where the machine has such a place: nothing here is to survive."""
    shared = Path("/dev/shm")  # noqa: S108 -- the place is shared, the folder in it is not
    folder = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def workers() -> Iterator[Forkers]:
    with forkers() as opened:
        yield opened


def watch(scene: Scene, folder: Path, workers: Forkers) -> list[KillPoint]:
    """Return the places in this scene, by watching a worker that is not killed."""
    bed = Bed(scene, folder / f"watched-{scene.name}", templates=folder)
    before = len(bed.journal.read())
    code = workers.get().run(bed.order(calls=True, ahead_s=LEASE_OVER_S))
    assert code == 0, (bed.root / "log").read_text()
    return points_of(bed.journal.read()[before:])


def run_case(case: Case, folder: Path, workers: Forkers) -> list[str]:
    """Kill a worker or its body, let another one finish, and return what is wrong then."""
    root = Path(tempfile.mkdtemp(dir=folder)) / "case"
    bed = Bed(case.scene, root, templates=folder, point=case.point)
    kill = "" if case.point.in_body else case.point.where
    code = workers.get().run(bed.order(kill=kill, ahead_s=LEASE_OVER_S))
    survives = case.point.where.endswith(".child")
    complaints = []
    if code != (0 if survives else -signal.SIGKILL):
        complaints.append(f"the first worker ended with {code}")
    killed = [e.where for e in bed.journal.read() if isinstance(e, Killed)]
    if killed != [case.point.where]:
        complaints.append(f"killed at {killed}")
    code = workers.get().run(bed.order(ahead_s=LATER_S))
    if code != 0:
        complaints.append(f"the clean worker ended with {code}")
    complaints += judged(bed)
    if not complaints:
        shutil.rmtree(bed.root.parent)
    return complaints


def judged(bed: Bed) -> list[str]:
    clock = LaterClock(LATER_S)
    history = bed.journal.read()
    store = LocalStore(bed.root / "store")
    with closing(LocalQueue(bed.root / "queue.db", clock=clock, worker_id="judge")) as queue:
        sweep(store, queue, clock=clock)
        evidence = of_local(store, queue, bed.root / "work", history)
    status = evidence.tasks[-1].status
    last = [] if status == "COMPLETED" else [f"the task is {status} in the end"]
    return [*last, *judge(evidence)]


@pytest.mark.long
@pytest.mark.timeout(time_limit(CASES, 120))
def test_no_death_breaks_a_promise(folder: Path, workers: Forkers) -> None:
    """A clean worker completes the task; nothing is published twice, lost, or left behind."""
    matrix = [
        Case(scene, point) for scene in SCENES.values() for point in watch(scene, folder, workers)
    ]
    assert len(matrix) >= 250
    cases = choose(matrix, wanted(CASES, EVERYDAY))
    assert cases, "no case has such a name"
    summary = run_all(
        cases, lambda case: run_case(case, folder, workers), threads=THREADS, repeat=REPEAT
    )
    tell(f"kill matrix: {summary}, of {len(matrix)}")
