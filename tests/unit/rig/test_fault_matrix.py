"""Every kind of fault at every call that an attempt makes, on the embedded pair.

Waits cost nothing here: the clock leaps over them, and tells how long an attempt would have taken.
PERAGO_TEST_FAULT_CASES says how many cases run: a number, `all`, or a pattern of names.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perago_worker.attempt.context import STORE_TRIES
from perago_worker.attempt.lease_keeper import REPORT_PATIENCE_S
from perago_worker.events import StepFinished, WorkspaceBrought
from tests.rig.evidence import of_local, sweep
from tests.rig.faults import KINDS, SLOW_S, Course, Fault, Point, Tampering, faults_of
from tests.rig.history import Called
from tests.rig.oracle import judge
from tests.rig.sampling import choose, run_all, tell, time_limit, wanted
from tests.rig.scenes import BRINGING, SCENES, Bench, Scene
from tests.rig.taps import Call, Tap

CASES = "PERAGO_TEST_FAULT_CASES"
EVERYDAY = 150
REPEAT = f"{CASES}='{{}}' python -m pytest tests/unit/rig/test_fault_matrix.py"

GIVES_UP_S = 60.0
"""Longest that a call is tried for while it is not answered, in steps other than the last two."""

PUBLISHING = {"store.history", "store.replacement", "store.publish"}
PUBLISH_TRIES = 40
"""Within the publish budget of a minute, tries are up to five seconds apart."""

LEAPS = {"frozen", "outrun", "outrun_after"}
"""Faults that take time of themselves."""

DOWNLOAD = {"store.list", "store.changes", "store.read"}


@dataclass(frozen=True)
class Case:
    """One fault in one scene, with the course of the same attempt without it."""

    scene: Scene
    fault: Fault
    course: Course

    def __str__(self) -> str:
        return f"{self.scene.name}/{self.fault}"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder in memory, where the machine has such a place: nothing here is to survive."""
    shared = Path("/dev/shm")  # noqa: S108 -- the place is shared, the folder in it is not
    folder = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
    yield folder
    shutil.rmtree(folder)


def course_of(scene: Scene, folder: Path) -> Course:
    """Return the course of an attempt in this scene."""
    with closing(scene.open(folder / "clean")) as bench:
        keeps, lease = bench.keeps(), next_lease(bench)
        assert bench.carry_out(lease, calls=True) == "completed"
        called = [entry for entry in bench.journal.read() if isinstance(entry, Called)]
        brought = [e.source for e in bench.recorder.of(WorkspaceBrought) if e.lease == lease]
    shutil.rmtree(folder / "clean")
    calls = tuple(Point(entry.name, entry.nth) for entry in called)
    return Course(calls, keeps=keeps, warm="warm" in brought)


def next_lease(bench: Bench) -> Any:
    lease = bench.poll_one("worker")
    assert lease is not None
    return lease


def run_case(case: Case, root: Path) -> list[str]:
    """Let one attempt meet its fault and a clean worker finish; return what is wrong."""
    with closing(case.scene.open(root)) as bench:
        tampering = Tampering(case.fault, bench)
        lease = next_lease(bench)
        ended = bench.carry_out(lease, tampering)
        steps = [e for e in bench.recorder.of(StepFinished) if e.lease == lease]
        release = KINDS[case.fault.kind].release
        if release == "after":
            tampering.release()
        bench.finish(amid(tampering))
        if tampering.held:
            tampering.release()
            bench.finish()
        sweep(bench.local_store, bench.local_queue, clock=bench.clock)
        history = bench.journal.read()
        evidence = of_local(bench.local_store, bench.local_queue, bench.root / "work", history)
    status = evidence.tasks[-1].status
    return [
        *([] if tampering.hit else ["the fault did not happen"]),
        *wrong_ending(case, ended, status),
        *too_long(case, steps, bench),
        *too_often(case, tampering),
        *judge(evidence),
    ]


def amid(tampering: Tampering) -> Tap:
    """Return a tap that lets held calls go when the next attempt is about to publish."""

    def tap(call: Call) -> Any:
        if call.name == "store.publish" and KINDS[tampering.fault.kind].release == "amid":
            tampering.release()
        return call.perform()

    return tap


def wrong_ending(case: Case, ended: str, status: str) -> Iterator[str]:
    allowed = KINDS[case.fault.kind].ends(case.fault, case.course)
    if ended not in allowed:
        yield f"the attempt is {ended}, not {' or '.join(sorted(allowed))}"
    if status not in _final_statuses(case.fault, ended):
        yield f"the task is {status} in the end"


def _final_statuses(fault: Fault, ended: str) -> set[str]:
    if fault.kind == "cancelled":
        return {"COMPLETED", "CANCELED"}
    if ended != "terminal" or fault.kind not in {"refused", "not_found", "foreign"}:
        return {"COMPLETED"}
    if fault.at.name == "queue.complete" and fault.times != "once":
        return {"COMPLETED"}  # what cannot be reported at all is left to a retry
    return {"FAILED_WITH_TERMINAL_ERROR"}


def too_long(case: Case, steps: list[StepFinished], bench: Bench) -> Iterator[str]:
    if case.fault.kind in LEAPS:
        return
    slow_s = SLOW_S * 2 if case.fault.kind.startswith("slow") else 0.0
    for event in steps:
        # The clock adds up what passes at the same time in several threads.
        limit_s = GIVES_UP_S * sum(call.name == case.fault.at.name for call in case.course.calls)
        if event.step == "publish":
            limit_s = bench.budget.merge_s + 10 + slow_s
        elif event.step == "report":
            limit_s = REPORT_PATIENCE_S + 60 + slow_s
        elif slow_s:
            continue
        if event.seconds > limit_s:
            yield f"step {event.step} took {event.seconds:.0f} s of {limit_s:.0f}"


def too_often(case: Case, tampering: Tampering) -> Iterator[str]:
    readings = 2 if case.fault.kind in {"damaged", "short"} else 1
    tries = Counter(_target(call) for call in tampering.made if not call.name.startswith("queue"))
    for (name, what), count in tries.items():
        if count > (PUBLISH_TRIES if name in PUBLISHING else STORE_TRIES * readings):
            yield f"{name} {what} was called {count} times"


def _target(call: Call) -> tuple[str, str]:
    match call.name:
        case "store.read" | "store.changes":
            return call.name, str(call.args[2])
        case "stage.write":
            return call.name, str(call.args[0])
        case "store.drop_stage":
            return call.name, str(call.args[1])
    return call.name, ""


@pytest.mark.long
@pytest.mark.timeout(time_limit(CASES, 120))
def test_no_fault_breaks_a_promise(folder: Path) -> None:
    """The attempt ends as it should, in time, and a clean worker finishes: all is well then."""
    matrix = [
        Case(scene, fault, course)
        for scene in (*SCENES.values(), *BRINGING.values())
        for course in [course_of(scene, folder)]
        for fault in faults_of(course.calls)
        if scene.name in SCENES or fault.at.name in DOWNLOAD
    ]
    assert len(matrix) >= 800
    cases = choose(matrix, wanted(CASES, EVERYDAY))
    assert cases, "no case has such a name"

    def run(case: Case) -> list[str]:
        root = folder / "case"
        try:
            return run_case(case, root)
        finally:
            shutil.rmtree(root)

    summary = run_all(cases, run, threads=1, repeat=REPEAT)
    tell(f"fault matrix: {summary}, of {len(matrix)}")
