"""The worker as a whole: order of start and stop, dead parts, probes, exit codes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from perago_worker.errors import QueueUnavailable
from perago_worker.events import (
    AttemptFinished,
    GivenBack,
    HeartbeatSent,
    PollFinished,
    ServiceFailed,
    StateChanged,
)
from perago_worker.ports import Clock
from perago_worker.runtime.heartbeats import Heartbeats
from perago_worker.runtime.poller import Poller
from perago_worker.runtime.service import ThreadService
from perago_worker.runtime.shutdown import Shutdown
from perago_worker.runtime.supervisor import (
    EXIT_DRAINED,
    EXIT_FAILED,
    FORGIVEN_S,
    FRESH_POLL_S,
    MAX_FAILURES,
    Check,
    Supervisor,
)
from perago_worker.runtime.watchdog import STALL_S
from tests.clocks import ManualClock
from tests.support import PATIENCE_S, HastyClock, Rig, eventually, raising, rig
from tests.unit.runtime.failing import Failing
from tests.unit.runtime.held import HELD, Gate, Works


class Endpoint:
    """Takes note of when it is started and stopped, between the worker's states."""

    def __init__(self, here: Rig, liveness: Check, readiness: Check) -> None:
        self._here = here
        self.liveness = liveness
        self.readiness = readiness
        self.noted: list[tuple[str, str]] = []

    def start(self) -> None:
        self._note("start")

    def stop(self) -> None:
        self._note("stop")

    def _note(self, what: str) -> None:
        self.noted.append((what, self._here.recorder.of(StateChanged)[-1].state))


class Worker:
    """A worker over the local pair, run in this thread while another one drives the test."""

    def __init__(
        self,
        here: Rig,
        *,
        slots: int = 1,
        drain_timeout_s: float = 30.0,
        until_idle: bool = False,
        polling: bool = True,
        janitor: ThreadService | None = None,
    ) -> None:
        self.here = here
        self.shutdown = Shutdown()
        here.shut_down = self.shutdown.now
        self.works = Works(here, slots=slots, idle_wait_s=0.1)
        here.directories.close()
        self.endpoints: list[Endpoint] = []
        self.supervisor = Supervisor(
            queue=here.queue.as_queue(),
            pollers=[self.works.poller] if polling else [],
            heartbeats=self.works.heartbeats,
            directories=here.directories,
            make_endpoint=self._make_endpoint,
            shutdown=self.shutdown,
            clock=here.clock,
            listener=here.recorder,
            drain_timeout_s=drain_timeout_s,
            until_idle=until_idle,
            janitor=janitor,
        )

    def is_running(self) -> bool:
        """Whether nothing has asked the worker to end yet."""
        return states(self.here)[-1] == "running"

    def _make_endpoint(self, liveness: Check, readiness: Check) -> Endpoint:
        self.endpoints.append(Endpoint(self.here, liveness, readiness))
        return self.endpoints[-1]

    def run(self, drive: Callable[[], object] = lambda: None, *, then_end: bool = True) -> int:
        """Run the worker and return its exit code.

        Args:
            drive: Called meanwhile, in another thread; the worker ends at once when it fails.
            then_end: Ask the worker to end when it has returned.
        """

        def drive_and_end() -> None:
            try:
                drive()
            except BaseException:
                self.shutdown.ask()
                self.shutdown.ask()
                raise
            if then_end:
                self.shutdown.ask()

        with ThreadPoolExecutor(1) as pool:
            driving = pool.submit(drive_and_end)
            code = self.supervisor.run()
            driving.result(PATIENCE_S)
        return code

    def wait_for_state(self, state: str) -> None:
        eventually(lambda: self.supervisor.state == state, f"it is {self.supervisor.state}")

    def has_stopped(self) -> bool:
        return self.supervisor.state == "stopped"

    def wait_finished(self, count: int = 1) -> list[AttemptFinished]:
        return self.here.recorder.wait_for(AttemptFinished, count)


def states(here: Rig) -> list[str]:
    return [event.state for event in here.recorder.of(StateChanged)]


def threads_of_services() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("slot", "poller", "heartbeat", "failing"))]


