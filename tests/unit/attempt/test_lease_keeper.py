"""One lease: heartbeats, confirmation before publishing, and the one report at its end."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from perago_worker.attempt.codes import Code
from perago_worker.attempt.lease_keeper import (
    GIVE_BACK_TRIES,
    MARGIN_SHARE,
    SETTLE_S,
    KeeperTimes,
    LeaseKeeper,
)
from perago_worker.attempt.stop import StopCause
from perago_worker.errors import (
    AttemptAbandoned,
    QueueRefused,
    QueueUnavailable,
    RetryableAttemptError,
)
from perago_worker.events import GivenBack, HeartbeatSent
from perago_worker.models import Held, Lease, Lost, Outcome
from perago_worker.task import TaskDefinition
from tests.support import HastyClock, Rig, raising, rig
from tests.tasks.probe import plain

PLAIN = TaskDefinition.of(plain)
DONE = Outcome(kind="completed", code="no_workspace", output={"result": {}})
AWAY = QueueUnavailable("the queue is away")
REFUSED = QueueRefused("the queue does not want it")
TIMEOUT_S = PLAIN.controls.timeout.response_seconds


class SteadyClock(HastyClock):
    """Stands still but for the waits, which are skipped."""

    def now(self) -> float:
        return self._skipped + 1000.0

    def advance(self, seconds: float) -> None:
        self._skipped += seconds


@pytest.fixture
def clock() -> SteadyClock:
    return SteadyClock()


@pytest.fixture
def here(tmp_path: Path, clock: SteadyClock) -> Iterator[Rig]:
    with rig(tmp_path, clock=clock) as opened:
        opened.submit(PLAIN)
        yield opened


@pytest.fixture
def lease(here: Rig) -> Lease:
    return here.poll(PLAIN)


@pytest.fixture
def keeper(here: Rig, lease: Lease) -> LeaseKeeper:
    return here.keeper(lease)


def redeliver(here: Rig, lease: Lease, *, to: str = "") -> Lease:
    """Put the task back and take it again, as another worker or as this one."""
    here.local_queue.give_back(lease)
    if not to:
        return here.poll(PLAIN)
    with closing(here.another_queue(to)) as queue:
        (newer,) = queue.poll(PLAIN.name, count=1, wait_s=0)
        return newer


class TestTimes:
    @pytest.mark.parametrize(
        ("asked_s", "timeout_s", "interval_s"), [(15, 60, 15), (60, 60, 20), (15, 3, 1)]
    )
    def test_at_least_three_heartbeats_fit_into_a_lease(
        self, lease: Lease, asked_s: float, timeout_s: float, interval_s: float
    ) -> None:
        short = lease.model_copy(update={"response_timeout_s": timeout_s})

        times = KeeperTimes.of(short, heartbeat_interval_s=asked_s)

        assert times.interval == interval_s
        assert times.lease == timeout_s * (1 - MARGIN_SHARE)

    def test_a_lease_counts_from_the_poll(self, keeper: LeaseKeeper, lease: Lease) -> None:
        assert keeper.next_beat_at == lease.granted_at + keeper.times.interval
        assert keeper.remaining_s == pytest.approx(TIMEOUT_S * 0.9, abs=0.01)

    def test_it_counts_from_the_sending_of_the_last_good_heartbeat(
        self, here: Rig, keeper: LeaseKeeper, clock: SteadyClock
    ) -> None:
        """The answer took ten seconds: they are not ours."""
        clock.advance(5)
        here.queue.after("observe", lambda: clock.advance(10), nth=1)

        assert keeper.beat(due=clock.now()) == "held"

        assert keeper.remaining_s == pytest.approx(TIMEOUT_S * 0.9 - 10, abs=0.01)

    def test_a_heartbeat_that_learnt_nothing_prolongs_nothing(
        self, here: Rig, keeper: LeaseKeeper, clock: SteadyClock
    ) -> None:
        clock.advance(20)
        here.queue.before("extend", raising(AWAY))

        keeper.beat(due=clock.now())

        assert keeper.remaining_s == pytest.approx(TIMEOUT_S * 0.9 - 20, abs=0.01)


class TestBeat:
    def test_a_held_lease_is_extended(self, here: Rig, keeper: LeaseKeeper) -> None:
        assert keeper.beat(due=here.clock.now() - 2) == "held"

        assert here.queue.calls("extend") == 1
        (event,) = here.recorder.of(HeartbeatSent)
        assert (event.outcome, event.delay_s) == ("held", 2.0)

    def test_a_task_that_another_worker_has_is_lost(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease
    ) -> None:
        redeliver(here, lease, to="another")

        assert keeper.beat(due=0) == "lost"
        assert keeper.stop.stop is not None
        assert keeper.stop.stop.cause is StopCause.SUPERSEDED
        assert here.queue.calls("extend") == 0

    def test_a_task_that_was_delivered_here_again_is_lost_to_its_first_delivery(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease
    ) -> None:
        """The same task id, retry count and worker: the poll count tells them apart."""
        newer = redeliver(here, lease)
        assert (newer.task_id, newer.worker_id) == (lease.task_id, lease.worker_id)

        assert keeper.beat(due=0) == "lost"

    def test_a_task_whose_workflow_ended_is_cancelled(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease
    ) -> None:
        here.local_queue.terminate_workflow(lease.workflow_id, "an operator said so")

        assert keeper.beat(due=0) == "lost"
        assert keeper.stop.stop is not None
        assert keeper.stop.stop.cause is StopCause.CANCELLED

    @pytest.mark.parametrize("method", ["observe", "extend"])
    @pytest.mark.parametrize("error", [AWAY, REFUSED])
    def test_without_an_answer_the_attempt_goes_on(
        self, here: Rig, keeper: LeaseKeeper, method: str, error: Exception
    ) -> None:
        here.queue.before(method, raising(error))

        assert keeper.beat(due=0) == "error"
        assert keeper.stop.stop is None
        assert here.recorder.of(HeartbeatSent)[0].detail == str(error)

    def test_a_lost_lease_is_not_asked_about_again(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease
    ) -> None:
        redeliver(here, lease, to="another")
        keeper.beat(due=0)

        assert keeper.beat(due=0) == "over"
        assert here.queue.calls("observe") == 1

    def test_none_is_sent_while_the_report_is(self, here: Rig, keeper: LeaseKeeper) -> None:
        results: list[str] = []
        here.queue.before("complete", lambda: results.append(keeper.beat(due=0)))

        keeper.complete(DONE, request_timeout_s=5)

        assert results == ["busy"]
        assert keeper.beat(due=0) == "over"
        assert here.queue.calls("extend") == 0

    def test_the_report_waits_for_one_that_is_on_its_way(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease
    ) -> None:
        """On Conductor an extension that overlaps the report would undo it."""
        extending, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            extending.set()
            assert go_on.wait(30)

        here.queue.before("extend", hold, nth=1)
        with ThreadPoolExecutor(2) as pool:
            beat = pool.submit(keeper.beat, due=0)
            assert extending.wait(30)
            report = pool.submit(keeper.complete, DONE, request_timeout_s=5)
            assert here.queue.calls("complete") == 0
            go_on.set()
            assert beat.result() == "held"
            assert report.result()
        assert here.task(lease.task_id).status == "COMPLETED"


class TestConfirm:
    def test_a_held_lease_is_confirmed_and_extended(
        self, here: Rig, keeper: LeaseKeeper, clock: SteadyClock
    ) -> None:
        due = keeper.next_beat_at
        clock.advance(1)

        keeper.confirm()

        assert here.queue.calls("observe") == here.queue.calls("extend") == 1
        assert here.recorder.of(HeartbeatSent) == [HeartbeatSent(keeper.lease, "held", None)]
        assert keeper.next_beat_at > due

    def test_a_lost_lease_abandons_the_attempt(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease
    ) -> None:
        redeliver(here, lease, to="another")

        for _ in range(2):
            with pytest.raises(AttemptAbandoned) as raised:
                keeper.confirm()
            assert raised.value.code == Code.SUPERSEDED
        assert {event.outcome for event in here.recorder.of(HeartbeatSent)} == {"lost"}

    def test_a_lost_lease_counts_more_than_an_earlier_order_to_stop(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease
    ) -> None:
        keeper.stop.trip(StopCause.DRAINED, "the worker stops")
        here.local_queue.terminate_workflow(lease.workflow_id, "an operator said so")

        with pytest.raises(AttemptAbandoned) as raised:
            keeper.confirm()
        assert raised.value.code == Code.CANCELLED

    @pytest.mark.parametrize("method", ["observe", "extend"])
    @pytest.mark.parametrize("error", [AWAY, REFUSED])
    def test_where_nothing_was_learnt_nothing_may_be_published(
        self, here: Rig, keeper: LeaseKeeper, method: str, error: Exception
    ) -> None:
        here.queue.before(method, raising(error))

        with pytest.raises(RetryableAttemptError) as raised:
            keeper.confirm()
        assert raised.value.code == Code.LEASE_UNCONFIRMED
        assert str(error) in raised.value.reason
        (event,) = here.recorder.of(HeartbeatSent)
        assert (event.outcome, event.delay_s, event.detail) == ("error", None, str(error))


class TestComplete:
    def test_it_is_reported_once(self, here: Rig, keeper: LeaseKeeper, lease: Lease) -> None:
        assert keeper.complete(DONE, request_timeout_s=5)
        assert not keeper.complete(DONE, request_timeout_s=5)

        assert here.queue.calls("complete") == 1
        assert here.queue.calls("observe") == 0
        assert here.task(lease.task_id).status == "COMPLETED"

    @pytest.mark.parametrize("fault", ["before", "after"])
    def test_it_is_tried_while_the_queue_is_away(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease, fault: str
    ) -> None:
        """Whether the first tries had their effect or not."""
        put: Callable[..., None] = getattr(here.queue, fault)
        for nth in (1, 2):
            put("complete", raising(AWAY), nth=nth)

        assert keeper.complete(DONE, request_timeout_s=5)

        assert here.queue.calls("complete") == 3
        assert here.task(lease.task_id).status == "COMPLETED"

    def test_it_is_given_up_in_the_end(self, here: Rig, keeper: LeaseKeeper) -> None:
        here.queue.before("complete", raising(AWAY))

        assert not keeper.complete(DONE, request_timeout_s=5)
        assert here.clock.now() > 1600

    def test_it_is_given_up_when_the_worker_must_end(self, here: Rig, keeper: LeaseKeeper) -> None:
        here.shut_down.set()
        here.queue.before("complete", raising(AWAY))

        assert not keeper.complete(DONE, request_timeout_s=5)
        assert here.queue.calls("complete") == 1

    def test_a_refused_report_leaves_room_for_another(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease
    ) -> None:
        here.queue.before("complete", raising(REFUSED), nth=1)

        with pytest.raises(QueueRefused):
            keeper.complete(DONE, request_timeout_s=5)
        other = Outcome(kind="terminal", code="report_refused", reason="too large")
        assert keeper.complete(other, request_timeout_s=5)
        assert here.task(lease.task_id).status == "FAILED_WITH_TERMINAL_ERROR"

    @pytest.mark.parametrize("undone", [1, 2])
    def test_a_report_that_a_late_heartbeat_undid_is_sent_again(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease, undone: int
    ) -> None:
        """The answer to a heartbeat was lost, and it lands on the server after the report."""
        here.queue.before("extend", raising(AWAY), nth=1)
        keeper.beat(due=0)
        row = Row(here, lease)
        for nth in range(1, undone + 1):
            here.queue.after("complete", row.restore, nth=nth)

        assert keeper.complete(DONE, request_timeout_s=5)

        assert here.queue.calls("complete") == undone + 1
        assert here.task(lease.task_id).status == "COMPLETED"
        assert here.queue.calls("extend") == 1

    @pytest.mark.parametrize(("later_s", "looks"), [(SETTLE_S, 0), (SETTLE_S / 2, 1)])
    def test_it_is_not_read_back_once_an_unclear_heartbeat_has_settled(
        self, here: Rig, keeper: LeaseKeeper, clock: SteadyClock, later_s: float, looks: int
    ) -> None:
        """One lost answer in hours is no reason to look after every later report."""
        here.queue.before("extend", raising(AWAY), nth=1)
        keeper.beat(due=0)
        clock.advance(later_s)
        assert keeper.beat(due=0) == "held"
        before = here.queue.calls("observe")

        assert keeper.complete(DONE, request_timeout_s=5)

        assert here.queue.calls("observe") - before == looks

    @pytest.mark.parametrize("error", [AWAY, REFUSED])
    def test_reading_it_back_may_fail(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease, error: Exception
    ) -> None:
        """The report was answered; a refusal while it is looked at again changes nothing."""
        here.queue.after("complete", raising(AWAY), nth=1)
        here.queue.before("observe", raising(error))

        assert keeper.complete(DONE, request_timeout_s=5)
        assert here.task(lease.task_id).status == "COMPLETED"

    def test_a_lost_lease_reports_nothing(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease
    ) -> None:
        redeliver(here, lease, to="another")
        keeper.beat(due=0)

        assert not keeper.complete(DONE, request_timeout_s=5)
        assert here.task(lease.task_id).status == "IN_PROGRESS"

    def test_an_abandoned_attempt_sends_nothing(self, here: Rig, keeper: LeaseKeeper) -> None:
        keeper.abandon()

        assert not keeper.complete(DONE, request_timeout_s=5)
        assert not keeper.give_back(after_s=0, why="drained")
        assert keeper.beat(due=0) == "over"
        assert not here.queue.calls("complete")
        assert not here.queue.calls("give_back")


class Row:
    """A task's record as it was, to be put back as a late write on the server does."""

    def __init__(self, here: Rig, lease: Lease) -> None:
        self._path = here.root / "queue.db"
        self._id = lease.task_id
        with closing(sqlite3.connect(self._path)) as db:
            db.row_factory = sqlite3.Row
            (row,) = db.execute("SELECT * FROM task WHERE id = ?", (self._id,)).fetchall()
            self._values: dict[str, Any] = dict(row)

    def restore(self) -> None:
        fields = ", ".join(f"{name} = :{name}" for name in self._values)
        with closing(sqlite3.connect(self._path)) as db, db:
            db.execute(f"UPDATE task SET {fields} WHERE id = :id", self._values)  # noqa: S608


