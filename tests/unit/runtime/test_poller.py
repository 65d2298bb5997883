"""Polling: never for more than can start, never without pause, and nothing that came is lost."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from perago_worker.errors import QueueRefused, QueueUnavailable
from perago_worker.events import AttemptFinished, GivenBack, PollFinished
from perago_worker.models import Lease
from perago_worker.ports import MAX_POLL_WAIT_S
from perago_worker.runtime import waiting
from perago_worker.runtime.poller import GIVE_BACK_TRIES, MAX_BATCH
from tests.clocks import ManualClock
from tests.support import PATIENCE_S, Faulty, HastyClock, Rig, eventually, raising, rig
from tests.unit.runtime.held import HELD, Gate, Works, works

AWAY = QueueUnavailable("the queue is away")


def polls(here: Rig) -> list[tuple[int, float]]:
    """Return how many tasks each poll asked for, and how long it was to wait."""
    return [(asked["count"], asked["wait_s"]) for asked in here.queue.asked("poll")]


class TestModes:
    def test_a_backlog_is_taken_in_batches_without_waiting(self, here: Rig, held: Gate) -> None:
        with works(here, slots=3) as made:
            for _ in range(5):
                made.submit(gate="gate")
            made.start()
            for _ in range(3):
                held.wait_begun()
            assert polls(here) == [(3, 0.0)]
            held.open.set()
            here.recorder.wait_for(AttemptFinished, 5)
        assert all(wait_s == 0 for _, wait_s in polls(here)[:2])
        assert made.statuses() == ["COMPLETED"] * 5

    def test_no_more_is_asked_for_than_slots_are_free(self, here: Rig, held: Gate) -> None:
        with works(here, slots=3) as made:
            made.submit(gate="gate")
            made.start()
            held.wait_begun()
            eventually(lambda: len(polls(here)) >= 3)
            assert polls(here)[:3] == [(3, 0.0), (2, 0.0), (1, 0.1)]

    def test_nothing_is_asked_for_while_no_slot_is_free(self, here: Rig, held: Gate) -> None:
        with works(here) as made:
            made.submit(gate="gate")
            made.submit()
            made.start()
            held.wait_begun()
            assert made.poller.silent_for_s() < PATIENCE_S
            assert len(polls(here)) == 1
            held.open.set()
            here.recorder.wait_for(AttemptFinished, 2)

    def test_an_idle_poller_asks_for_one_and_lets_the_server_wait(self, here: Rig) -> None:
        with works(here, slots=3, idle_wait_s=0.4) as made:
            made.submit()
            made.start()
            here.recorder.wait_for(AttemptFinished)
            eventually(lambda: polls(here)[-1] == (1, 0.4))
            assert not [asked for asked in polls(here) if asked[0] > 1 and asked[1]]

    def test_what_comes_to_an_idle_poller_is_taken_at_once(self, here: Rig) -> None:
        with works(here, idle_wait_s=MAX_POLL_WAIT_S) as made:
            here.submit(HELD, params={})
            here.poll(HELD)
            made.start()
            eventually(lambda: polls(here)[-1:] == [(1, MAX_POLL_WAIT_S)])
            made.submit()
            here.recorder.wait_for(AttemptFinished)
        found = [event for event in here.recorder.of(PollFinished) if event.outcome == "tasks"]
        assert [event.count for event in found] == [1]

    @pytest.mark.parametrize(("asked_s", "wait_s"), [(60, MAX_POLL_WAIT_S), (2, 2)])
    def test_no_server_is_asked_to_wait_longer_than_it_may(
        self, here: Rig, asked_s: float, wait_s: float
    ) -> None:
        made = Works(here, idle_wait_s=asked_s)
        here.queue.before("poll", raising(AWAY), nth=2)  # the wait need not last
        made.submit()
        here.poll(HELD)
        made.start_slots()
        made.poller.start()
        eventually(lambda: len(polls(here)) == 2)
        assert polls(here)[1] == (1, wait_s)
        made.stop()

    def test_a_batch_has_its_limit(self, here: Rig) -> None:
        with works(here, slots=MAX_BATCH + 4) as made:
            made.submit()
            made.start()
            here.recorder.wait_for(AttemptFinished)
        assert polls(here)[0] == (MAX_BATCH, 0.0)


class Hasty(Faulty):
    """A server that does not wait, whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        if name != "poll":
            return found
        return lambda task_type, **asked: found(task_type, **{**asked, "wait_s": 0.0})


