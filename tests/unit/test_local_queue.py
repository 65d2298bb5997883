"""The embedded queue where it goes beyond the port: its rules, its file, its many users."""

from __future__ import annotations

import math
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from perago_worker.adapters.local.queue import LocalQueue
from perago_worker.adapters.local.queue_records import Rules, TaskRecord
from perago_worker.adapters.local.queue_schema import APPLICATION_ID, SCHEMA_VERSION
from perago_worker.adapters.local.queue_timeouts import retry_delay_ms
from perago_worker.adapters.local.queue_watch import Watch
from perago_worker.adapters.system import SystemClock
from perago_worker.errors import QueueRefused, QueueUnavailable
from perago_worker.models import Held, Lease, Lost, Outcome
from tests.clocks import ManualClock

TASK = "unit.task"
DONE = Outcome(kind="completed", code="no_workspace", output={})
FAILED = Outcome(kind="failed", code="task-failed", reason="it broke", log=("traceback",))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def open_queue(path: Path, clock: ManualClock) -> Iterator[Callable[[str], LocalQueue]]:
    queues: list[LocalQueue] = []

    def open_one(worker_id: str) -> LocalQueue:
        queues.append(LocalQueue(path, clock=clock, worker_id=worker_id))
        return queues[-1]

    yield open_one
    for queue in queues:
        queue.close()


@pytest.fixture
def queue(open_queue: Callable[[str], LocalQueue]) -> LocalQueue:
    return open_queue("worker")


def define(queue: LocalQueue, **fields: Any) -> None:
    """Register `TASK`: retried at once and taken back after a minute, unless `fields` differ."""
    defaults = {"retryDelaySeconds": 0, "responseTimeoutSeconds": 60, "timeoutPolicy": "RETRY"}
    queue.register_taskdef({**defaults, **fields, "name": TASK})


def take(queue: LocalQueue) -> Lease:
    (lease,) = queue.poll(TASK, count=1, wait_s=0)
    return lease


def attempts(queue: LocalQueue) -> list[TaskRecord]:
    return queue.tasks()[::-1]


def statuses(queue: LocalQueue) -> list[str]:
    return [record.status for record in attempts(queue)]


class TestBackoff:
    @pytest.mark.parametrize(
        ("fields", "delays_s"),
        [
            ({}, [60, 60, 60]),
            ({"retryLogic": "FIXED", "retryDelaySeconds": 5}, [5, 5, 5, 5]),
            ({"retryLogic": "FIXED", "retryDelaySeconds": 5, "maxRetryDelaySeconds": 3}, [3, 3]),
            ({"retryLogic": "LINEAR_BACKOFF", "retryDelaySeconds": 5}, [5, 10, 15, 20]),
            (
                {"retryLogic": "LINEAR_BACKOFF", "retryDelaySeconds": 5, "backoffScaleFactor": 3},
                [15, 30, 45],
            ),
            (
                {
                    "retryLogic": "LINEAR_BACKOFF",
                    "retryDelaySeconds": 5,
                    "maxRetryDelaySeconds": 12,
                },
                [5, 10, 12, 12],
            ),
            ({"retryLogic": "EXPONENTIAL_BACKOFF", "retryDelaySeconds": 1}, [1, 2, 4, 8, 16]),
            (
                {
                    "retryLogic": "EXPONENTIAL_BACKOFF",
                    "retryDelaySeconds": 1,
                    "maxRetryDelaySeconds": 3,
                },
                [1, 2, 3, 3, 3],
            ),
            ({"retryLogic": "EXPONENTIAL_BACKOFF", "retryDelaySeconds": 0}, [0, 0, 0]),
        ],
    )
    def test_delays(self, fields: dict[str, Any], delays_s: list[int]) -> None:
        rules = Rules.check({"name": TASK, **fields})

        assert [
            retry_delay_ms(rules, retry, jitter=1) / 1000 for retry in range(len(delays_s))
        ] == delays_s

    def test_jitter_is_added_to_the_capped_delay(self) -> None:
        rules = Rules.check(
            {
                "name": TASK,
                "retryDelaySeconds": 5,
                "maxRetryDelaySeconds": 3,
                "backoffJitterMs": 800,
            }
        )

        assert retry_delay_ms(rules, 0, jitter=0) == 3000
        assert retry_delay_ms(rules, 0, jitter=0.5) == 3400
        assert retry_delay_ms(rules, 0, jitter=1) == 3800

    def test_a_retry_is_delivered_exactly_when_its_delay_is_over(
        self, queue: LocalQueue, clock: ManualClock
    ) -> None:
        define(queue, retryLogic="EXPONENTIAL_BACKOFF", retryDelaySeconds=2)
        queue.submit(TASK, {})
        for delay_s in (2, 4, 8):
            queue.complete(take(queue), FAILED)
            clock.advance(delay_s - 0.001)
            assert queue.poll(TASK, count=1, wait_s=0) == []
            clock.advance(0.001)
        assert take(queue).retry_count == 3