class TestGiveBack:
    def test_the_task_is_anyones(self, here: Rig, keeper: LeaseKeeper, lease: Lease) -> None:
        assert keeper.give_back(after_s=0, why="drained")

        again = here.poll(PLAIN)
        assert (again.task_id, again.retry_count) == (lease.task_id, lease.retry_count)
        assert here.recorder.of(GivenBack) == [GivenBack(lease, "drained", "")]
        assert not keeper.give_back(after_s=0, why="drained")

    def test_it_is_tried_again_while_the_queue_is_away(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease
    ) -> None:
        here.queue.before("give_back", raising(AWAY), nth=1)
        here.queue.before("give_back", raising(AWAY), nth=2)

        assert keeper.give_back(after_s=0, why="drained")
        assert here.task(lease.task_id).status == "SCHEDULED"

    def test_it_is_given_up_after_a_few_tries(self, here: Rig, keeper: LeaseKeeper) -> None:
        here.queue.before("give_back", raising(AWAY))

        assert not keeper.give_back(after_s=0, why="drained")
        assert here.queue.calls("give_back") == GIVE_BACK_TRIES
        assert here.recorder.of(GivenBack)[0].error == str(AWAY)

    def test_a_refusal_is_final(self, here: Rig, keeper: LeaseKeeper) -> None:
        here.queue.before("give_back", raising(REFUSED))

        assert not keeper.give_back(after_s=0, why="drained")
        assert here.queue.calls("give_back") == 1
        assert here.recorder.of(GivenBack)[0].error == str(REFUSED)

    def test_it_is_not_taken_from_whoever_has_it_by_now(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease
    ) -> None:
        """The answer was lost, and before the second try another worker took the task."""

        def lose_answer() -> None:
            with closing(here.another_queue("another")) as queue:
                queue.poll(PLAIN.name, count=1, wait_s=0)
            raise AWAY

        here.queue.after("give_back", lose_answer, nth=1)

        assert keeper.give_back(after_s=0, why="drained")
        task = here.task(lease.task_id)
        assert (task.status, task.worker_id) == ("IN_PROGRESS", "another")


