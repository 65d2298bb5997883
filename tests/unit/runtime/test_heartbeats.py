"""Heartbeats: at their interval, after errors, and for every lease whatever the others do."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from perago_worker.attempt.lease_keeper import LeaseKeeper
from perago_worker.attempt.stop import StopCause
from perago_worker.errors import QueueUnavailable
from perago_worker.events import HeartbeatSent
from perago_worker.models import Outcome
from perago_worker.runtime.heartbeats import SENDERS, Heartbeats
from tests.clocks import ManualClock
from tests.support import PATIENCE_S, Rig, eventually, raising, rig
from tests.unit.runtime.held import HELD

INTERVAL_S = 5
AWAY = QueueUnavailable("the queue is away")
DONE = Outcome(kind="completed", code="no_workspace", output={})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def here(tmp_path: Path, clock: ManualClock) -> Iterator[Rig]:
    with rig(tmp_path, clock=clock) as opened:
        yield opened


@pytest.fixture
def heartbeats(clock: ManualClock) -> Iterator[Heartbeats]:
    heartbeats = Heartbeats(clock=clock)
    heartbeats.start()
    clock.until_waiting()
    yield heartbeats
    heartbeats.stop()
    assert heartbeats.join(PATIENCE_S)


def keeper(here: Rig) -> LeaseKeeper:
    here.submit(HELD, params={})
    return here.keeper(here.poll(HELD))


def outcomes(here: Rig) -> list[str]:
    return [event.outcome for event in here.recorder.of(HeartbeatSent)]


class TestInterval:
    def test_one_is_sent_at_each_interval(
        self, here: Rig, heartbeats: Heartbeats, clock: ManualClock
    ) -> None:
        with heartbeats.watching(keeper(here)):
            for beats in (1, 2, 3):
                clock.advance(INTERVAL_S - 0.5)
                clock.until_waiting()
                assert len(outcomes(here)) == beats - 1
                clock.advance(0.5)
                here.recorder.wait_for(HeartbeatSent, beats)
        assert outcomes(here) == ["held"] * 3

    def test_a_lease_outlives_its_timeout_many_times(
        self, here: Rig, heartbeats: Heartbeats, clock: ManualClock
    ) -> None:
        kept = keeper(here)
        with heartbeats.watching(kept):
            for beats in range(1, 30):
                clock.advance(INTERVAL_S)
                here.recorder.wait_for(HeartbeatSent, beats)
            assert kept.remaining_s > 0
        assert set(outcomes(here)) == {"held"}

    def test_none_is_sent_when_the_attempt_is_over(
        self, here: Rig, heartbeats: Heartbeats, clock: ManualClock
    ) -> None:
        with heartbeats.watching(keeper(here)):
            pass

        clock.advance(10 * INTERVAL_S)
        clock.until_waiting()

        assert not here.queue.calls("observe")

    def test_none_is_sent_after_the_report(
        self, here: Rig, heartbeats: Heartbeats, clock: ManualClock
    ) -> None:
        kept = keeper(here)
        with heartbeats.watching(kept):
            kept.complete(DONE, request_timeout_s=5)
            for _ in range(5):
                clock.advance(INTERVAL_S)
                clock.until_waiting()

        assert here.queue.calls("observe") == here.queue.calls("extend") == 0

    def test_the_service_shows_that_it_lives_though_nothing_is_due(
        self, heartbeats: Heartbeats, clock: ManualClock
    ) -> None:
        for _ in range(3):
            clock.advance(2)
            eventually(lambda: heartbeats.silent_for_s() < 2)


class TestTrouble:
    def test_after_an_error_the_next_one_comes_soon(
        self, here: Rig, heartbeats: Heartbeats, clock: ManualClock
    ) -> None:
        """Sooner than the interval, so that a lost answer or two cost nothing."""
        here.queue.before("observe", raising(AWAY), nth=1)
        here.queue.before("extend", raising(AWAY), nth=1)
        with heartbeats.watching(keeper(here)):
            clock.advance(INTERVAL_S)
            here.recorder.wait_for(HeartbeatSent, 1)
            clock.advance(1)
            here.recorder.wait_for(HeartbeatSent, 2)
            clock.advance(2)
            here.recorder.wait_for(HeartbeatSent, 3)
        assert outcomes(here) == ["error", "error", "held"]

    def test_a_queue_that_stays_away_is_asked_at_most_at_the_interval(
        self, here: Rig, heartbeats: Heartbeats, clock: ManualClock
    ) -> None:
        here.queue.before("observe", raising(AWAY))
        with heartbeats.watching(keeper(here)):
            for beats in range(1, 8):
                clock.advance(INTERVAL_S)
                here.recorder.wait_for(HeartbeatSent, beats)
        assert set(outcomes(here)) == {"error"}

    def test_a_lost_lease_is_told_to_its_attempt_and_asked_about_no_more(
        self, here: Rig, heartbeats: Heartbeats, clock: ManualClock
    ) -> None:
        kept = keeper(here)
        here.local_queue.give_back(kept.lease)
        with heartbeats.watching(kept):
            clock.advance(INTERVAL_S)
            assert kept.stop.event.wait(PATIENCE_S)
            assert kept.stop.stop is not None
            assert kept.stop.stop.cause is StopCause.SUPERSEDED
            clock.advance(10 * INTERVAL_S)
            clock.until_waiting()
        assert outcomes(here) == ["lost"]

    def test_an_error_nobody_thought_of_is_not_the_last_heartbeat(
        self,
        here: Rig,
        heartbeats: Heartbeats,
        clock: ManualClock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        here.queue.before("observe", raising(ZeroDivisionError("a bug")), nth=1)
        with heartbeats.watching(keeper(here)), caplog.at_level(logging.ERROR):
            clock.advance(INTERVAL_S)
            eventually(lambda: "heartbeat failed" in caplog.text)
            clock.until_waiting()
            clock.advance(INTERVAL_S)
            here.recorder.wait_for(HeartbeatSent, 1)
        assert outcomes(here) == ["held"]
        assert "ZeroDivisionError: a bug" in caplog.text

    def test_while_the_attempt_writes_none_is_sent(
        self, here: Rig, heartbeats: Heartbeats, clock: ManualClock
    ) -> None:
        kept, reporting, go_on = keeper(here), threading.Event(), threading.Event()

        def hold() -> None:
            reporting.set()
            assert go_on.wait(PATIENCE_S)

        here.queue.before("complete", hold)
        report = threading.Thread(
            target=kept.complete, args=(DONE,), kwargs={"request_timeout_s": 5}
        )
        with heartbeats.watching(kept):
            report.start()
            assert reporting.wait(PATIENCE_S)
            for _ in range(3):
                clock.advance(INTERVAL_S)
                clock.until_waiting()
            go_on.set()
            report.join()
        assert not here.queue.calls("extend")


class TestMany:
    def test_an_answer_that_takes_its_time_does_not_hold_up_the_others(
        self, here: Rig, heartbeats: Heartbeats, clock: ManualClock
    ) -> None:
        go_on = threading.Event()
        for nth in range(1, SENDERS):
            here.queue.before("observe", lambda: go_on.wait(PATIENCE_S), nth=nth)
        with ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(heartbeats.watching(keeper(here)))
            clock.advance(INTERVAL_S)
            here.recorder.wait_for(HeartbeatSent, 10 - (SENDERS - 1))
            go_on.set()
            here.recorder.wait_for(HeartbeatSent, 10)
        assert len({event.lease.task_id for event in here.recorder.of(HeartbeatSent)}) == 10

    def test_one_that_is_on_its_way_is_not_sent_twice(
        self, here: Rig, heartbeats: Heartbeats, clock: ManualClock
    ) -> None:
        go_on = threading.Event()
        here.queue.before("observe", lambda: go_on.wait(PATIENCE_S), nth=1)
        with heartbeats.watching(keeper(here)):
            clock.advance(INTERVAL_S)
            eventually(lambda: here.queue.calls("observe") == 1)
            for _ in range(3):
                clock.advance(1)
                clock.until_waiting()
            assert here.queue.calls("observe") == 1
            go_on.set()
            here.recorder.wait_for(HeartbeatSent, 1)
