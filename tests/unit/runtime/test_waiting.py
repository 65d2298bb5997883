"""Tasks taken ahead: how many, of which kind, and none forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perago_worker import ExecutionLimits, RetryPolicy, TaskControls, WorkspaceSpec
from perago_worker.events import AttemptFinished, GivenBack
from perago_worker.models import Lease
from perago_worker.runtime import waiting
from perago_worker.runtime.waiting import MAX_AHEAD, PATIENCE_S, Waiting, can_wait
from tests.clocks import ManualClock
from tests.support import PATIENCE_S as TEST_PATIENCE_S
from tests.support import Rig, eventually, rig
from tests.unit.runtime.held import HELD, Gate, Works, works


def counts(here: Rig) -> list[int]:
    """Return how many tasks each poll asked for."""
    return [asked["count"] for asked in here.queue.asked("poll")]


def lease(here: Rig) -> Lease:
    here.submit(HELD, params={})
    return here.poll(HELD)


class TestWhichTasks:
    def test_short_ones_that_are_retried(self) -> None:
        assert can_wait(HELD)

    @pytest.mark.parametrize(
        "controls",
        [
            {"retry": RetryPolicy(count=0)},
            {"limits": ExecutionLimits(concurrent_exec_limit=2)},
            {
                "limits": ExecutionLimits(
                    rate_limit_per_frequency=9, rate_limit_frequency_in_seconds=1
                )
            },
        ],
    )
    def test_none_that_would_suffer_from_it(self, controls: dict[str, Any]) -> None:
        assert not can_wait(replace(HELD, controls=TaskControls(**controls)))

    def test_none_with_a_workspace(self) -> None:
        assert not can_wait(replace(HELD, workspace=WorkspaceSpec(prefix="data", read_only=True)))


class TestHowMany:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    def test_none_before_it_is_known_how_long_attempts_take(self, clock: ManualClock) -> None:
        assert Waiting(work_s=1, slots=1, clock=clock).room == 0

    @pytest.mark.parametrize(
        ("seconds", "slots", "room"),
        [(0.3, 1, 0), (0.09, 1, 2), (0.09, 3, 6), (0.02, 1, MAX_AHEAD), (0.001, 4, MAX_AHEAD)],
    )
    def test_as_many_as_are_done_in_the_time_that_is_allowed(
        self, clock: ManualClock, seconds: float, slots: int, room: int
    ) -> None:
        tasks = Waiting(work_s=0.2, slots=slots, clock=clock)
        tasks.learn(seconds)
        assert tasks.room == room

    def test_where_no_time_is_allowed_none(self, clock: ManualClock) -> None:
        tasks = Waiting(work_s=0, slots=3, clock=clock)
        tasks.learn(0.001)
        assert tasks.room == 0

    def test_one_slow_attempt_counts_at_once_and_quick_ones_little_by_little(
        self, clock: ManualClock
    ) -> None:
        tasks = Waiting(work_s=0.1, slots=1, clock=clock)
        tasks.learn(0.01)
        assert tasks.room == MAX_AHEAD
        tasks.learn(5.0)
        assert tasks.room == 0
        needed = 0
        while tasks.room == 0:
            tasks.learn(0.01)
            needed += 1
        assert 10 < needed < 30


class TestOrder:
    def test_the_oldest_goes_first_and_none_twice(self, here: Rig) -> None:
        tasks = Waiting(work_s=1, slots=1, clock=here.clock)
        leases = [lease(here) for _ in range(3)]
        for each in leases:
            tasks.add(each)
        assert [tasks.next() for _ in range(4)] == [*leases, None]
        assert len(tasks) == 0

    def test_a_newer_delivery_takes_the_place_of_the_older(self, here: Rig) -> None:
        tasks = Waiting(work_s=1, slots=1, clock=here.clock)
        older, other = lease(here), lease(here)
        here.local_queue.give_back(older)
        newer = here.poll(HELD)
        for each in (older, other, newer):
            tasks.add(each)
        assert newer.token > older.token
        assert [tasks.next(), tasks.next(), tasks.next()] == [newer, other, None]

    def test_what_has_waited_for_too_long_is_not_begun(self, tmp_path: Path) -> None:
        clock = ManualClock()
        with rig(tmp_path, clock=clock) as here:
            tasks = Waiting(work_s=1, slots=1, clock=clock)
            early = lease(here)
            tasks.add(early)
            clock.advance(PATIENCE_S / 2)
            late = lease(here)
            tasks.add(late)
            assert tasks.take_overdue() == []
            clock.advance(PATIENCE_S / 2)
            assert tasks.next() is None
            assert tasks.take_overdue() == [early]
            assert 0 < tasks.patience_s < PATIENCE_S
            assert tasks.next() == late
            assert tasks.patience_s == float("inf")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, nothing waits for too long."""
    monkeypatch.setattr(waiting, "PATIENCE_S", TEST_PATIENCE_S)


