"""What is swept of what killed workers leave, and, before that, what is not."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from perago_worker.attempt.directories import (
    LOCK_NAME,
    AttemptDirectories,
    remove_if_dead,
    worker_directories,
)
from perago_worker.attempt.stage_name import StageName
from perago_worker.errors import QueueUnavailable, StoreUnavailable
from perago_worker.events import AttemptStarted, Fanout, PollFinished, Swept
from perago_worker.models import Lease, Outcome
from perago_worker.models.probe_name import ProbeName
from perago_worker.ports import TaskEnd
from perago_worker.runtime.janitor import (
    GONE_AGE_S,
    INTERVAL_S,
    MIN_AGE_S,
    Janitor,
    SeenRepositories,
    StageSurvey,
    reason_to_keep,
    reason_to_keep_probe,
)
from perago_worker.task import TaskDefinition, load_module_tasks
from perago_worker.telemetry.metrics import Metrics
from tests.clocks import ManualClock
from tests.leases import make_lease
from tests.support import REPOSITORY, Faulty, Rig, eventually, raising, rig

NOW = 1_700_000_000.0
DAY_S = 86_400.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(time=NOW)


@pytest.fixture
def bench(tmp_path: Path, clock: ManualClock) -> Iterator[Rig]:
    with rig(tmp_path / "rig", clock=clock) as opened:
        yield opened


@pytest.fixture(scope="module")
def definition() -> TaskDefinition:
    (found,) = [d for d in load_module_tasks("tests.tasks.probe") if d.name == "probe.files"]
    return found


def leased(bench: Rig, definition: TaskDefinition) -> Lease:
    """Return a task that an attempt works on."""
    bench.submit(definition)
    return bench.poll(definition)


def stage_of(bench: Rig, lease: Lease, *, age_s: float = MIN_AGE_S) -> str:
    """Open a stage as the attempt would have, so long ago, and leave it."""
    created_at = bench.clock.time() - age_s
    name = str(StageName.new(lease, bench.start.id, created_at=created_at))
    bench.local_store.stage(REPOSITORY, bench.start.id, name)
    return name


def end(bench: Rig, lease: Lease, kind: Any = "completed") -> None:
    bench.local_queue.complete(lease, Outcome(kind=kind, code="code"))


# --- the decision ---------------------------------------------------------------------------------


def stage_name(*, age_s: float, task_id: str = "task") -> StageName:
    return StageName("0" * 20, 0, int(NOW - age_s), task_id, "0" * 8)


class TestReasonToKeep:
    @pytest.mark.parametrize("ended", ["completed", "failed"])
    def test_none_when_the_task_has_ended_and_the_stage_is_old(self, ended: TaskEnd) -> None:
        name = stage_name(age_s=MIN_AGE_S)
        assert reason_to_keep(name, now=NOW, min_age_s=MIN_AGE_S, end=ended) is None

    @pytest.mark.parametrize("ended", ["completed", "failed", "gone"])
    @pytest.mark.parametrize("age_s", [MIN_AGE_S - 1, 0, -DAY_S])
    def test_youth_whatever_the_task(self, ended: TaskEnd, age_s: float) -> None:
        """A stage from the future was made by a worker whose clock is ahead."""
        reason = reason_to_keep(stage_name(age_s=age_s), now=NOW, min_age_s=MIN_AGE_S, end=ended)
        assert reason == "it is younger than 3600 s"

    def test_a_task_that_runs_however_old_the_stage(self) -> None:
        name = stage_name(age_s=1000 * DAY_S)
        assert reason_to_keep(name, now=NOW, min_age_s=0, end="running") is not None

    def test_an_unknown_task_for_a_day_whatever_was_asked_for(self) -> None:
        for age_s, kept in ((0, True), (GONE_AGE_S - 1, True), (GONE_AGE_S, False)):
            name = stage_name(age_s=age_s)
            reason = reason_to_keep(name, now=NOW, min_age_s=0, end="gone")
            assert (reason is not None) == kept

    def test_a_name_that_tells_no_task(self) -> None:
        assert reason_to_keep(None, now=NOW, min_age_s=0, end=None) is not None
        unreadable = stage_name(age_s=1000 * DAY_S, task_id="hashed_0")
        assert reason_to_keep(unreadable, now=NOW, min_age_s=0, end=None) is not None


class TestReasonToKeepProbe:
    @pytest.mark.parametrize(
        ("age_s", "min_age_s", "kept_for_s"),
        [
            (MIN_AGE_S, MIN_AGE_S, None),
            (MIN_AGE_S - 1, MIN_AGE_S, 3600),
            (-DAY_S, MIN_AGE_S, 3600),
            (MIN_AGE_S - 1, 0, 3600),
            (MIN_AGE_S, 0, None),
            (MIN_AGE_S, DAY_S, 86400),
            (DAY_S, DAY_S, None),
        ],
    )
    def test_is_its_youth_and_nothing_else(
        self, age_s: float, min_age_s: float, kept_for_s: int | None
    ) -> None:
        """For an hour at least: one that is in use must not go, whatever was asked for."""
        probe = ProbeName.new(created_at=NOW - age_s)
        reason = reason_to_keep_probe(probe, now=NOW, min_age_s=min_age_s)
        assert reason == (kept_for_s and f"it is younger than {kept_for_s} s")


# --- the survey -----------------------------------------------------------------------------------


class TestStageSurvey:
    def survey(self, bench: Rig) -> StageSurvey:
        return StageSurvey(
            queue=bench.queue.as_queue(), store=bench.store.as_store(), clock=bench.clock
        )

    def test_tells_of_every_stage_what_is_known(
        self, bench: Rig, definition: TaskDefinition
    ) -> None:
        done = leased(bench, definition)
        old = stage_of(bench, done)
        end(bench, done)
        young = stage_of(bench, leased(bench, definition), age_s=10)
        bench.local_store.stage(REPOSITORY, bench.start.id, "perago-by-hand")

        found = {stage.name: stage for stage in self.survey(bench).of(REPOSITORY)}

        assert set(found) == {old, young, "perago-by-hand"}
        assert (found[old].task_id, found[old].age_s) == (done.task_id, MIN_AGE_S)
        assert (found[old].end, found[old].keep) == ("completed", None)
        assert found[young].end == "running"
        assert found["perago-by-hand"].end is found["perago-by-hand"].task_id is None
        assert found["perago-by-hand"].keep == "its name does not tell its task"

    def test_probes_of_fences_are_told_by_their_age(self, bench: Rig) -> None:
        now = bench.clock.time()
        old, young = (str(ProbeName.new(created_at=now - age_s)) for age_s in (MIN_AGE_S, 10))
        for name in (old, young):
            bench.local_store.stage(REPOSITORY, bench.start.id, name)

        found = {stage.name: stage for stage in self.survey(bench).of(REPOSITORY)}

        assert {name: (stage.age_s, stage.keep) for name, stage in found.items()} == {
            old: (MIN_AGE_S, None),
            young: (10, "it is younger than 3600 s"),
        }
        assert {(stage.task_id, stage.end) for stage in found.values()} == {(None, None)}
        assert not bench.queue.calls("ended")

    def test_learns_nothing_when_the_queue_does_not_answer(
        self, bench: Rig, definition: TaskDefinition
    ) -> None:
        stage_of(bench, leased(bench, definition))
        bench.queue.before("ended", raising(QueueUnavailable("away")))

        with pytest.raises(QueueUnavailable):
            list(self.survey(bench).of(REPOSITORY))


# --- what was seen --------------------------------------------------------------------------------


def started(repository: object) -> AttemptStarted:
    workspace = {"repository": repository}
    return AttemptStarted(make_lease(input={"workspace": workspace}))


class TestSeenRepositories:
    def test_remembers_the_latest_of_them(self) -> None:
        seen = SeenRepositories(limit=2)
        for name in ("a", "b", "a", "c"):
            seen.on_event(started(name))
        assert seen.names() == ["a", "c"]
        seen.forget("a")
        seen.forget("never seen")
        assert seen.names() == ["c"]

    @pytest.mark.parametrize("workspace", [None, "text", [], {}, {"repository": 7}])
    def test_strange_inputs_hold_none(self, workspace: object) -> None:
        seen = SeenRepositories()
        seen.on_event(AttemptStarted(make_lease(input={"workspace": workspace})))
        seen.on_event(AttemptStarted(make_lease(input={})))
        seen.on_event(PollFinished("t", "empty"))
        assert seen.names() == []


# --- the service ----------------------------------------------------------------------------------


@pytest.fixture
def seen() -> SeenRepositories:
    return SeenRepositories()


@pytest.fixture
def leftover(bench: Rig, definition: TaskDefinition, seen: SeenRepositories) -> str:
    """The old stage of a task that has ended, in a repository that an attempt was given."""
    lease = leased(bench, definition)
    end(bench, lease)
    seen.on_event(AttemptStarted(lease))
    return stage_of(bench, lease)


@pytest.fixture
def directories(bench: Rig) -> Faulty:
    return Faulty(bench.directories)


@pytest.fixture
def janitor(bench: Rig, directories: Faulty, seen: SeenRepositories) -> Iterator[Janitor]:
    janitor = Janitor(
        survey=StageSurvey(
            queue=bench.queue.as_queue(), store=bench.store.as_store(), clock=bench.clock
        ),
        store=bench.store.as_store(),
        directories=cast("AttemptDirectories", directories),
        seen=seen,
        clock=bench.clock,
        listener=bench.recorder,
    )
    yield janitor
    janitor.stop()
    assert janitor.join(30)
    assert janitor.failure is None


def one_round(janitor: Janitor, clock: ManualClock) -> None:
    """Let the janitor tidy up: the first time to its end, later times it goes on meanwhile."""
    if janitor.join(0):
        janitor.start()
        clock.until_waiting()
    else:
        clock.advance(INTERVAL_S)


class TestJanitor:
    def test_sweeps_the_stages_of_ended_tasks_where_attempts_work(
        self,
        bench: Rig,
        clock: ManualClock,
        seen: SeenRepositories,
        janitor: Janitor,
        definition: TaskDefinition,
    ) -> None:
        killed, running = leased(bench, definition), leased(bench, definition)
        swept, kept = stage_of(bench, killed), stage_of(bench, running)
        end(bench, killed, "failed")
        seen.on_event(started(REPOSITORY))

        one_round(janitor, clock)

        assert bench.local_store.stages(REPOSITORY) == [kept]
        assert bench.recorder.of(Swept) == [Swept("stage", REPOSITORY, swept)]

    def test_looks_at_no_other_repository(
        self,
        bench: Rig,
        clock: ManualClock,
        seen: SeenRepositories,
        janitor: Janitor,
        leftover: str,
    ) -> None:
        seen.forget(REPOSITORY)

        one_round(janitor, clock)

        assert bench.store.calls("stages") == 0
        assert bench.local_store.stages(REPOSITORY) == [leftover]

    @pytest.mark.parametrize("away", ["queue", "store"])
    def test_keeps_everything_while_a_server_is_away_and_comes_back_to_it(
        self, bench: Rig, clock: ManualClock, janitor: Janitor, leftover: str, away: str
    ) -> None:
        if away == "queue":
            bench.queue.before("ended", raising(QueueUnavailable("away")), nth=1)
        else:
            bench.store.before("stages", raising(StoreUnavailable("away")), nth=1)

        one_round(janitor, clock)
        assert bench.local_store.stages(REPOSITORY) == [leftover]

        one_round(janitor, clock)
        assert bench.recorder.wait_for(Swept) == [Swept("stage", REPOSITORY, leftover)]
        assert bench.local_store.stages(REPOSITORY) == []

    def test_forgets_a_repository_that_does_not_exist(
        self, bench: Rig, clock: ManualClock, seen: SeenRepositories, janitor: Janitor
    ) -> None:
        seen.on_event(started("nowhere"))
        seen.on_event(started(REPOSITORY))

        one_round(janitor, clock)

        assert seen.names() == [REPOSITORY]

    def test_removes_the_directories_of_workers_that_die_while_it_runs(
        self, bench: Rig, clock: ManualClock, janitor: Janitor
    ) -> None:
        one_round(janitor, clock)
        dead = dead_home(bench.root / "work")

        one_round(janitor, clock)

        assert bench.recorder.wait_for(Swept) == [Swept("directory", "", "dead")]
        assert not dead.exists()
        assert (bench.root / "work" / "owner").is_dir()

    def test_a_directory_that_cannot_be_removed_does_not_end_it(
        self, bench: Rig, clock: ManualClock, directories: Faulty, janitor: Janitor
    ) -> None:
        denied = PermissionError(errno.EACCES, "Permission denied")
        directories.before("remove_dead", raising(denied), nth=1)
        one_round(janitor, clock)
        dead_home(bench.root / "work")

        one_round(janitor, clock)

        assert bench.recorder.wait_for(Swept) == [Swept("directory", "", "dead")]

    def test_is_no_reason_to_restart_the_process(
        self, clock: ManualClock, janitor: Janitor
    ) -> None:
        one_round(janitor, clock)
        clock.advance(INTERVAL_S / 2)
        assert janitor.silent_for_s() == 0.0


def test_what_was_swept_is_counted_by_kind() -> None:
    registry = CollectorRegistry()
    listener = Fanout([Metrics(registry, slots={}, steps=())])

    def counted(kind: str) -> float | None:
        return registry.get_sample_value("perago_worker_gc_removed_total", {"kind": kind})

    assert (counted("stage"), counted("directory")) == (0, 0)
    for swept in (
        Swept("stage", "lake", "x"),
        Swept("stage", "lake", "y"),
        Swept("directory", "", "d"),
    ):
        listener.on_event(swept)
    assert (counted("stage"), counted("directory")) == (2, 1)


# --- directories ----------------------------------------------------------------------------------


def dead_home(root: Path, name: str = "dead") -> Path:
    """Make what a killed worker leaves: its lock belongs to nobody."""
    home = root / name
    (home / "attempt" / "workspace").mkdir(parents=True)
    (home / "attempt" / "workspace" / "file").touch()
    (home / LOCK_NAME).touch()
    return home


class TestWorkerDirectories:
    def test_tells_the_dead_from_the_living_and_changes_nothing(self, tmp_path: Path) -> None:
        dead = dead_home(tmp_path)
        living = AttemptDirectories(tmp_path, owner="living")
        living.open()
        (tmp_path / "somebody's").mkdir()

        found = worker_directories(tmp_path)

        assert [(each.path.name, each.dead) for each in found] == [
            ("dead", True),
            ("living", False),
        ]
        assert found[0].changed_at == dead.stat().st_mtime
        assert (dead / "attempt" / "workspace" / "file").exists()
        assert not remove_if_dead(tmp_path / "living")
        assert remove_if_dead(dead)
        assert not dead.exists()
        living.close()

    def test_a_root_that_does_not_exist_holds_none(self, tmp_path: Path) -> None:
        assert worker_directories(tmp_path / "none") == []

    def test_a_worker_that_starts_is_never_taken_for_a_dead_one(self, tmp_path: Path) -> None:
        """Between making its lock and taking it, a directory looks like one of a dead worker."""
        done = threading.Event()
        sweeper = AttemptDirectories(tmp_path, owner="sweeper")

        def sweep() -> None:
            while not done.is_set():
                sweeper.remove_dead()
                worker_directories(tmp_path)

        threads = [threading.Thread(target=sweep) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for number in range(300):
                starting = AttemptDirectories(tmp_path, owner=f"worker-{number}")
                starting.open()
                assert (tmp_path / f"worker-{number}" / LOCK_NAME).exists()
                with starting.attempt() as directory:
                    assert directory.workspace.is_dir()
                starting.close()
        finally:
            done.set()
            for thread in threads:
                thread.join()


def test_eventually_nothing_is_left(
    bench: Rig,
    clock: ManualClock,
    seen: SeenRepositories,
    janitor: Janitor,
    definition: TaskDefinition,
) -> None:
    """A worker is killed while it publishes; its lease runs out; the stage goes an hour later."""
    lease = leased(bench, definition)
    stage_of(bench, lease, age_s=0)
    seen.on_event(AttemptStarted(lease))
    one_round(janitor, clock)
    assert len(bench.local_store.stages(REPOSITORY)) == 1

    clock.advance(lease.response_timeout_s)
    assert bench.local_queue.ended(lease.task_id) == "failed"
    clock.advance(MIN_AGE_S)

    eventually(lambda: not bench.local_store.stages(REPOSITORY))
    assert len(bench.recorder.wait_for(Swept)) == 1