class TestPollTimeout:
    def test_makes_a_retry(self, queue: LocalQueue, clock: ManualClock) -> None:
        define(queue, pollTimeoutSeconds=10)
        queue.submit(TASK, {})
        clock.advance(9.999)
        assert statuses(queue) == ["SCHEDULED"]
        clock.advance(0.001)

        assert statuses(queue) == ["TIMED_OUT", "SCHEDULED"]
        assert take(queue).retry_count == 1

    def test_ends_the_workflow(self, queue: LocalQueue, clock: ManualClock) -> None:
        define(queue, pollTimeoutSeconds=10, timeoutPolicy="TIME_OUT_WF")
        queue.submit(TASK, {})
        clock.advance(10)

        (record,) = attempts(queue)
        assert (record.status, record.workflow_status) == ("TIMED_OUT", "TIMED_OUT")
        assert queue.poll(TASK, count=1, wait_s=0) == []

    def test_only_alerts(self, queue: LocalQueue, clock: ManualClock) -> None:
        define(queue, pollTimeoutSeconds=10, timeoutPolicy="ALERT_ONLY")
        queue.submit(TASK, {})
        clock.advance(1000)

        assert take(queue).retry_count == 0

    def test_does_not_count_the_delay_of_a_retry(
        self, queue: LocalQueue, clock: ManualClock
    ) -> None:
        define(queue, pollTimeoutSeconds=10, retryDelaySeconds=100)
        queue.submit(TASK, {})
        queue.complete(take(queue), FAILED)
        clock.advance(109.999)
        assert statuses(queue) == ["FAILED", "SCHEDULED"]
        clock.advance(0.001)
        assert statuses(queue) == ["FAILED", "TIMED_OUT", "SCHEDULED"]

    def test_ends_with_the_delivery(self, queue: LocalQueue, clock: ManualClock) -> None:
        define(queue, pollTimeoutSeconds=10)
        queue.submit(TASK, {})
        clock.advance(9)
        lease = take(queue)
        clock.advance(9)

        assert queue.observe(lease) == Held()

    @pytest.mark.parametrize("held_s", [0, 5, 50])
    @pytest.mark.parametrize("after_s", [0, 20])
    def test_starts_anew_when_given_back(
        self, queue: LocalQueue, clock: ManualClock, held_s: float, after_s: float
    ) -> None:
        """A give-back uses no retry, however long the task was held before it."""
        define(queue, pollTimeoutSeconds=10)
        queue.submit(TASK, {})
        lease = take(queue)
        clock.advance(held_s)
        queue.give_back(lease, after_s=after_s)
        clock.advance(after_s + 9.999)
        assert statuses(queue) == ["SCHEDULED"]
        clock.advance(0.001)
        assert statuses(queue) == ["TIMED_OUT", "SCHEDULED"]


