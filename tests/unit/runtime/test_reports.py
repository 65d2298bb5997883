"""Reports that are held back: for how many attempts, for how long, and none forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from perago_worker.attempt.pipeline import Ended, carry_out, conclude
from perago_worker.events import AttemptFinished, AttemptStarted, Event, HeartbeatSent, StepStarted
from perago_worker.models import Outcome
from perago_worker.runtime import reports
from perago_worker.runtime.reports import BLOCKED_S, HOLD_S, LATE_S, MAX_TOGETHER, Unreported
from tests.clocks import ManualClock
from tests.support import PATIENCE_S, Recorder, Rig, eventually, rig
from tests.unit.runtime.held import HELD, Gate, Works, gate, works

QUICK: dict[str, str] = {}
SLOW = {"gate": "gate"}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, no report is held back for too long."""
    for name in ("HOLD_S", "LATE_S"):
        monkeypatch.setattr(reports, name, 2 * PATIENCE_S)


def begin(made: Works, *orders: dict[str, str]) -> list[str]:
    """Have a quick attempt end when tasks wait behind it; return the ids of all."""
    with gate("first") as first:
        made.heartbeats.start()
        made.start_slots()
        ids = [made.submit(gate="first"), *(made.submit(**order) for order in orders)]
        leases = made.here.queue.as_queue().poll(HELD.name, count=len(ids), wait_s=0)
        assert made.pool.take(leases[0]) == "begun"
        first.wait_begun()
        for each in leases[1:]:
            assert made.pool.take(each, may_wait=True) == "waits"
    return ids


def bodies_and_reports(here: Rig) -> str:
    """Return the order of both, a letter for each."""
    steps = [event.step for event in here.recorder.of(StepStarted)]
    return "".join(step[0] for step in steps if step in {"body", "report"})


class TestAtWork:
    @pytest.mark.usefixtures("patient")
    def test_while_tasks_wait_their_bodies_come_first(self, here: Rig) -> None:
        with works(here, take_ahead_s=60) as made:
            ids = begin(made, *[QUICK] * 3)
            finished = here.recorder.wait_for(AttemptFinished, 4)
            eventually(lambda: made.pool.free == 1)
        assert bodies_and_reports(here) == "bbbbrrrr"
        assert [event.lease.task_id for event in finished] == ids
        assert made.statuses() == ["COMPLETED"] * 4

    @pytest.mark.usefixtures("patient")
    def test_no_more_than_one_poll_brings(self, here: Rig) -> None:
        with works(here, take_ahead_s=60) as made:
            begin(made, *[QUICK] * (MAX_TOGETHER + 1))
            here.recorder.wait_for(AttemptFinished, MAX_TOGETHER + 2)
        assert bodies_and_reports(here) == "b" * MAX_TOGETHER + "r" * MAX_TOGETHER + "bbrr"

    def test_none_where_nothing_is_taken_ahead(self, here: Rig) -> None:
        with works(here, take_ahead_s=0) as made:
            begin(made, *[QUICK] * 2)
            here.recorder.wait_for(AttemptFinished, 3)
        assert bodies_and_reports(here) == "brbrbr"

    def test_a_slow_body_does_not_keep_what_is_done_from_being_known(
        self, here: Rig, held: Gate
    ) -> None:
        with works(here, take_ahead_s=60) as made:
            quick, slow = begin(made, SLOW)
            held.wait_begun()
            eventually(lambda: here.task(quick).status == "COMPLETED")
            assert here.task(slow).status == "IN_PROGRESS"
            eventually(lambda: made.pool.running(quick) is None)

    @pytest.mark.usefixtures("patient")
    def test_until_it_is_reported_heartbeats_go_on(self, here: Rig, held: Gate) -> None:
        here.budget = type(here.budget)(merge_s=60, completion_s=5, heartbeat_s=0.01)
        with works(here, take_ahead_s=60) as made:
            quick, _ = begin(made, SLOW)
            held.wait_begun()

            def beats() -> int:
                return sum(e.lease.task_id == quick for e in here.recorder.of(HeartbeatSent))

            seen = beats()
            eventually(lambda: beats() > seen + 1)

    @pytest.mark.usefixtures("patient")
    def test_until_it_is_reported_an_attempt_is_found(self, here: Rig, held: Gate) -> None:
        """And stands for a newer delivery. No heartbeat is due, which could see it given back."""
        with works(here, take_ahead_s=60) as made:
            quick, _ = begin(made, SLOW)
            held.wait_begun()
            attempt = made.pool.running(quick)
            assert attempt is not None
            here.local_queue.give_back(attempt.lease)
            newer = here.poll(HELD)
            assert made.pool.take(newer) is attempt
            assert attempt.keeper.adopt(newer)
            held.open.set()
            finished = here.recorder.wait_for(AttemptFinished, 2)
        assert finished[0].lease == newer
        assert made.statuses() == ["COMPLETED"] * 2

    @pytest.mark.usefixtures("patient")
    def test_a_slot_that_is_stopped_reports_what_it_holds(self, here: Rig, held: Gate) -> None:
        with works(here, take_ahead_s=60) as made:
            begin(made, SLOW, QUICK)
            held.wait_begun()
            (slot,) = made.pool.slots
            slot.stop()
            held.open.set()
            assert slot.join(PATIENCE_S)
            assert made.statuses() == ["COMPLETED", "COMPLETED", "IN_PROGRESS"]
            assert not made.pool.busy


