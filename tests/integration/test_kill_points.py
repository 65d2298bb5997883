"""SIGKILL for a worker and its bodies at every place of an attempt, on the real servers.

PERAGO_TEST_SERVED_KILL_CASES says how many cases run: a number, `all`, or a pattern of names.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.servers.servers import LakeFSAccess
from tests.integration.platform import Platform
from tests.rig.history import Killed
from tests.rig.kill_points import KillPoint, points_of
from tests.rig.sampling import choose, run_all, tell, time_limit, wanted
from tests.rig.served import SERVED_SCENES, ServedCase, ServedScene
from tests.rig.worker_main import Forkers, forkers

pytestmark = pytest.mark.servers

CASES = "PERAGO_TEST_SERVED_KILL_CASES"
EVERYDAY = 12
REPEAT = f"{CASES}='{{}}' python -m pytest tests/integration/test_kill_points.py"
THREADS = 4
SCENES = ("first", "deletion", "replace", "adopt", "no_op", "fenced")


@dataclass(frozen=True)
class Case:
    """One death in one scene."""

    scene: ServedScene
    point: KillPoint

    def __str__(self) -> str:
        return f"{self.scene.name}/{self.point}"


@pytest.fixture
def workers() -> Iterator[Forkers]:
    with forkers(for_servers=True) as opened:
        yield opened


@pytest.mark.timeout(time_limit(CASES, 240))
def test_no_death_breaks_a_promise(
    conductor_url: str, lakefs: LakeFSAccess, tmp_path: Path, workers: Forkers
) -> None:
    """A clean worker completes the task; nothing is published twice, lost, or left behind."""

    def watch(scene: ServedScene) -> list[KillPoint]:
        with closing(Platform(conductor_url, lakefs)) as platform:
            case = ServedCase(scene, tmp_path / f"watched-{scene.name}", platform, workers)
            before = len(case.journal.read())
            assert case.run(calls=True) == 0, case.log()
            return points_of(case.journal.read()[before:])

    def run(case: Case) -> list[str]:
        with closing(Platform(conductor_url, lakefs)) as platform:
            root = tmp_path / str(case).replace("/", "-")
            served = ServedCase(case.scene, root, platform, workers)
            return run_case(case, served)

    matrix: dict[str, Case] = {}
    for name in SCENES:
        for point in watch(SERVED_SCENES[name]):
            matrix.setdefault(point.where, Case(SERVED_SCENES[name], point))
    cases = choose(list(matrix.values()), wanted(CASES, EVERYDAY))
    assert cases, "no case has such a name"
    summary = run_all(cases, run, threads=THREADS, repeat=REPEAT)
    tell(f"kill points on the servers: {summary}, of {len(matrix)}")


def run_case(case: Case, served: ServedCase) -> list[str]:
    """Kill a worker or its body, let clean ones finish, and return what is wrong then."""
    point = case.point
    if point.in_body:
        (served.root / "die").write_text(point.in_body)
    before = len(served.journal.read())
    code = served.run(kill="" if point.in_body else point.where, child=bool(point.in_body))
    complaints = []
    if code != (0 if point.where.endswith(".child") else -signal.SIGKILL):
        complaints.append(f"the first worker ended with {code}")
    killed = [e.where for e in served.journal.read()[before:] if isinstance(e, Killed)]
    if killed != [point.where]:
        complaints.append(f"killed at {killed}")
    complaints += served.finish()
    return [*complaints, *served.log()] if complaints else []