class TestTimeout:
    def test_counts_from_the_start_through_extensions_and_give_backs(
        self, queue: LocalQueue, clock: ManualClock
    ) -> None:
        define(queue, timeoutSeconds=100)
        queue.submit(TASK, {})
        clock.advance(500)
        lease = take(queue)
        clock.advance(50)
        queue.extend(lease)
        clock.advance(40)
        queue.give_back(lease)
        clock.advance(5)
        again = take(queue)
        clock.advance(4.999)
        assert queue.observe(again) == Held()
        clock.advance(0.001)

        assert queue.observe(again).model_dump()["why"] == "superseded"
        assert statuses(queue) == ["TIMED_OUT", "SCHEDULED"]

    def test_is_over_while_the_task_waits_again(
        self, queue: LocalQueue, clock: ManualClock
    ) -> None:
        define(queue, timeoutSeconds=100)
        queue.submit(TASK, {})
        queue.give_back(take(queue), after_s=500)
        clock.advance(100)

        assert statuses(queue) == ["TIMED_OUT", "SCHEDULED"]

    def test_ends_the_workflow(self, queue: LocalQueue, clock: ManualClock) -> None:
        define(queue, timeoutSeconds=100, timeoutPolicy="TIME_OUT_WF")
        queue.submit(TASK, {})
        lease = take(queue)
        for _ in range(4):
            clock.advance(25)
            queue.extend(lease)

        assert isinstance(lost := queue.observe(lease), Lost)
        assert lost.why == "cancelled"
        assert attempts(queue)[0].workflow_status == "TIMED_OUT"

    def test_only_alerts(self, queue: LocalQueue, clock: ManualClock) -> None:
        define(queue, timeoutSeconds=100, timeoutPolicy="ALERT_ONLY")
        queue.submit(TASK, {})
        lease = take(queue)
        for _ in range(10):
            clock.advance(25)
            queue.extend(lease)

        assert queue.observe(lease) == Held()


class TestTotalTimeout:
    def test_stops_retries(self, queue: LocalQueue, clock: ManualClock) -> None:
        define(queue, totalTimeoutSeconds=100, timeoutPolicy="ALERT_ONLY")
        queue.submit(TASK, {})
        queue.complete(take(queue), FAILED)
        clock.advance(40)
        lease = take(queue)
        clock.advance(59)
        queue.extend(lease)
        clock.advance(1)
        queue.complete(lease, FAILED)

        assert statuses(queue) == ["FAILED", "FAILED"]
        assert attempts(queue)[-1].workflow_status == "FAILED"

    def test_ends_an_attempt_that_runs(self, queue: LocalQueue, clock: ManualClock) -> None:
        define(queue, totalTimeoutSeconds=100)
        queue.submit(TASK, {})
        queue.complete(take(queue), FAILED)
        clock.advance(70)
        lease = take(queue)
        clock.advance(29.999)
        assert queue.observe(lease) == Held()
        clock.advance(0.001)

        assert isinstance(lost := queue.observe(lease), Lost)
        assert lost.why == "cancelled"
        assert statuses(queue) == ["FAILED", "TIMED_OUT"]
        assert attempts(queue)[-1].workflow_status == "TIMED_OUT"