class TestPauses:
    def test_a_server_that_does_not_wait_is_not_asked_without_pause(self, tmp_path: Path) -> None:
        clock = ManualClock()
        with rig(tmp_path, clock=clock) as here:
            here.queue = Hasty(here.local_queue)
            with works(here, idle_wait_s=2.0) as made:
                made.submit()
                here.poll(HELD)
                made.start_slots()
                made.poller.start()
                eventually(lambda: here.queue.calls("poll") == 2)
                clock.until_waiting()
                for calls in (3, 4, 5):
                    clock.advance(1.9)
                    clock.until_waiting()
                    assert here.queue.calls("poll") == calls - 1
                    clock.advance(0.2)
                    eventually(lambda calls=calls: here.queue.calls("poll") == calls)  # type: ignore[misc]
                    clock.until_waiting()

    def test_after_errors_it_waits_longer_and_longer(self, tmp_path: Path) -> None:
        with rig(tmp_path, clock=HastyClock()) as here:
            with works(here) as made:
                here.queue.before("poll", raising(AWAY))
                made.start_slots()
                made.poller.start()
                here.recorder.wait_for(PollFinished, 8)
                assert made.poller.last_error == str(AWAY)
                assert not made.poller.found_nothing_since(0)
            events = here.recorder.of(PollFinished)[:8]
        assert {event.outcome for event in events} == {"error"}
        assert {event.error for event in events} == {str(AWAY)}
        waits = [event.retry_in_s for event in events]
        assert all(
            min(0.5 * 2**n, 30) / 2 <= wait <= min(0.5 * 2**n, 30) for n, wait in enumerate(waits)
        )

    def test_an_error_is_forgotten_with_the_first_answer(self, here: Rig) -> None:
        here.queue.before("poll", raising(QueueRefused("not now")), nth=1)
        with works(here) as made:
            made.submit()
            made.start()
            here.recorder.wait_for(AttemptFinished)
            assert made.poller.last_error == ""
            assert made.poller.polled_at is not None
            assert here.recorder.of(PollFinished)[0].error == "not now"

    def test_stopping_ends_a_pause(self, tmp_path: Path) -> None:
        """On a clock that nobody moves."""
        clock = ManualClock()
        with rig(tmp_path, clock=clock) as here, works(here) as made:
            here.queue.before("poll", raising(AWAY))
            made.start_slots()
            made.poller.start()
            here.recorder.wait_for(PollFinished)
            clock.until_waiting()
            made.poller.stop()
            assert made.poller.join(PATIENCE_S)


class Generous(Faulty):
    """A server that sends more than was asked for."""

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        if name != "poll":
            return found
        return lambda task_type, **asked: found(task_type, **{**asked, "count": 9})


class Repeating(Faulty):
    """A server that delivers the same task twice in one answer."""

    def __init__(self, here: Rig) -> None:
        super().__init__(here.local_queue)
        self._here = here
        self.delivered: list[Lease] = []

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        if name != "poll":
            return found

        def poll(task_type: str, **asked: Any) -> list[Lease]:
            leases: list[Lease] = found(task_type, **asked)
            for lease in leases[:1]:
                self._here.local_queue.give_back(lease)
                leases += self._here.local_queue.poll(task_type, count=1, wait_s=0)
            self.delivered += leases
            return leases

        return poll


class TestDeliveries:
    def test_what_came_beyond_the_free_slots_is_given_back(self, here: Rig, held: Gate) -> None:
        here.queue = Generous(here.local_queue)
        with works(here) as made:
            for _ in range(3):
                made.submit(gate="gate")
            made.start()
            events = here.recorder.wait_for(GivenBack, 2)
            held.wait_begun()
            assert made.statuses() == ["IN_PROGRESS", "SCHEDULED", "SCHEDULED"]
            assert {event.why for event in events} == {"more tasks came than slots are free"}
            held.open.set()
            here.recorder.wait_for(AttemptFinished, 3)
        assert all(task.retry_count == 0 for task in here.local_queue.tasks())

    def test_a_task_that_came_twice_is_run_once(self, here: Rig) -> None:
        here.queue = repeating = Repeating(here)
        with works(here, slots=2) as made:
            made.submit()
            made.start()
            (event,) = here.recorder.wait_for(AttemptFinished)
            eventually(lambda: made.pool.busy == 0)
        first, second = repeating.delivered
        assert first.task_id == second.task_id
        assert event.lease == second
        assert made.statuses() == ["COMPLETED"]

    def test_a_task_that_comes_again_while_it_runs_goes_on(self, here: Rig, held: Gate) -> None:
        with works(here, slots=2) as made:
            made.submit(gate="gate")
            made.start()
            held.wait_begun()
            attempt = made.pool.slots[0].attempt
            assert attempt is not None
            here.local_queue.give_back(attempt.lease)
            eventually(lambda: attempt.lease.poll_count == 2)
            held.open.set()
            here.recorder.wait_for(AttemptFinished)
        assert made.statuses() == ["COMPLETED"]
        assert not held.begun.acquire(blocking=False)

    def test_a_task_that_comes_again_to_an_attempt_that_ends_is_given_back(
        self, here: Rig, held: Gate
    ) -> None:
        """The attempt knows that it lost its lease and reports nothing: somebody else has to."""
        with works(here, slots=1) as made:
            made.submit(gate="gate")
            made.heartbeats.start()
            made.start_slots()
            lease = here.poll(HELD)
            made.pool.take(lease)
            held.wait_begun()
            here.local_queue.give_back(lease)
            newer = here.poll(HELD)
            attempt = made.pool.slots[0].attempt
            assert attempt is not None
            attempt.keeper.beat(due=0)

            made.poller._hand_over([newer])

            (event,) = here.recorder.wait_for(GivenBack)
            assert event.why == "an earlier attempt still ends"
            assert here.task(lease.task_id).status == "SCHEDULED"