class TestAdopt:
    def test_a_newer_delivery_is_what_is_kept_and_reported(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease
    ) -> None:
        newer = redeliver(here, lease)

        assert keeper.adopt(newer)

        assert keeper.lease == newer
        assert keeper.beat(due=0) == "held"
        keeper.confirm()
        assert keeper.complete(DONE, request_timeout_s=5)
        assert here.task(lease.task_id).status == "COMPLETED"

    def test_an_older_delivery_that_comes_late_changes_nothing(
        self, here: Rig, lease: Lease
    ) -> None:
        newer = redeliver(here, lease)
        keeper = here.keeper(newer)

        assert keeper.adopt(lease)
        assert keeper.lease == newer

    def test_one_that_comes_while_the_old_one_is_being_asked_about_is_adopted(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease
    ) -> None:
        """The answer says that the old delivery is lost, which is no news by then."""
        newer = redeliver(here, lease)
        here.queue.after("observe", lambda: keeper.adopt(newer), nth=1)

        assert keeper.beat(due=0) == "held"
        assert keeper.stop.stop is None
        assert here.queue.calls("observe") == 2

    def test_a_lost_attempt_cannot_stand_for_it(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease
    ) -> None:
        newer = redeliver(here, lease)
        keeper.beat(due=0)

        assert not keeper.adopt(newer)
        assert isinstance(here.local_queue.observe(newer), Held)

    @pytest.mark.parametrize(
        "changed",
        [{"start_time_ms": 2**42}, {"input": {"params": {"do": "fail"}}}, {"retry_count": 1}],
    )
    def test_a_rerun_is_not_adopted_and_ends_the_attempt(
        self, keeper: LeaseKeeper, lease: Lease, changed: dict[str, object]
    ) -> None:
        """The same task id, but somebody wants the work done anew, maybe with another input."""
        rerun = lease.model_copy(update={"poll_count": 2, **changed})

        assert not keeper.adopt(rerun)
        assert keeper.stop.stop is not None
        assert keeper.stop.stop.cause is StopCause.SUPERSEDED

    def test_the_poller_does_not_wait_for_a_report(
        self, here: Rig, keeper: LeaseKeeper, lease: Lease
    ) -> None:
        newer = redeliver(here, lease)
        here.queue.before("complete", lambda: keeper.adopt(newer))

        assert keeper.complete(DONE, request_timeout_s=5)
        assert isinstance(here.local_queue.observe(newer), Lost)