class TestExpiry:
    def test_takes_effect_when_it_was_due(self, queue: LocalQueue, clock: ManualClock) -> None:
        """When nobody looked for long, all that should have happened has happened on time."""
        define(queue, pollTimeoutSeconds=10, retryDelaySeconds=5, retryCount=2)
        queue.submit(TASK, {})
        start_ms = int(clock.time() * 1000)
        take(queue)
        clock.advance(10_000)

        records = attempts(queue)
        assert [record.status for record in records] == ["TIMED_OUT"] * 3
        # A minute without a response; then twice: five seconds of delay, ten in the queue.
        assert [record.end_time_ms - start_ms for record in records] == [60_000, 75_000, 90_000]
        assert [record.scheduled_time_ms - start_ms for record in records] == [0, 60_000, 75_000]
        assert records[-1].workflow_status == "TIMED_OUT"
        assert queue.idle([TASK])

    def test_is_exact_for_the_holder(self, queue: LocalQueue, clock: ManualClock) -> None:
        define(queue)
        queue.submit(TASK, {})
        lease = take(queue)
        clock.advance(59.999)
        assert queue.observe(lease) == Held()
        queue.extend(lease)
        clock.advance(59.999)
        assert queue.observe(lease) == Held()
        clock.advance(0.001)
        queue.extend(lease)  # too late: it revives nothing

        assert isinstance(queue.observe(lease), Lost)

    def test_frees_the_concurrent_limit(self, queue: LocalQueue, clock: ManualClock) -> None:
        define(queue, concurrentExecLimit=2, retryCount=0)
        for _ in range(5):
            queue.submit(TASK, {})
        assert len(queue.poll(TASK, count=5, wait_s=0)) == 2
        assert queue.poll(TASK, count=5, wait_s=0) == []
        clock.advance(60)
        first, second = queue.poll(TASK, count=5, wait_s=0)
        queue.complete(first, DONE)
        queue.give_back(second, after_s=1)

        assert len(queue.poll(TASK, count=5, wait_s=0)) == 1


class TestLongPoll:
    @pytest.fixture
    def pool(self) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor(5) as pool:
            yield pool

    def test_wakes_when_another_connection_writes(
        self,
        open_queue: Callable[[str], LocalQueue],
        clock: ManualClock,
        pool: ThreadPoolExecutor,
    ) -> None:
        queue, other = open_queue("one"), open_queue("two")
        define(queue)
        poll = pool.submit(queue.poll, TASK, count=1, wait_s=5)
        clock.until_waiting()
        before = clock.now()
        submitted = other.submit(TASK, {})
        clock.advance(0.02)

        assert [lease.task_id for lease in poll.result(30)] == [submitted.task_id]
        assert clock.now() == pytest.approx(before + 0.02)

    @pytest.mark.parametrize("first", range(4))
    def test_wakes_each_of_many_in_any_order(
        self,
        open_queue: Callable[[str], LocalQueue],
        clock: ManualClock,
        pool: ThreadPoolExecutor,
        first: int,
    ) -> None:
        """One of the polls looks for all; whichever of them ends, another one goes on looking."""
        queue, other = open_queue("one"), open_queue("two")
        types = [f"unit.task{number}" for number in range(4)]
        for task_type in types:
            queue.register_taskdef({"name": task_type})
        polls = [pool.submit(queue.poll, task_type, count=1, wait_s=5) for task_type in types]
        for waiting, number in zip((4, 3, 2, 1), (*range(first, 4), *range(first)), strict=True):
            clock.until_waiting(waiting)
            other.submit(types[number], {})
            clock.advance(0.02)
            assert [lease.task_type for lease in polls[number].result(30)] == [types[number]]
        assert clock.now() < 1_001

    def test_misses_nothing_while_another_poll_begins_to_look(
        self, path: Path, clock: ManualClock, pool: ThreadPoolExecutor
    ) -> None:
        """A commit just before the other poll's first look is no change to it, but is to us."""
        closed = threading.Event()
        watch = Watch(clock=clock, closed=closed)
        deadline = clock.now() + 5
        LocalQueue(path, clock=clock, worker_id="maker").close()
        with (
            closing(sqlite3.connect(path, check_same_thread=False)) as ours,
            closing(sqlite3.connect(path, check_same_thread=False)) as theirs,
            closing(LocalQueue(path, clock=clock, worker_id="other")) as other,
        ):
            before = watch.glimpse(ours)
            define(other)
            looking = pool.submit(
                watch.wait, theirs, watch.glimpse(theirs), event_ms=math.inf, deadline=deadline
            )
            clock.until_waiting()
            waiting = pool.submit(watch.wait, ours, before, event_ms=math.inf, deadline=deadline)
            waiting.result(30)
            assert not looking.done()
            closed.set()
            looking.result(30)

    @pytest.mark.parametrize("event", ["delay", "expiry"])
    def test_wakes_when_a_task_becomes_due(
        self, queue: LocalQueue, clock: ManualClock, pool: ThreadPoolExecutor, event: str
    ) -> None:
        define(queue, retryDelaySeconds=2 if event == "delay" else 0, responseTimeoutSeconds=2)
        queue.submit(TASK, {})
        lease = take(queue)
        if event == "delay":
            queue.complete(lease, FAILED)
        poll = pool.submit(queue.poll, TASK, count=1, wait_s=5)
        clock.until_waiting()
        clock.advance(2)

        assert [retry.retry_count for retry in poll.result(30)] == [1]

    def test_close_ends_the_wait(
        self, queue: LocalQueue, clock: ManualClock, pool: ThreadPoolExecutor
    ) -> None:
        polls = [pool.submit(queue.poll, TASK, count=1, wait_s=5) for _ in range(3)]
        clock.until_waiting(3)
        queue.close()

        assert [poll.result(30) for poll in polls] == [[], [], []]
        with pytest.raises(QueueUnavailable, match="closed"):
            queue.ping()

    @pytest.mark.parametrize(("count", "wait_s"), [(0, 0), (1, -1), (1, 5.1)])
    def test_refuses_what_no_server_takes(
        self, queue: LocalQueue, count: int, wait_s: float
    ) -> None:
        with pytest.raises(QueueRefused):
            queue.poll(TASK, count=count, wait_s=wait_s)


