"""Slots: one attempt at a time in each, and what becomes of one whose thread fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from perago_worker.attempt.body.protocol import Call
from perago_worker.attempt.body.runner import OnOutput, Reply
from perago_worker.attempt.body.thread import ThreadBody
from perago_worker.attempt.stop import StopCause, StopToken
from perago_worker.events import AttemptFinished, AttemptStarted, Event, HeartbeatSent
from perago_worker.models import Lease
from perago_worker.runtime.heartbeats import Heartbeats
from perago_worker.runtime.slots import Slot, SlotPool
from tests.support import PATIENCE_S, Recorder, Rig, eventually, rig
from tests.unit.runtime.held import HELD, Gate, Works, works


class Counting(ThreadBody):
    """A body that counts how it is used."""

    def __init__(self) -> None:
        super().__init__(HELD)
        self.used: list[str] = []

    def warm_up(self) -> None:
        self.used.append("warm up")

    def run(self, call: Call, *, stop: StopToken, on_output: OnOutput) -> Reply:
        self.used.append("run")
        return super().run(call, stop=stop, on_output=on_output)

    def close(self) -> None:
        self.used.append("close")


@pytest.fixture
def two(here: Rig) -> Iterator[Works]:
    """Two started slots, no poller."""
    with works(here, slots=2) as made:
        made.heartbeats.start()
        made.start_slots()
        yield made


def lease(made: Works, **order: str) -> Lease:
    made.submit(**order)
    return made.here.poll(HELD)


class TestPool:
    def test_slots_take_attempts_until_none_is_free(self, two: Works, held: Gate) -> None:
        taken = [two.pool.take(lease(two, gate="gate")) for _ in range(3)]

        assert taken == ["begun", "begun", "full"]
        assert (two.pool.free, two.pool.busy) == (0, 2)
        held.open.set()
        two.here.recorder.wait_for(AttemptFinished, 2)
        eventually(lambda: two.pool.free == 2)
        assert two.statuses() == ["COMPLETED", "COMPLETED", "IN_PROGRESS"]

    def test_before_the_start_none_is_free(self, here: Rig) -> None:
        made = Works(here)

        assert made.pool.free == made.pool.busy == 0
        assert made.pool.take(lease(made)) == "full"

    def test_an_attempt_is_known_from_the_moment_it_is_taken(self, two: Works) -> None:
        """Between the poll and its first step nobody may take it for one that is not here."""
        taken = lease(two)
        slot = two.pool.slots[0]
        slot.stop()
        assert slot.join(PATIENCE_S)

        slot.take(taken)  # nobody is at work in it

        found = two.pool.running(taken.task_id)
        assert found is not None
        assert found.lease == taken
        assert two.pool.stop_attempts(StopCause.DRAINED, "why") == [taken]
        assert found.stop.stop is not None

    def test_other_tasks_are_not_running(self, two: Works) -> None:
        assert two.pool.running("another") is None

    def test_waiting_ends_when_a_slot_is_free(self, two: Works, held: Gate) -> None:
        assert two.pool.wait_free(0)
        for _ in range(2):
            two.pool.take(lease(two, gate="gate"))
        assert not two.pool.wait_free(0)
        held.open.set()
        assert two.pool.wait_free(PATIENCE_S)

    def test_attempts_are_told_to_stop(self, two: Works, held: Gate) -> None:
        taken = lease(two, gate="gate")
        two.pool.take(taken)
        held.wait_begun()

        assert two.pool.stop_attempts(StopCause.DRAINED, "the worker stops") == [taken]

        (event,) = two.here.recorder.wait_for(AttemptFinished)
        assert event.outcome.kind == "released"
        assert two.statuses() == ["SCHEDULED"]


class TestSlot:
    def test_the_body_is_warmed_up_once_and_closed_at_the_end(self, here: Rig) -> None:
        body = Counting()
        with works(here, make_body=lambda: body) as made:
            made.start_slots()
            for count in (1, 2, 3):
                made.pool.take(lease(made))
                here.recorder.wait_for(AttemptFinished, count)
                eventually(lambda: made.pool.free == 1)

        assert body.used == ["warm up", "run", "run", "run", "close"]

    def test_a_slot_that_is_stopped_finishes_its_attempt(self, two: Works, held: Gate) -> None:
        two.pool.take(lease(two, gate="gate"))
        held.wait_begun()
        slot: Slot = two.pool.slots[0]

        slot.stop()

        assert not slot.join(0)
        held.open.set()
        assert slot.join(PATIENCE_S)
        assert two.statuses() == ["COMPLETED"]
        assert not slot.free

    def test_a_body_may_be_silent_for_as_long_as_it_takes(self, two: Works, held: Gate) -> None:
        two.pool.take(lease(two, gate="gate"))
        held.wait_begun()

        assert two.pool.slots[0].silent_for_s() == 0

    def test_heartbeats_are_sent_while_the_body_runs(self, here: Rig, held: Gate) -> None:
        here.budget = type(here.budget)(merge_s=60, completion_s=5, heartbeat_s=0.01)
        with works(here) as made:
            made.heartbeats.start()
            made.start_slots()
            made.pool.take(lease(made, gate="gate"))
            here.recorder.wait_for(HeartbeatSent, 3)
            held.open.set()
            here.recorder.wait_for(AttemptFinished)
        assert {event.outcome for event in here.recorder.of(HeartbeatSent)} == {"held"}


class FailingOnce(Recorder):
    """A listener that raises once: what may go wrong outside of any step."""

    failures = 1

    def on_event(self, event: Event) -> None:
        if self.failures and isinstance(event, AttemptStarted):
            self.failures -= 1
            raise ZeroDivisionError("a listener without a fan-out")
        super().on_event(event)


class Breaking(ThreadBody):
    """A body that cannot be got ready at first."""

    failures = 1

    def warm_up(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("no more processes")


class TestFailure:
    def test_an_unforeseen_exception_in_the_attempt_is_an_outcome(self, here: Rig) -> None:
        class Unforeseen(Counting):
            def run(self, call: Call, *, stop: StopToken, on_output: OnOutput) -> Reply:
                raise ZeroDivisionError("a bug")

        with works(here, make_body=Unforeseen) as made:
            made.start_slots()
            made.pool.take(lease(made))
            (event,) = here.recorder.wait_for(AttemptFinished)
            assert event.outcome.code == "worker_error"
            eventually(lambda: made.pool.free == 1)
            assert made.pool.slots[0].failure is None

    def test_a_slot_whose_thread_failed_takes_nothing_until_it_is_started_again(
        self, tmp_path: Path
    ) -> None:
        """Else a task would be leased to a slot in which nobody is at work."""
        with rig(tmp_path, recorder=FailingOnce()) as here, works(here) as made:
            made.start_slots()
            (slot,) = made.pool.slots
            made.pool.take(lease(made))
            eventually(lambda: slot.failure is not None)

            assert (made.pool.free, made.pool.busy) == (0, 0)
            assert made.pool.take(lease(made)) == "full"
            slot.start()
            eventually(lambda: made.pool.free == 1)
            assert made.pool.take(lease(made)) == "begun"
            here.recorder.wait_for(AttemptFinished)

    def test_a_slot_whose_thread_fails_is_not_free_for_a_moment_either(
        self, tmp_path: Path
    ) -> None:
        free: list[int] = []

        class Told(SlotPool):
            def tell_poller(self) -> None:
                free.append(self.free)

        with rig(tmp_path, recorder=FailingOnce()) as here:
            pool = Told(
                HELD,
                size=1,
                make_tools=lambda: here.tools(ThreadBody(HELD)),
                heartbeats=Heartbeats(clock=here.clock),
                clock=here.clock,
            )
            (slot,) = pool.slots
            slot.start()
            eventually(lambda: slot.free)
            here.submit(HELD, params={})

            pool.take(here.poll(HELD))

            assert slot.join(PATIENCE_S)
        assert free == [1, 0]

    def test_a_slot_that_cannot_warm_up_fails_and_may_be_started_again(self, here: Rig) -> None:
        with works(here, make_body=lambda: Breaking(HELD)) as made:
            (slot,) = made.pool.slots
            slot.start()
            eventually(lambda: slot.failure is not None)
            assert "no more processes" in str(slot.failure)
            assert made.pool.free == 0

            made.start_slots()

            assert made.pool.take(lease(made)) == "begun"
            here.recorder.wait_for(AttemptFinished)