class TestLife:
    def test_it_works_until_it_is_asked_to_end(self, here: Rig) -> None:
        worker = Worker(here, slots=2)
        for _ in range(3):
            worker.works.submit()

        code = worker.run(lambda: worker.wait_finished(3))

        assert code == EXIT_DRAINED
        assert states(here) == ["starting", "running", "draining", "stopped"]
        assert worker.works.statuses() == ["COMPLETED"] * 3
        assert threads_of_services() == []
        assert not (here.root / "work" / "owner").exists()

    def test_the_endpoint_is_the_first_to_start_and_the_last_to_stop(self, here: Rig) -> None:
        worker = Worker(here)

        worker.run(lambda: here.recorder.wait_for(PollFinished))

        assert worker.endpoints[0].noted == [("start", "starting"), ("stop", "stopped")]

    def test_nothing_is_polled_before_there_is_a_slot_to_run_it(self, here: Rig) -> None:
        worker = Worker(here, slots=2)
        states_at_first_poll: list[list[str]] = []
        here.queue.before("poll", lambda: states_at_first_poll.append(states(here)), nth=1)

        worker.run(lambda: here.recorder.wait_for(PollFinished))

        assert states_at_first_poll == [["starting", "running"]]

    def test_until_idle_ends_by_itself_when_nothing_is_left(self, here: Rig) -> None:
        worker = Worker(here, until_idle=True)
        for _ in range(2):
            worker.works.submit()

        assert worker.supervisor.run() == EXIT_DRAINED
        assert worker.works.statuses() == ["COMPLETED"] * 2

    def test_a_queue_that_is_away_is_not_idle(self, here: Rig) -> None:
        worker = Worker(here, until_idle=True)
        here.queue.before("depth", raising(QueueUnavailable("away")), nth=1)

        assert worker.supervisor.run() == EXIT_DRAINED
        assert here.queue.calls("depth") > 1

    def test_a_task_that_is_on_its_way_is_not_idle(self, here: Rig) -> None:
        """A poll has taken it from the queue, and its answer is not here yet."""
        worker = Worker(here, until_idle=True)

        def keep_the_answer() -> None:
            looks = here.queue.calls("depth") + 3
            eventually(lambda: here.queue.calls("depth") >= looks or not worker.is_running())

        here.queue.before("poll", worker.works.submit, nth=3)
        here.queue.after("poll", keep_the_answer, nth=3)

        assert worker.supervisor.run() == EXIT_DRAINED
        assert worker.works.statuses() == ["COMPLETED"]
        assert not here.recorder.of(GivenBack)

    def test_a_task_that_comes_after_the_look_is_not_left(self, here: Rig) -> None:
        worker = Worker(here, until_idle=True)
        here.queue.after("depth", worker.works.submit, nth=1)

        assert worker.supervisor.run() == EXIT_DRAINED
        assert worker.works.statuses() == ["COMPLETED"]


class TestDrain:
    def test_what_runs_is_finished_with_its_heartbeats(self, here: Rig, held: Gate) -> None:
        here.budget = type(here.budget)(merge_s=60, completion_s=5, heartbeat_s=0.01)
        worker = Worker(here)
        worker.works.submit(gate="gate")
        worker.works.submit()

        def drive() -> None:
            held.wait_begun()
            worker.shutdown.ask()
            worker.wait_for_state("draining")
            assert worker.endpoints[0].readiness() == ["the worker is draining"]
            assert worker.endpoints[0].liveness() == []
            eventually(lambda: worker.works.poller.join(0))
            # So many that the supervisor has looked up meanwhile.
            here.recorder.wait_for(HeartbeatSent, len(here.recorder.of(HeartbeatSent)) + 20)
            held.open.set()

        assert worker.run(drive, then_end=False) == EXIT_DRAINED
        assert worker.works.statuses() == ["COMPLETED", "SCHEDULED"]
        assert not here.recorder.of(GivenBack)

    def test_what_does_not_end_in_time_is_given_back_without_using_a_retry(
        self, here: Rig, held: Gate
    ) -> None:
        worker = Worker(here, slots=2, drain_timeout_s=0)
        for _ in range(2):
            worker.works.submit(gate="gate")

        def drive() -> None:
            held.wait_begun()
            held.wait_begun()

        assert worker.run(drive) == EXIT_DRAINED
        assert worker.works.statuses() == ["SCHEDULED"] * 2
        assert {task.retry_count for task in here.local_queue.tasks()} == {0}
        assert {event.why for event in here.recorder.of(GivenBack)} == {"drained"}
        assert not (here.root / "work" / "owner").exists()

    def test_a_second_signal_ends_it_at_once(self, here: Rig, held: Gate) -> None:
        worker = Worker(here, drain_timeout_s=600)
        worker.works.submit(gate="gate")

        def drive() -> None:
            held.wait_begun()
            os.kill(os.getpid(), signal.SIGTERM)
            worker.wait_for_state("draining")
            os.kill(os.getpid(), signal.SIGTERM)

        assert worker.run(drive, then_end=False) == 128 + signal.SIGTERM
        assert worker.works.statuses() == ["SCHEDULED"]
        assert [event.why for event in here.recorder.of(GivenBack)] == ["shut_down"]

    def test_one_signal_is_a_clean_end(self, here: Rig) -> None:
        worker = Worker(here)

        def drive() -> None:
            here.recorder.wait_for(PollFinished)
            os.kill(os.getpid(), signal.SIGTERM)

        assert worker.run(drive, then_end=False) == EXIT_DRAINED

    def test_what_a_poll_in_flight_brings_is_given_back(self, here: Rig) -> None:
        worker = Worker(here)
        worker.works.submit()

        def drain() -> None:
            worker.shutdown.ask()
            eventually(worker.works.poller.stopping.is_set)

        here.queue.after("poll", drain, nth=1)

        assert worker.run(then_end=False) == EXIT_DRAINED
        assert worker.works.statuses() == ["SCHEDULED"]
        assert not here.recorder.of(AttemptFinished)

    def test_a_queue_that_is_away_does_not_hold_it_up_after_a_second_signal(
        self, here: Rig
    ) -> None:
        """The report is tried for minutes; whoever signals twice does not want to wait for it."""
        worker = Worker(here)
        worker.works.submit()
        here.queue.before("complete", raising(QueueUnavailable("away")))

        def drive() -> None:
            eventually(lambda: here.queue.calls("complete") > 0)
            worker.shutdown.ask(signal.SIGTERM)
            worker.shutdown.ask(signal.SIGTERM)

        assert worker.run(drive, then_end=False) == 128 + signal.SIGTERM
        assert [event.reported for event in here.recorder.of(AttemptFinished)] == [False]