class TestOperator:
    def test_submit_refuses_an_unregistered_type(self, queue: LocalQueue) -> None:
        define(queue)
        with pytest.raises(QueueRefused, match=r"'unit.tsak' is not registered.*'unit.task'"):
            queue.submit("unit.tsak", {})

    @pytest.mark.parametrize("task_input", [{"x": float("nan")}, {"x": {1, 2}}])
    def test_submit_refuses_what_is_not_json(
        self, queue: LocalQueue, task_input: dict[str, Any]
    ) -> None:
        define(queue)
        with pytest.raises(QueueRefused, match="task input is not a JSON object"):
            queue.submit(TASK, task_input)
        assert queue.idle([TASK])

    def test_records_tell_everything(self, queue: LocalQueue, clock: ManualClock) -> None:
        define(queue)
        submitted = queue.submit(TASK, {"n": 1}, domain="blue", reference_name="step_one")
        (lease,) = queue.poll(TASK, count=1, wait_s=0, domain="blue")
        clock.advance(1)
        queue.append_log(lease, ["half-way"])
        clock.advance(1)
        queue.complete(lease, Outcome(kind="completed", code="x", output={"m": 2}, log=("end",)))

        start_ms = lease.start_time_ms
        assert queue.tasks() == [
            TaskRecord(
                workflow_id=submitted.workflow_id,
                workflow_status="COMPLETED",
                task_id=submitted.task_id,
                task_type=TASK,
                domain="blue",
                reference_name="step_one",
                status="COMPLETED",
                retry_count=0,
                retried_task_id=None,
                poll_count=1,
                worker_id="worker",
                reason="",
                input={"n": 1},
                output={"m": 2},
                log=("half-way", "end"),
                scheduled_time_ms=start_ms,
                start_time_ms=start_ms,
                end_time_ms=start_ms + 2000,
            )
        ]
        assert lease.reference_name == "step_one"

    def test_records_come_latest_first_and_limited(self, queue: LocalQueue) -> None:
        define(queue)
        ids = [queue.submit(TASK, {}).task_id for _ in range(5)]

        assert [record.task_id for record in queue.tasks(limit=2)] == [ids[4], ids[3]]

    def test_a_retry_carries_the_reason_before_it(self, queue: LocalQueue) -> None:
        define(queue)
        queue.submit(TASK, {})
        queue.complete(take(queue), FAILED)

        first, second = attempts(queue)
        assert first.reason == second.reason == "task-failed: it broke"
        assert (first.log, second.log) == (("traceback",), ())

    def test_idle_counts_what_waits_runs_or_will_be_retried(
        self, queue: LocalQueue, clock: ManualClock
    ) -> None:
        define(queue, retryDelaySeconds=30)
        assert queue.idle([])
        assert queue.idle([TASK])
        queue.submit(TASK, {})
        assert not queue.idle([TASK, "other"])
        assert queue.idle(["other"])
        assert queue.idle([TASK], domain="blue")
        queue.complete(take(queue), FAILED)
        assert not queue.idle([TASK])
        clock.advance(30)
        lease = take(queue)
        assert not queue.idle([TASK])
        queue.complete(lease, DONE)
        assert queue.idle([TASK])

    def test_terminate_ends_what_is_unfinished(self, queue: LocalQueue) -> None:
        define(queue)
        submitted = queue.submit(TASK, {})
        queue.terminate_workflow(submitted.workflow_id, "changed our mind")
        queue.terminate_workflow(submitted.workflow_id, "again")

        (record,) = attempts(queue)
        assert (record.status, record.workflow_status) == ("CANCELED", "TERMINATED")
        assert record.reason == "changed our mind"
        assert queue.idle([TASK])

    def test_terminate_leaves_what_has_ended(self, queue: LocalQueue) -> None:
        define(queue)
        submitted = queue.submit(TASK, {})
        queue.complete(take(queue), DONE)
        queue.terminate_workflow(submitted.workflow_id, "too late")

        assert attempts(queue)[0].workflow_status == "COMPLETED"

    def test_terminate_refuses_an_unknown_workflow(self, queue: LocalQueue) -> None:
        with pytest.raises(QueueRefused, match="no workflow 'nobody'"):
            queue.terminate_workflow("nobody", "reason")

    @pytest.mark.parametrize(
        ("taskdef", "message"),
        [
            ({}, "name"),
            ({"name": TASK, "timeoutPolicy": "SOMETIMES"}, "timeoutPolicy"),
            ({"name": TASK, "retryCount": -1}, "retryCount"),
            ({"name": TASK, "inputTemplate": {"x": float("inf")}}, "JSON"),
        ],
    )
    def test_register_refuses_what_the_queue_cannot_act_on(
        self, queue: LocalQueue, taskdef: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(QueueRefused, match=message):
            queue.register_taskdef(taskdef)
        assert queue.taskdef(TASK) is None

    def test_text_that_is_no_unicode_is_made_storable(self, queue: LocalQueue) -> None:
        define(queue, retryCount=0)
        queue.submit(TASK, {"name": "a\udc80b"})
        lease = take(queue)
        assert lease.input == {"name": "a?b"}
        queue.complete(
            lease, Outcome(kind="failed", code="x", reason="a\udc80b", log=("l\udc80g",))
        )

        (record,) = attempts(queue)
        assert (record.reason, record.log) == ("x: a?b", ("l?g",))

    def test_only_outcomes_that_are_reported_are_taken(self, queue: LocalQueue) -> None:
        define(queue)
        queue.submit(TASK, {})
        lease = take(queue)
        with pytest.raises(ValueError, match="superseded"):
            queue.complete(lease, Outcome(kind="superseded", code="lease-lost"))
        assert queue.observe(lease) == Held()


class TestFile:
    def test_is_kept_between_uses(
        self, open_queue: Callable[[str], LocalQueue], clock: ManualClock
    ) -> None:
        queue = open_queue("one")
        define(queue)
        queue.submit(TASK, {"n": 1})
        lease = take(queue)
        queue.close()
        clock.advance(59)

        queue = open_queue("two")
        assert queue.observe(lease) == Held()
        clock.advance(1)
        assert take(queue).retry_count == 1

    def test_of_a_newer_release_is_refused_and_left_alone(
        self, path: Path, clock: ManualClock
    ) -> None:
        LocalQueue(path, clock=clock, worker_id="one").close()
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        with pytest.raises(QueueRefused, match=rf"{path.name}.*newer release.*upgrade"):
            LocalQueue(path, clock=clock, worker_id="two")
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)

    @pytest.mark.parametrize(
        "script", ["CREATE TABLE accounts (id)", "PRAGMA application_id = 7; CREATE TABLE t (id)"]
    )
    def test_of_another_program_is_refused_and_left_alone(
        self, path: Path, clock: ManualClock, script: str
    ) -> None:
        with closing(sqlite3.connect(path)) as db:
            db.executescript(script)
        before = path.read_bytes()
        with pytest.raises(QueueRefused, match=rf"{path.name}.*another program"):
            LocalQueue(path, clock=clock, worker_id="one")
        assert path.read_bytes() == before

    def test_that_is_no_database_is_refused(self, path: Path, clock: ManualClock) -> None:
        path.write_text("these are notes, and nobody wants to lose them\n" * 50)
        with pytest.raises(QueueRefused, match=rf"{path.name}.*not a SQLite database"):
            LocalQueue(path, clock=clock, worker_id="one")

    def test_that_is_damaged_is_refused(self, path: Path, clock: ManualClock) -> None:
        LocalQueue(path, clock=clock, worker_id="one").close()
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(100)
            file.write(b"\xff" * (size - 100))
        with pytest.raises(QueueRefused, match=rf"{path.name}.*damaged"):
            LocalQueue(path, clock=clock, worker_id="one")

    def test_that_is_empty_becomes_a_queue(self, path: Path, clock: ManualClock) -> None:
        path.touch()
        with closing(LocalQueue(path, clock=clock, worker_id="one")) as queue:
            queue.ping()
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)

    def test_folders_are_made(self, tmp_path: Path, clock: ManualClock) -> None:
        path = tmp_path / "var" / "lib" / "queue.db"
        with closing(LocalQueue(path, clock=clock, worker_id="one")) as queue:
            queue.ping()
        assert path.exists()

    @pytest.mark.parametrize("folder", ["/proc/self", "file"])
    def test_in_an_unusable_folder_is_refused(
        self, tmp_path: Path, clock: ManualClock, folder: str
    ) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(QueueRefused, match=r"queue\.db.*writable"):
            LocalQueue(tmp_path / folder / "queue.db", clock=clock, worker_id="one")

    @pytest.mark.timeout(12)  # less than a call waits that is not told for how long
    def test_that_others_lock_is_unavailable_for_so_long(
        self, queue: LocalQueue, path: Path
    ) -> None:
        define(queue)
        queue.submit(TASK, {})
        lease = take(queue)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(QueueUnavailable, match="not available now"):
                queue.complete(lease, DONE, timeout_s=0.01)
            assert queue.observe(lease) == Held()
        queue.complete(lease, DONE, timeout_s=0.01)

        assert statuses(queue) == ["COMPLETED"]