class FailingAtTheSecond(Recorder):
    """A listener that raises when the second attempt begins."""

    def on_event(self, event: Event) -> None:
        if isinstance(event, AttemptStarted) and self.of(AttemptStarted):
            raise ZeroDivisionError("a listener without a fan-out")
        super().on_event(event)


def test_what_a_slot_holds_whose_thread_fails_is_reported(tmp_path: Path) -> None:
    with rig(tmp_path, recorder=FailingAtTheSecond()) as here, works(here, take_ahead_s=60) as made:
        quick, lost = begin(made, QUICK)
        here.recorder.wait_for(AttemptFinished)
        (slot,) = made.pool.slots
        eventually(lambda: slot.failure is not None and not made.pool.busy)
        assert here.task(quick).status == "COMPLETED"
        assert here.task(lost).status == "IN_PROGRESS"


class FailingAtTheFirstEnd(Recorder):
    """A listener that raises when the first attempt has ended."""

    failures = 1

    def on_event(self, event: Event) -> None:
        if isinstance(event, AttemptFinished) and self.failures:
            self.failures -= 1
            raise ZeroDivisionError("a listener without a fan-out")
        super().on_event(event)


def test_the_thread_that_sends_late_ones_may_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "HOLD_S", 2 * PATIENCE_S)  # however slow the machine is
    recorder = FailingAtTheFirstEnd()
    with (
        gate() as held,
        rig(tmp_path, recorder=recorder) as here,
        works(here, take_ahead_s=60) as made,
    ):
        _, quick, slow = begin(made, QUICK, SLOW)
        held.wait_begun()
        (late,) = made.pool.helpers
        eventually(lambda: late.failure is not None)
        late.start()
        eventually(lambda: here.task(quick).status == "COMPLETED")
        assert here.task(slow).status == "IN_PROGRESS"


class TestUnreported:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def made(self, tmp_path: Path, clock: ManualClock) -> Iterator[Works]:
        with rig(tmp_path, clock=clock) as here, works(here) as made:
            made.submit()
            yield made

    def ended(self, made: Works) -> Ended:
        return carry_out(made.here.attempt(HELD, made.here.poll(HELD)))

    def test_another_attempt_may_begin_that_ends_in_time(
        self, made: Works, clock: ManualClock
    ) -> None:
        unreported = Unreported(clock)
        assert unreported.room_for(HOLD_S)
        assert not unreported.room_for(HOLD_S * 1.01)
        unreported.add(self.ended(made))
        assert unreported.room_for(HOLD_S * 0.9)
        clock.advance(HOLD_S * 0.6)
        assert unreported.room_for(HOLD_S * 0.3)
        assert not unreported.room_for(HOLD_S * 0.5)
        clock.advance(HOLD_S * 0.6)
        assert not unreported.room_for(0)

    def test_only_what_is_late_is_sent_by_others(self, made: Works, clock: ManualClock) -> None:
        unreported = Unreported(clock)
        unreported.add(self.ended(made))
        clock.advance(LATE_S * 0.9)
        unreported.report_late()
        assert unreported
        clock.advance(LATE_S * 0.2)
        unreported.report_late()
        assert not unreported
        assert made.statuses() == ["COMPLETED"]

    def test_a_slot_at_its_reports_is_left_alone_unless_one_takes_long(
        self, made: Works, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made.submit()
        made.submit()
        unreported = Unreported(clock)
        every = [self.ended(made) for _ in range(3)]
        for ended in every:
            unreported.add(ended)
        begun: list[Ended] = []

        def slowly(ended: Ended) -> Outcome:
            begun.append(ended)
            if ended is not every[-1]:
                clock.advance(0.9 * BLOCKED_S)
                unreported.report_late()
                assert begun[-1] is ended
            if ended is every[1]:
                clock.advance(0.2 * BLOCKED_S)
                unreported.report_late()
                assert begun == every
            return conclude(ended)

        monkeypatch.setattr(reports, "conclude", slowly)
        unreported.report_all()
        assert not unreported
        assert made.statuses() == ["COMPLETED"] * 3

    def test_a_result_is_not_reported_for_a_task_that_has_begun_anew(
        self, made: Works, clock: ManualClock
    ) -> None:
        unreported = Unreported(clock)
        ended = self.ended(made)
        unreported.add(ended)
        lease = ended.attempt.lease
        rerun = lease.model_copy(update={"start_time_ms": lease.start_time_ms + 1})
        assert not ended.attempt.keeper.adopt(rerun)
        unreported.report_all()
        (event,) = made.here.recorder.of(AttemptFinished)
        assert (event.outcome.kind, event.reported) == ("superseded", False)
        assert made.statuses() == ["IN_PROGRESS"]