class TestEnding:
    """While there is more, a slot that only has to report counts as free."""

    def test_the_next_task_is_asked_for_while_one_is_reported(self, here: Rig) -> None:
        go_on = threading.Event()
        here.queue.before("complete", lambda: go_on.wait(PATIENCE_S), nth=2)
        with works(here) as made:
            for _ in range(4):
                made.submit()
            made.start()
            eventually(lambda: here.queue.calls("poll") == 3)
            assert here.queue.calls("complete") <= 2
            go_on.set()
            here.recorder.wait_for(AttemptFinished, 4)
        assert made.statuses() == ["COMPLETED"] * 4

    def test_a_task_whose_slot_does_not_become_free_is_given_back(
        self, here: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(waiting, "PATIENCE_S", 0.01)
        go_on = threading.Event()
        here.queue.before("complete", lambda: go_on.wait(PATIENCE_S), nth=1)
        with works(here) as made:
            for _ in range(2):
                made.submit()
            made.start()
            here.recorder.wait_for(GivenBack)
            assert (
                here.queue.calls("poll") == 2
            )  # once for each slot that ends, not again and again
            go_on.set()
            here.recorder.wait_for(AttemptFinished, 2)
        assert made.statuses() == ["COMPLETED"] * 2
        assert all(task.retry_count == 0 for task in here.local_queue.tasks())

    def test_an_empty_answer_meanwhile_does_not_end_the_backlog(self, here: Rig) -> None:
        """What the report brings on is then asked for at once and not waited for."""
        here.queue.before("complete", lambda: eventually(lambda: len(polls(here)) == 2), nth=1)
        with works(here) as made:
            made.submit()
            made.start()
            eventually(lambda: len(polls(here)) >= 4)
        assert [wait_s for _, wait_s in polls(here)[:4]] == [0.0, 0.0, 0.0, 0.1]


class TestStopping:
    def test_what_a_poll_in_flight_brings_is_given_back(self, here: Rig) -> None:
        with works(here) as made:
            made.submit()
            here.queue.after("poll", made.poller.stop, nth=1)
            made.start()
            assert made.poller.join(PATIENCE_S)
            (event,) = here.recorder.of(GivenBack)
            assert event.why == "the worker stops"
            assert made.statuses() == ["SCHEDULED"]
            assert here.local_queue.tasks()[0].retry_count == 0

    @pytest.mark.parametrize("refusals", [1, GIVE_BACK_TRIES])
    def test_giving_back_is_tried_again_and_its_failure_told(
        self, here: Rig, refusals: int
    ) -> None:
        for nth in range(1, refusals + 1):
            here.queue.before("give_back", raising(AWAY), nth=nth)
        with works(here) as made:
            made.submit()
            here.queue.after("poll", made.poller.stop, nth=1)
            made.start()
            assert made.poller.join(PATIENCE_S)
        (event,) = here.recorder.of(GivenBack)
        given_up = refusals == GIVE_BACK_TRIES
        assert event.error == (str(AWAY) if given_up else "")
        assert made.statuses() == ["IN_PROGRESS" if given_up else "SCHEDULED"]

    def test_a_task_is_not_given_back_twice(self, here: Rig) -> None:
        """The answer was lost, and another worker has the task by now."""

        def lose_the_answer() -> None:
            with closing(here.another_queue("another")) as queue:
                assert queue.poll(HELD.name, count=1, wait_s=0)
            raise AWAY

        here.queue.after("give_back", lose_the_answer, nth=1)
        with works(here) as made:
            made.submit()
            here.queue.after("poll", made.poller.stop, nth=1)
            made.start()
            assert made.poller.join(PATIENCE_S)
        assert here.local_queue.tasks()[0].worker_id == "another"
        assert here.local_queue.tasks()[0].status == "IN_PROGRESS"

    def test_a_poller_that_waits_for_a_slot_stops_at_once(self, tmp_path: Path) -> None:
        clock = ManualClock()
        with rig(tmp_path, clock=clock) as here, works(here) as made:
            made.poller.start()
            clock.until_waiting()
            made.poller.stop()
            assert made.poller.join(PATIENCE_S)
            assert polls(here) == []