_TAKE_FORTY = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from tests.unit.test_local_queue import take_shares
    from perago_worker.adapters.local.queue import LocalQueue
    from perago_worker.adapters.system import SystemClock

    path, worker_id = sys.argv[1:]
    queue = LocalQueue(Path(path), clock=SystemClock(), worker_id=worker_id)
    print(*take_shares(queue, threads=2, share=20))
    queue.close()
    """
)

_DIE = textwrap.dedent(
    """
    import os, signal, sqlite3, sys
    from pathlib import Path
    from perago_worker.adapters.local import queue_database
    from perago_worker.adapters.local.queue import LocalQueue
    from perago_worker.adapters.system import SystemClock
    from perago_worker.models import Lease, Outcome

    class Dying(sqlite3.Connection):
        left = None

        def execute(self, statement, *parameters):
            if statement.startswith("BEGIN"):
                Dying.left = int(sys.argv[2])
            if Dying.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            if Dying.left is not None:
                Dying.left -= 1
            return super().execute(statement, *parameters)

    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **kwargs: connect(*args, **kwargs, factory=Dying)
    queue = LocalQueue(Path(sys.argv[1]), clock=SystemClock(), worker_id="dying")
    lease = Lease.model_validate_json(sys.argv[3])
    queue.complete(lease, Outcome(kind="failed", code="x", reason="y", log=("traceback",)))
    os._exit(7)
    """
)


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def take_shares(queue: LocalQueue, *, threads: int, share: int) -> list[str]:
    """Complete `share` tasks in each of so many threads, and return the ids of all."""

    def take_share() -> list[str]:
        ids: list[str] = []
        while len(ids) < share:
            for lease in queue.poll(TASK, count=1, wait_s=1):
                ids.append(lease.task_id)
                queue.complete(lease, DONE)
        return ids

    with ThreadPoolExecutor(threads) as pool:
        shares = [pool.submit(take_share) for _ in range(threads)]
        return [task_id for future in shares for task_id in future.result(60)]


class TestManyUsers:
    def test_threads_and_processes_get_each_task_once(self, path: Path) -> None:
        """Eight threads here and two in each of three processes share all tasks that there are."""
        with closing(LocalQueue(path, clock=SystemClock(), worker_id="here")) as queue:
            define(queue)
            submitted = [queue.submit(TASK, {}).task_id for _ in range(200)]
            processes = [start(_TAKE_FORTY, str(path), f"there-{number}") for number in range(3)]
            delivered = take_shares(queue, threads=8, share=10)
            for process in processes:
                output, _ = process.communicate(timeout=60)
                assert process.returncode == 0
                delivered.extend(output.split())

            assert sorted(delivered) == sorted(submitted)
            records = queue.tasks(limit=1000)
            assert {(record.status, record.poll_count) for record in records} == {("COMPLETED", 1)}
            assert Counter(record.worker_id for record in records) == {
                "here": 80,
                "there-0": 40,
                "there-1": 40,
                "there-2": 40,
            }

    def test_opening_a_new_file_at_once_works(self, tmp_path: Path) -> None:
        """Each user makes the file a queue unless another one has; no user sees it half-made."""
        users = 8
        together = threading.Barrier(users)

        def open_and_use(path: Path, number: int) -> None:
            together.wait(30)
            with closing(LocalQueue(path, clock=SystemClock(), worker_id=str(number))) as queue:
                define(queue)
                queue.submit(TASK, {})

        with ThreadPoolExecutor(users) as pool:
            for round_number in range(5):
                path = tmp_path / f"{round_number}.db"
                opened = [pool.submit(open_and_use, path, number) for number in range(users)]
                for future in opened:
                    future.result(60)
                with closing(LocalQueue(path, clock=SystemClock(), worker_id="last")) as queue:
                    assert queue.depth(TASK) == users

    def test_a_process_killed_within_a_report_has_reported_wholly_or_not_at_all(
        self, path: Path
    ) -> None:
        with closing(LocalQueue(path, clock=SystemClock(), worker_id="here")) as queue:
            define(queue, retryCount=10)
            queue.submit(TASK, {})
            lease = take(queue)
            for statements in range(1, 20):
                dying = start(_DIE, str(path), str(statements), lease.model_dump_json())
                dying.communicate(timeout=60)
                if dying.returncode == 7:  # it lived to the end of the report
                    break
                assert dying.returncode == -signal.SIGKILL
                assert queue.observe(lease) == Held()
                (record,) = attempts(queue)
                assert (record.status, record.log) == ("IN_PROGRESS", ())
            else:
                pytest.fail("the report never came to its end")

            assert statements > 5
            first, second = attempts(queue)
            assert (first.status, first.log) == ("FAILED", ("traceback",))
            assert take(queue).task_id == second.task_id