class TestAtWork:
    @pytest.mark.usefixtures("patient")
    def test_a_backlog_of_short_tasks_takes_few_polls(self, here: Rig) -> None:
        with works(here, take_ahead_s=60) as made:
            for _ in range(30):
                made.submit()
            made.start()
            here.recorder.wait_for(AttemptFinished, 30)
            eventually(lambda: made.poller.found_nothing_since(0))
        assert made.statuses() == ["COMPLETED"] * 30
        assert max(counts(here)) in {1 + MAX_AHEAD, 2 + MAX_AHEAD}
        assert here.queue.calls("poll") < 15
        assert {task.poll_count for task in here.local_queue.tasks()} == {1}
        assert here.recorder.of(GivenBack) == []

    def test_none_are_taken_while_polls_bring_less_than_they_ask_for(self, here: Rig) -> None:
        with works(here, slots=4, take_ahead_s=60) as made:
            made.start()
            for number in range(1, 6):
                made.submit()
                here.recorder.wait_for(AttemptFinished, number)
        assert max(counts(here)) <= 4

    def test_what_waits_behind_a_slow_task_is_given_back(
        self, here: Rig, held: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(waiting, "PATIENCE_S", 0.2)
        with works(here, take_ahead_s=60) as made:
            for _ in range(3):
                made.submit()
            slow = made.submit(gate="gate")
            after = [made.submit() for _ in range(3)]
            made.start()
            held.wait_begun()
            events = here.recorder.wait_for(GivenBack, 3)
            assert {event.why for event in events} == {"no slot became free for it in time"}
            assert {event.lease.task_id for event in events} == set(after)
            assert {here.task(each).status for each in after} == {"SCHEDULED"}
            assert here.task(slow).status == "IN_PROGRESS"
            held.open.set()
            here.recorder.wait_for(AttemptFinished, 7)
        assert made.statuses() == ["COMPLETED"] * 7
        assert {task.retry_count for task in here.local_queue.tasks()} == {0}

    @pytest.mark.usefixtures("patient")
    def test_what_waits_when_the_worker_stops_is_given_back(self, here: Rig, held: Gate) -> None:
        with works(here, take_ahead_s=60) as made:
            waits = self.behind_a_slow_task(made, held)
            made.poller.stop()
            assert made.poller.join(TEST_PATIENCE_S)
            events = here.recorder.of(GivenBack)
            assert {event.lease.task_id for event in events} == set(waits)
            assert {here.task(each).status for each in waits} == {"SCHEDULED"}

    @pytest.mark.usefixtures("patient")
    def test_a_slot_that_stops_begins_nothing_that_waits(self, here: Rig, held: Gate) -> None:
        with works(here, take_ahead_s=60) as made:
            waits = self.behind_a_slow_task(made, held)
            (slot,) = made.pool.slots
            slot.stop()
            held.open.set()
            assert slot.join(TEST_PATIENCE_S)
            made.poller.stop()
            assert made.poller.join(TEST_PATIENCE_S)
            assert {here.task(each).status for each in waits} == {"SCHEDULED"}

    @staticmethod
    def behind_a_slow_task(made: Works, held: Gate) -> list[str]:
        """Have a task that goes on, and three that wait for its slot; return these."""
        made.submit(gate="gate")
        waits = [made.submit() for _ in range(3)]
        made.start_slots()
        leases = made.here.queue.as_queue().poll(HELD.name, count=4, wait_s=0)
        assert [made.pool.take(each, may_wait=True) for each in leases] == [
            "begun",
            *["waits"] * 3,
        ]
        held.wait_begun()
        made.poller.start()
        return waits

    @pytest.mark.usefixtures("patient")
    def test_a_task_that_comes_again_while_it_waits_is_run_once(
        self, here: Rig, held: Gate
    ) -> None:
        with works(here) as made:
            made.start_slots()
            made.submit(gate="gate")
            assert made.pool.take(here.poll(HELD), may_wait=True) == "begun"
            held.wait_begun()
            older = lease(here)
            assert made.pool.take(older, may_wait=True) == "waits"
            here.local_queue.give_back(older)
            newer = here.poll(HELD)
            assert made.pool.take(newer, may_wait=False) == "waits"
            held.open.set()
            events = here.recorder.wait_for(AttemptFinished, 2)
            eventually(lambda: made.pool.free == 1)
        assert events[1].lease == newer
        assert made.statuses() == ["COMPLETED"] * 2