def step(clock: ManualClock, until: Callable[[], bool]) -> None:
    """Let time pass, a second at a time, until something has happened."""

    def look() -> bool:
        clock.advance(1)
        return until()

    eventually(look)


class Relapsing(ThreadService):
    """Fails as often as it may, works, fails once more when it is told to, and works again."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("relapsing", clock=clock)
        self.working = threading.Event()
        self.fails = threading.Event()
        self.recovered = threading.Event()
        self._runs = 0

    def run(self) -> None:
        self._runs += 1
        if self._runs == MAX_FAILURES + 1:
            self.working.set()
            assert self.fails.wait(PATIENCE_S)
        if self._runs <= MAX_FAILURES + 1:
            raise ValueError(f"failure {self._runs}")
        self.recovered.set()
        self.stopping.wait()


class TestDeadParts:
    @pytest.fixture
    def hasty(self, tmp_path: Path) -> Iterator[Rig]:
        """On a clock whose waits end at once."""
        with rig(tmp_path, clock=HastyClock()) as opened:
            yield opened

    @pytest.mark.parametrize("failures", [1, MAX_FAILURES])
    def test_a_part_that_fails_is_started_again(self, hasty: Rig, failures: int) -> None:
        part = Failing(failures, clock=HastyClock())
        worker = Worker(hasty, polling=False, janitor=part)

        code = worker.run(lambda: eventually(lambda: part.runs == failures + 1))

        assert code == EXIT_DRAINED
        events = hasty.recorder.of(ServiceFailed)
        assert [event.service for event in events] == ["failing"] * failures
        assert all(event.restart_in_s is not None for event in events)
        assert "ValueError: failure 1" in events[0].error

    def test_a_part_that_keeps_failing_ends_the_worker(self, tmp_path: Path) -> None:
        clock = ManualClock()
        part = Failing(1000, clock=HastyClock())
        with rig(tmp_path, clock=clock) as here:
            worker = Worker(here, polling=False, janitor=part)

            code = worker.run(lambda: step(clock, worker.has_stopped), then_end=False)

            assert code == EXIT_FAILED
            assert part.runs == MAX_FAILURES + 1
            assert here.recorder.of(ServiceFailed)[-1].restart_in_s is None
            assert states(here)[-2:] == ["draining", "stopped"]

    @pytest.mark.parametrize(("worked_s", "code"), [(FORGIVEN_S, EXIT_DRAINED), (0, EXIT_FAILED)])
    def test_failures_of_long_ago_are_forgiven(
        self, tmp_path: Path, worked_s: float, code: int
    ) -> None:
        """A worker of months must not end over its sixth mishap."""
        clock = ManualClock()
        part = Relapsing(clock)
        with rig(tmp_path, clock=clock) as here:
            worker = Worker(here, polling=False, janitor=part)

            def drive() -> None:
                step(clock, part.working.is_set)
                clock.advance(worked_s)
                part.fails.set()
                step(clock, lambda: part.recovered.is_set() or worker.has_stopped())
                worker.shutdown.ask()
                step(clock, worker.has_stopped)

            assert worker.run(drive, then_end=False) == code

    def test_a_poller_that_fails_polls_again(self, here: Rig) -> None:
        worker = Worker(here)
        here.queue.before("poll", raising(ZeroDivisionError("a bug")), nth=1)
        worker.works.submit()

        assert worker.run(worker.wait_finished) == EXIT_DRAINED

        (event,) = here.recorder.of(ServiceFailed)
        assert event.service == "poller held.task"
        assert worker.works.statuses() == ["COMPLETED"]


class TestProbes:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def manual(self, tmp_path: Path, clock: ManualClock) -> Iterator[Rig]:
        with rig(tmp_path, clock=clock) as opened:
            yield opened

    def test_a_part_that_makes_no_progress_fails_liveness(
        self, manual: Rig, clock: ManualClock
    ) -> None:
        stuck = ThreadService("stuck", clock=clock)
        worker = Worker(manual, janitor=stuck)
        stuck.start()
        clock.advance(STALL_S)
        assert worker.supervisor.liveness() == []

        clock.advance(1)

        assert worker.supervisor.liveness() == ["stuck has made no progress for 121 s"]
        stuck.stop()
        assert stuck.join(PATIENCE_S)

    def test_a_worker_is_ready_when_it_has_polled(self, here: Rig) -> None:
        worker = Worker(here)
        assert worker.supervisor.readiness() == ["the worker is starting"]

        def drive() -> None:
            here.recorder.wait_for(PollFinished)
            eventually(lambda: worker.supervisor.readiness() == [])

        worker.run(drive)
        assert worker.supervisor.readiness() == ["the worker is stopped"]

    @pytest.mark.parametrize(
        ("polled_ago_s", "error", "reasons"),
        [
            (None, "", ["held.task: has not polled yet"]),
            (0, "", []),
            (FRESH_POLL_S, "", []),
            (FRESH_POLL_S + 1, "", ["held.task: last polled 61 s ago"]),
            (0, "refused", ["held.task: cannot poll: refused"]),
        ],
    )
    def test_readiness_says_why_not(
        self,
        manual: Rig,
        clock: ManualClock,
        polled_ago_s: float | None,
        error: str,
        reasons: list[str],
    ) -> None:
        worker = Worker(manual)
        worker.works.start_slots()
        worker.supervisor.state = "running"
        poller: Poller = worker.works.poller
        poller.last_error = error
        poller.polled_at = None if polled_ago_s is None else clock.now() - polled_ago_s

        assert worker.supervisor.readiness() == reasons
        worker.works.stop()

    def test_a_worker_whose_slots_have_failed_is_not_ready(
        self, manual: Rig, clock: ManualClock, held: Gate
    ) -> None:
        """While all slots are at work nobody polls, and that is as it should be."""
        worker = Worker(manual)
        worker.works.start_slots()
        worker.supervisor.state = "running"
        worker.works.submit(gate="gate")
        assert worker.works.pool.take(manual.poll(HELD))
        worker.works.poller.polled_at = clock.now()
        clock.advance(FRESH_POLL_S + 1)
        assert worker.supervisor.readiness() == []

        held.open.set()
        eventually(lambda: worker.works.pool.free == 1)
        worker.works.stop()
        assert worker.works.pool.free == 0

        assert worker.supervisor.readiness() == ["held.task: last polled 61 s ago"]

    def test_a_server_that_is_down_is_no_reason_to_restart(self, here: Rig) -> None:
        worker = Worker(here)
        here.queue.before("poll", raising(QueueUnavailable("away")))

        def drive() -> None:
            here.recorder.wait_for(PollFinished)
            eventually(lambda: worker.supervisor.readiness() == ["held.task: cannot poll: away"])
            assert worker.supervisor.liveness() == []

        assert worker.run(drive) == EXIT_DRAINED


def test_heartbeats_outlive_the_slots(here: Rig, held: Gate) -> None:
    """Whatever is finished or given back at the end does so under a lease that is alive."""
    alive: list[bool] = []
    worker = Worker(here, drain_timeout_s=0)
    heartbeats: Heartbeats = worker.works.heartbeats
    here.queue.before("give_back", lambda: alive.append(not heartbeats.stopping.is_set()))
    worker.works.submit(gate="gate")

    worker.run(held.wait_begun)

    assert alive == [True]
