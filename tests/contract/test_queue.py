"""What `ports.TaskQueue` promises, over every adapter.

Time belongs to the harness: `pass_time` lets it pass, `eventually` waits for what the queue does on
its own, which a real server may do late.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from perago_worker.errors import QueueRefused
from perago_worker.models import Held, Lease, Lost, Outcome
from perago_worker.ports import TaskQueue
from tests.contract.queue_harness import QueueHarness, TaskView

# Expiry on a real server is noticed late, and `eventually` has two minutes for it.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def queue(harness: QueueHarness) -> TaskQueue:
    return harness.queue("first-worker")


@pytest.fixture
def other(harness: QueueHarness) -> TaskQueue:
    return harness.queue("other-worker")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def completed(output: dict[str, Any] | None = None, *, log: tuple[str, ...] = ()) -> Outcome:
    return Outcome(kind="completed", code="no_workspace", output=output or {}, log=log)


def failed(reason: str = "it broke", *, log: tuple[str, ...] = ()) -> Outcome:
    return Outcome(kind="failed", code="task-failed", reason=reason, log=log)


def poll_one(
    harness: QueueHarness, queue: TaskQueue, task_type: str, *, domain: str | None = None
) -> Lease:
    """Poll until a task comes."""
    leases = harness.eventually(
        lambda: queue.poll(task_type, count=1, wait_s=0, domain=domain) or None,
        f"a task of {task_type} in domain {domain}",
    )
    assert len(leases) == 1
    return leases[0]


def lost(harness: QueueHarness, queue: TaskQueue, lease: Lease) -> Lost:
    """Observe until the lease is lost."""

    def probe() -> Lost | None:
        observation = queue.observe(lease)
        return observation if isinstance(observation, Lost) else None

    return harness.eventually(probe, f"the lease of {lease.task_id} lost")


def status_of(harness: QueueHarness, task_id: str) -> str | None:
    view = harness.task(task_id)
    return view.status if view else None


def ended_as(harness: QueueHarness, task_id: str, status: str) -> TaskView:
    """Look at a task until it has `status`."""

    def probe() -> TaskView | None:
        view = harness.task(task_id)
        return view if view is not None and view.status == status else None

    return harness.eventually(probe, f"task {task_id} {status}")


def workflow_becomes(harness: QueueHarness, workflow_id: str, status: str) -> None:
    harness.eventually(
        lambda: harness.workflow_status(workflow_id) == status or None,
        f"workflow {workflow_id} {status}",
    )


def attempts_of(harness: QueueHarness, workflow_id: str, number: int) -> list[TaskView]:
    """Look at a workflow until it has so many attempts."""

    def probe() -> list[TaskView] | None:
        views = harness.attempts(workflow_id)
        return views if len(views) == number else None

    return harness.eventually(probe, f"{number} attempts of workflow {workflow_id}")


def text_of(view: TaskView) -> str:
    return "\n".join(view.log)


class TestPoll:
    def test_delivers_what_was_submitted(self, harness: QueueHarness, queue: TaskQueue) -> None:
        task_type = harness.define(
            responseTimeoutSeconds=20, timeoutSeconds=900, pollTimeoutSeconds=300
        )
        task_input = {"params": {"word": "größer 🚀", "list": [1, 2.5, None, True]}, "n": 0}
        submitted = harness.submit(task_type, task_input)

        lease = poll_one(harness, queue, task_type)

        assert lease.task_type == task_type
        assert lease.workflow_id == submitted.workflow_id
        assert lease.task_id == submitted.task_id
        assert lease.input == task_input
        assert lease.reference_name
        assert lease.domain is None
        assert (lease.iteration, lease.retry_count) == (0, 0)
        assert lease.response_timeout_s == 20
        assert lease.timeout_s == 900
        assert lease.poll_timeout_s == 300

    def test_identity_is_filled(self, harness: QueueHarness, queue: TaskQueue) -> None:
        task_type = harness.define()
        submitted = harness.submit(task_type)
        before = harness.clock.now()

        lease = poll_one(harness, queue, task_type)

        assert lease.identity.task_id == submitted.task_id
        assert lease.worker_id == "first-worker"
        assert lease.poll_count == 1
        assert 0 < lease.scheduled_time_ms <= lease.start_time_ms
        assert abs(lease.start_time_ms / 1000 - harness.clock.time()) < 60
        # No later than the server began to count, and not from before anybody asked.
        assert before - 1 <= lease.granted_at <= harness.clock.now()

    def test_is_empty_when_nothing_waits(self, harness: QueueHarness, queue: TaskQueue) -> None:
        assert queue.poll(harness.define(), count=1, wait_s=0) == []

    def test_of_an_unregistered_type_is_empty(self, queue: TaskQueue) -> None:
        assert queue.poll(f"nobody.registered.{uuid.uuid4().hex}", count=1, wait_s=0) == []

    def test_takes_a_batch(self, harness: QueueHarness, queue: TaskQueue) -> None:
        task_type = harness.define()
        submitted = {harness.submit(task_type).task_id for _ in range(5)}
        leases: list[Lease] = []

        def probe() -> bool | None:
            leases.extend(queue.poll(task_type, count=5, wait_s=0))
            return len(leases) >= 5 or None

        harness.eventually(probe, "five tasks")
        assert sorted(lease.task_id for lease in leases) == sorted(submitted)

    def test_takes_only_the_type_asked_for(self, harness: QueueHarness, queue: TaskQueue) -> None:
        wanted, unwanted = harness.define(), harness.define()
        harness.submit(unwanted)
        submitted = harness.submit(wanted)

        assert poll_one(harness, queue, wanted).task_id == submitted.task_id
        assert queue.poll(wanted, count=1, wait_s=0) == []

    def test_delivers_a_task_once(
        self, harness: QueueHarness, queue: TaskQueue, other: TaskQueue
    ) -> None:
        task_type = harness.define()
        harness.submit(task_type)
        poll_one(harness, queue, task_type)

        assert other.poll(task_type, count=1, wait_s=0) == []
        assert queue.poll(task_type, count=4, wait_s=0) == []

    def test_from_many_threads_delivers_each_task_once(
        self, harness: QueueHarness, queue: TaskQueue, pool: ThreadPoolExecutor
    ) -> None:
        task_type = harness.define()
        submitted = {harness.submit(task_type).task_id for _ in range(16)}

        leases: list[Lease] = []

        def probe() -> bool | None:
            polls = [pool.submit(queue.poll, task_type, count=1, wait_s=0) for _ in range(8)]
            leases.extend(lease for poll in polls for lease in poll.result(60))
            return len(leases) >= 16 or None

        harness.eventually(probe, "sixteen tasks")
        assert sorted(lease.task_id for lease in leases) == sorted(submitted)

    def test_held_open_wakes_when_a_task_arrives(
        self, harness: QueueHarness, queue: TaskQueue, pool: ThreadPoolExecutor
    ) -> None:
        task_type = harness.define()
        poll = pool.submit(queue.poll, task_type, count=1, wait_s=5)
        harness.until_waiting()

        submitted = harness.submit(task_type)
        harness.pass_time(0.5)

        assert [lease.task_id for lease in poll.result(60)] == [submitted.task_id]

    def test_held_open_ends_empty(
        self, harness: QueueHarness, queue: TaskQueue, pool: ThreadPoolExecutor
    ) -> None:
        poll = pool.submit(queue.poll, harness.define(), count=1, wait_s=1)
        harness.until_waiting()
        harness.pass_time(1.5)

        assert poll.result(60) == []

    def test_keeps_to_its_domain(self, harness: QueueHarness, queue: TaskQueue) -> None:
        task_type = harness.define()
        blue = harness.submit(task_type, domain="blue")
        plain = harness.submit(task_type)

        assert poll_one(harness, queue, task_type).task_id == plain.task_id
        assert queue.poll(task_type, count=1, wait_s=0) == []
        assert queue.poll(task_type, count=1, wait_s=0, domain="red") == []
        lease = poll_one(harness, queue, task_type, domain="blue")
        assert (lease.task_id, lease.domain) == (blue.task_id, "blue")

    def test_keeps_to_the_concurrent_limit(
        self, harness: QueueHarness, queue: TaskQueue, other: TaskQueue
    ) -> None:
        task_type = harness.define(concurrentExecLimit=1)
        harness.submit(task_type)
        harness.submit(task_type)
        poll_one(harness, queue, task_type)

        assert other.poll(task_type, count=1, wait_s=0) == []

    def test_grants_by_the_definition_of_the_start(
        self, harness: QueueHarness, queue: TaskQueue
    ) -> None:
        task_type = harness.define(responseTimeoutSeconds=20)
        harness.submit(task_type)
        queue.register_taskdef({"name": task_type, "responseTimeoutSeconds": 30})
        harness.submit(task_type)

        leases = [poll_one(harness, queue, task_type) for _ in range(2)]

        assert sorted(lease.response_timeout_s for lease in leases) == [20, 30]


class TestObserve:
    def test_held(self, harness: QueueHarness, queue: TaskQueue) -> None:
        task_type = harness.define()
        harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)

        assert queue.observe(lease) == Held()
        queue.extend(lease)
        assert queue.observe(lease) == Held()

    def test_of_a_worker_that_did_not_poll_is_superseded(
        self, harness: QueueHarness, queue: TaskQueue
    ) -> None:
        task_type = harness.define()
        harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)

        for wrong in (
            {"worker_id": "somebody else"},
            {"poll_count": lease.poll_count + 1},
            {"start_time_ms": lease.start_time_ms - 1},
            {"retry_count": lease.retry_count + 1},
        ):
            assert lost(harness, queue, lease.model_copy(update=wrong)).why == "superseded"
        assert queue.observe(lease) == Held()

    def test_given_back_is_superseded(self, harness: QueueHarness, queue: TaskQueue) -> None:
        task_type = harness.define()
        harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        queue.give_back(lease)

        assert lost(harness, queue, lease).why == "superseded"

    def test_given_back_and_taken_by_another_is_superseded(
        self, harness: QueueHarness, queue: TaskQueue, other: TaskQueue
    ) -> None:
        task_type = harness.define()
        harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        queue.give_back(lease)
        newer = poll_one(harness, other, task_type)

        assert lost(harness, queue, lease).why == "superseded"
        assert other.observe(newer) == Held()

    def test_given_back_and_taken_again_by_the_same_worker_is_superseded(
        self, harness: QueueHarness, queue: TaskQueue
    ) -> None:
        task_type = harness.define()
        harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        queue.give_back(lease)
        newer = poll_one(harness, queue, task_type)

        assert lost(harness, queue, lease).why == "superseded"
        assert queue.observe(newer) == Held()

    def test_delivered_twice_is_superseded(
        self, harness: QueueHarness, queue: TaskQueue, other: TaskQueue
    ) -> None:
        """The later delivery has the same id, retry count and start time, and is the holder."""
        task_type = harness.define()
        harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        harness.redeliver(task_type)
        newer = poll_one(harness, other, task_type)

        assert (newer.task_id, newer.retry_count) == (lease.task_id, lease.retry_count)
        assert newer.start_time_ms == lease.start_time_ms
        assert newer.poll_count == lease.poll_count + 1
        assert newer.token > lease.token
        assert lost(harness, queue, lease).why == "superseded"
        assert other.observe(newer) == Held()

    def test_rerun_is_superseded(
        self, harness: QueueHarness, queue: TaskQueue, other: TaskQueue
    ) -> None:
        """A rerun uses the id, the retry count and the poll count again; its start tells."""
        task_type = harness.define()
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        queue.complete(lease, completed())
        workflow_becomes(harness, submitted.workflow_id, "COMPLETED")
        harness.pass_time(0.1)
        harness.rerun(submitted)
        newer = poll_one(harness, other, task_type)

        assert (newer.task_id, newer.retry_count) == (lease.task_id, lease.retry_count)
        assert newer.token > lease.token
        assert lost(harness, queue, lease).why == "superseded"
        assert other.observe(newer) == Held()

    def test_expired_and_retried_is_superseded(
        self, harness: QueueHarness, queue: TaskQueue
    ) -> None:
        task_type = harness.define(responseTimeoutSeconds=1)
        harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)

        assert lost(harness, queue, lease).why == "superseded"

    def test_expired_for_the_last_time_is_cancelled(
        self, harness: QueueHarness, queue: TaskQueue
    ) -> None:
        task_type = harness.define(responseTimeoutSeconds=1, retryCount=0)
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)

        assert lost(harness, queue, lease).why == "cancelled"
        workflow_becomes(harness, submitted.workflow_id, "TIMED_OUT")

    def test_terminated_is_cancelled(self, harness: QueueHarness, queue: TaskQueue) -> None:
        task_type = harness.define()
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        harness.terminate(submitted.workflow_id, "changed our mind")

        assert lost(harness, queue, lease).why == "cancelled"
        workflow_becomes(harness, submitted.workflow_id, "TERMINATED")

    def test_cancelled_is_cancelled(self, harness: QueueHarness, queue: TaskQueue) -> None:
        task_type = harness.define()
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        harness.cancel_task(submitted)

        assert lost(harness, queue, lease).why == "cancelled"

    @pytest.mark.parametrize("kind", ["completed", "failed", "terminal"])
    def test_reported_is_reported(self, harness: QueueHarness, queue: TaskQueue, kind: Any) -> None:
        task_type = harness.define()
        harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        queue.complete(lease, Outcome(kind=kind, code="code"))

        assert lost(harness, queue, lease).why == "reported"

    def test_removed_is_gone(self, harness: QueueHarness, queue: TaskQueue) -> None:
        task_type = harness.define()
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        harness.remove(submitted.workflow_id)

        assert lost(harness, queue, lease).why == "gone"


class TestEnded:
    def test_runs_while_it_waits_or_is_leased(
        self, harness: QueueHarness, queue: TaskQueue, other: TaskQueue
    ) -> None:
        task_type = harness.define()
        submitted = harness.submit(task_type)
        assert queue.ended(submitted.task_id) == "running"
        lease = poll_one(harness, other, task_type)
        assert queue.ended(submitted.task_id) == "running"
        other.give_back(lease, after_s=600)
        assert queue.ended(submitted.task_id) == "running"

    @pytest.mark.parametrize(
        ("kind", "end"), [("completed", "completed"), ("failed", "failed"), ("terminal", "failed")]
    )
    def test_tells_what_was_reported(
        self, harness: QueueHarness, queue: TaskQueue, other: TaskQueue, kind: Any, end: str
    ) -> None:
        task_type = harness.define()
        harness.submit(task_type)
        lease = poll_one(harness, other, task_type)
        other.complete(lease, Outcome(kind=kind, code="code"))

        assert queue.ended(lease.task_id) == end

    def test_failed_when_time_is_up(self, harness: QueueHarness, queue: TaskQueue) -> None:
        """The task ends although its workflow goes on with a retry, which is another task."""
        task_type = harness.define(responseTimeoutSeconds=1)
        harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        retry = poll_one(harness, queue, task_type)

        assert queue.ended(lease.task_id) == "failed"
        assert retry.task_id != lease.task_id

    def test_failed_when_the_workflow_ends(self, harness: QueueHarness, queue: TaskQueue) -> None:
        submitted = harness.submit(harness.define())
        harness.terminate(submitted.workflow_id, "changed our mind")

        ended_as(harness, submitted.task_id, "CANCELED")
        assert queue.ended(submitted.task_id) == "failed"

    def test_gone_when_there_is_no_such_task(self, harness: QueueHarness, queue: TaskQueue) -> None:
        submitted = harness.submit(harness.define())
        harness.remove(submitted.workflow_id)
        harness.eventually(
            lambda: harness.task(submitted.task_id) is None or None, "the task removed"
        )

        assert queue.ended(submitted.task_id) == "gone"
        assert queue.ended(str(uuid.uuid4())) == "gone"


class TestExtend:
    def test_keeps_a_lease_past_its_response_timeout(
        self, harness: QueueHarness, queue: TaskQueue
    ) -> None:
        task_type = harness.define(responseTimeoutSeconds=3)
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        for _ in range(6):
            harness.pass_time(1)
            queue.extend(lease)
            assert queue.observe(lease) == Held()

        queue.complete(lease, completed())
        workflow_becomes(harness, submitted.workflow_id, "COMPLETED")
        assert len(harness.attempts(submitted.workflow_id)) == 1

    def test_does_not_revive_what_has_ended(self, harness: QueueHarness, queue: TaskQueue) -> None:
        task_type = harness.define()
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        queue.complete(lease, completed({"kept": True}))
        queue.extend(lease)

        view = harness.task(submitted.task_id)
        assert view is not None
        assert (view.status, view.output) == ("COMPLETED", {"kept": True})


class TestExpiry:
    @pytest.mark.parametrize("policy", ["RETRY", "TIME_OUT_WF", "ALERT_ONLY"])
    def test_makes_a_retry_whatever_the_policy(
        self, harness: QueueHarness, queue: TaskQueue, other: TaskQueue, policy: str
    ) -> None:
        task_type = harness.define(responseTimeoutSeconds=1, timeoutPolicy=policy)
        submitted = harness.submit(task_type, {"n": 1})
        lease = poll_one(harness, queue, task_type)

        retry = poll_one(harness, other, task_type)

        assert retry.task_id != lease.task_id
        assert retry.lineage == lease.lineage
        assert (retry.retry_count, retry.poll_count) == (1, 1)
        assert retry.input == {"n": 1}
        assert retry.token > lease.token
        first, second = attempts_of(harness, submitted.workflow_id, 2)
        assert (first.task_id, first.status) == (lease.task_id, "TIMED_OUT")
        assert "responseTimeout" in first.reason
        assert (second.task_id, second.retried_task_id) == (retry.task_id, lease.task_id)

    def test_late_report_is_ignored(
        self, harness: QueueHarness, queue: TaskQueue, other: TaskQueue
    ) -> None:
        task_type = harness.define(responseTimeoutSeconds=1)
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        retry = harness.eventually(
            lambda: other.poll(task_type, count=1, wait_s=0) or None, "the retry"
        )[0]

        queue.complete(lease, completed({"by": "the late one"}))
        queue.give_back(lease)
        queue.extend(lease)
        other.complete(retry, completed({"by": "the retry"}))

        assert ended_as(harness, retry.task_id, "COMPLETED").output == {"by": "the retry"}
        assert status_of(harness, lease.task_id) == "TIMED_OUT"
        workflow_becomes(harness, submitted.workflow_id, "COMPLETED")


class TestComplete:
    def test_records_output_and_log(self, harness: QueueHarness, queue: TaskQueue) -> None:
        task_type = harness.define()
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        output = {"result": {"rows": 3, "ratio": 0.25, "none": None}, "text": "größer 🚀\n\x00"}
        queue.complete(lease, completed(output, log=("first line", "second line")))

        view = ended_as(harness, submitted.task_id, "COMPLETED")
        assert view.output == output
        assert view.reason == ""
        assert view.worker_id == "first-worker"
        workflow_becomes(harness, submitted.workflow_id, "COMPLETED")
        logged = harness.eventually(
            lambda: text_of(harness.task(submitted.task_id) or view) or None, "the log"
        )
        assert logged == "first line\nsecond line"

    def test_keeps_the_end_of_a_long_log(self, harness: QueueHarness, queue: TaskQueue) -> None:
        """Servers keep ten entries of a report, so an adapter may join lines but lose none."""
        task_type = harness.define()
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        lines = tuple(f"line {n}" for n in range(40))
        queue.complete(lease, completed(log=lines))

        view = ended_as(harness, submitted.task_id, "COMPLETED")
        logged = harness.eventually(
            lambda: text_of(harness.task(submitted.task_id) or view) or None, "the log"
        )
        assert logged == "\n".join(lines)

    def test_first_report_wins(self, harness: QueueHarness, queue: TaskQueue) -> None:
        task_type = harness.define()
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        queue.complete(lease, completed({"report": "first"}))
        queue.complete(lease, completed({"report": "second"}))
        queue.complete(lease, failed())

        view = ended_as(harness, submitted.task_id, "COMPLETED")
        assert view.output == {"report": "first"}
        workflow_becomes(harness, submitted.workflow_id, "COMPLETED")
        assert len(harness.attempts(submitted.workflow_id)) == 1

    def test_failure_is_retried_after_the_delay(
        self, harness: QueueHarness, queue: TaskQueue, other: TaskQueue
    ) -> None:
        task_type = harness.define(retryDelaySeconds=3)
        submitted = harness.submit(task_type, {"n": 1})
        lease = poll_one(harness, queue, task_type)
        queue.complete(lease, failed("the disk is full", log=("traceback",)))

        first, _ = attempts_of(harness, submitted.workflow_id, 2)
        assert (first.status, first.reason) == ("FAILED", "task-failed: the disk is full")
        assert queue.poll(task_type, count=1, wait_s=0) == []
        retry = poll_one(harness, other, task_type)
        assert retry.task_id != lease.task_id
        assert retry.lineage == lease.lineage
        assert (retry.retry_count, retry.poll_count, retry.input) == (1, 1, {"n": 1})
        assert other.observe(retry) == Held()
        other.complete(retry, completed())
        workflow_becomes(harness, submitted.workflow_id, "COMPLETED")

    def test_failures_end_when_retries_are_used_up(
        self, harness: QueueHarness, queue: TaskQueue
    ) -> None:
        task_type = harness.define(retryCount=1)
        submitted = harness.submit(task_type)
        for number in range(2):
            lease = poll_one(harness, queue, task_type)
            assert lease.retry_count == number
            queue.complete(lease, failed())

        workflow_becomes(harness, submitted.workflow_id, "FAILED")
        assert len(harness.attempts(submitted.workflow_id)) == 2
        assert queue.poll(task_type, count=1, wait_s=0) == []

    def test_terminal_failure_is_not_retried(self, harness: QueueHarness, queue: TaskQueue) -> None:
        task_type = harness.define()
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        queue.complete(lease, Outcome(kind="terminal", code="bad-input", reason="no such file"))

        view = ended_as(harness, submitted.task_id, "FAILED_WITH_TERMINAL_ERROR")
        assert view.reason == "bad-input: no such file"
        workflow_becomes(harness, submitted.workflow_id, "FAILED")
        assert queue.poll(task_type, count=1, wait_s=0) == []
        assert len(harness.attempts(submitted.workflow_id)) == 1

    def test_records_a_reason_of_500_characters(
        self, harness: QueueHarness, queue: TaskQueue
    ) -> None:
        task_type = harness.define(retryCount=0)
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        outcome = failed("ü" * 1000)
        queue.complete(lease, outcome)

        view = ended_as(harness, submitted.task_id, "FAILED")
        assert view.reason == outcome.full_reason
        assert len(view.reason) == 500

    def test_takes_a_large_output(self, harness: QueueHarness, queue: TaskQueue) -> None:
        task_type = harness.define()
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        output = {"text": "é" * 2**19}
        queue.complete(lease, completed(output))

        assert ended_as(harness, submitted.task_id, "COMPLETED").output == output

    @pytest.mark.parametrize(
        "output",
        [
            pytest.param({"value": math.nan}, id="NaN"),
            pytest.param({"value": math.inf}, id="infinity"),
            pytest.param({"value": "x" * (10240 * 1024)}, id="larger than 10 MiB"),
        ],
    )
    def test_refuses_what_the_queue_will_never_take(
        self, harness: QueueHarness, queue: TaskQueue, output: dict[str, Any]
    ) -> None:
        task_type = harness.define()
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        with pytest.raises(QueueRefused):
            queue.complete(lease, completed(output))

        # The attempt is still there to be reported in another way.
        assert queue.observe(lease) == Held()
        queue.complete(lease, Outcome(kind="terminal", code="output", reason="refused"))
        ended_as(harness, submitted.task_id, "FAILED_WITH_TERMINAL_ERROR")

    def test_of_a_task_that_is_gone_is_ignored(
        self, harness: QueueHarness, queue: TaskQueue
    ) -> None:
        task_type = harness.define()
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        harness.remove(submitted.workflow_id)
        assert lost(harness, queue, lease).why == "gone"

        queue.complete(lease, completed())
        assert harness.task(submitted.task_id) is None

    def test_of_a_terminated_workflow_is_ignored(
        self, harness: QueueHarness, queue: TaskQueue
    ) -> None:
        task_type = harness.define()
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        harness.terminate(submitted.workflow_id, "changed our mind")
        queue.complete(lease, completed({"late": True}))

        view = ended_as(harness, submitted.task_id, "CANCELED")
        assert view.output == {}
        assert harness.workflow_status(submitted.workflow_id) == "TERMINATED"


class TestGiveBack:
    def test_keeps_the_attempt_for_anyone(
        self, harness: QueueHarness, queue: TaskQueue, other: TaskQueue
    ) -> None:
        task_type = harness.define()
        submitted = harness.submit(task_type, {"n": 1})
        lease = poll_one(harness, queue, task_type)
        queue.give_back(lease)
        again = poll_one(harness, other, task_type)

        assert again.task_id == lease.task_id == submitted.task_id
        assert again.retry_count == lease.retry_count == 0
        assert again.start_time_ms == lease.start_time_ms
        assert again.poll_count == lease.poll_count + 1
        assert again.worker_id == "other-worker"
        assert again.input == {"n": 1}
        assert again.token > lease.token

    def test_waits_for_the_delay(
        self, harness: QueueHarness, queue: TaskQueue, other: TaskQueue
    ) -> None:
        task_type = harness.define()
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        queue.give_back(lease, after_s=3)

        assert status_of(harness, submitted.task_id) == "SCHEDULED"
        assert other.poll(task_type, count=1, wait_s=0) == []
        assert poll_one(harness, other, task_type).task_id == submitted.task_id

    def test_uses_no_retry(self, harness: QueueHarness, queue: TaskQueue) -> None:
        task_type = harness.define(retryCount=0)
        submitted = harness.submit(task_type)
        for number in (1, 2, 3):
            lease = poll_one(harness, queue, task_type)
            assert (lease.poll_count, lease.retry_count) == (number, 0)
            queue.give_back(lease)

        queue.complete(poll_one(harness, queue, task_type), completed())
        workflow_becomes(harness, submitted.workflow_id, "COMPLETED")
        assert len(harness.attempts(submitted.workflow_id)) == 1

    def test_near_the_poll_timeout_keeps_the_task_alive(
        self, harness: QueueHarness, queue: TaskQueue, other: TaskQueue
    ) -> None:
        task_type = harness.define(pollTimeoutSeconds=4, retryCount=0)
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        harness.pass_time(3)
        queue.give_back(lease)

        again = poll_one(harness, other, task_type)
        assert (again.task_id, again.retry_count) == (submitted.task_id, 0)
        assert other.observe(again) == Held()


class TestLog:
    def test_lines_are_kept_in_order(self, harness: QueueHarness, queue: TaskQueue) -> None:
        task_type = harness.define()
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        queue.append_log(lease, ["one", 'two "quoted" é'])
        queue.append_log(lease, ["three"])

        def probe() -> str | None:
            view = harness.task(submitted.task_id)
            return text_of(view) if view and "three" in text_of(view) else None

        assert harness.eventually(probe, "the log") == 'one\ntwo "quoted" é\nthree'
        assert queue.observe(lease) == Held()

    def test_of_an_ended_or_unknown_task_is_no_error(
        self, harness: QueueHarness, queue: TaskQueue
    ) -> None:
        task_type = harness.define()
        submitted = harness.submit(task_type)
        lease = poll_one(harness, queue, task_type)
        queue.complete(lease, completed())
        queue.append_log(lease, ["after the end"])
        harness.remove(submitted.workflow_id)
        assert lost(harness, queue, lease).why == "gone"
        queue.append_log(lease, ["after the removal"])

        assert harness.task(submitted.task_id) is None


class TestDepth:
    def test_counts_what_waits(self, harness: QueueHarness, queue: TaskQueue) -> None:
        task_type = harness.define()
        assert queue.depth(task_type) == 0
        for _ in range(3):
            harness.submit(task_type)
        harness.submit(task_type, domain="blue")

        def depth_is(number: int, domain: str | None = None) -> None:
            harness.eventually(
                lambda: queue.depth(task_type, domain=domain) == number or None,
                f"depth {number} in domain {domain}",
            )

        depth_is(3)
        depth_is(1, "blue")
        lease = poll_one(harness, queue, task_type)
        depth_is(2)
        queue.give_back(lease, after_s=600)
        depth_is(3)


class TestTaskDefinition:
    def test_is_returned_as_registered(self, queue: TaskQueue) -> None:
        name = f"contract.{uuid.uuid4().hex}"
        definition = {
            "name": name,
            "ownerEmail": "contract@example.com",
            "description": "größer",
            "retryCount": 5,
            "retryLogic": "EXPONENTIAL_BACKOFF",
            "retryDelaySeconds": 7,
            "maxRetryDelaySeconds": 70,
            "backoffJitterMs": 1500,
            "responseTimeoutSeconds": 45,
            "timeoutSeconds": 900,
            "timeoutPolicy": "RETRY",
            "pollTimeoutSeconds": 600,
            "totalTimeoutSeconds": 3600,
            "concurrentExecLimit": 3,
            "inputKeys": ["params"],
            "outputKeys": ["result"],
        }
        queue.register_taskdef(definition)

        found = queue.taskdef(name)
        assert found is not None
        assert {key: found.get(key) for key in definition} == definition

    def test_of_an_unknown_name_is_none(self, queue: TaskQueue) -> None:
        assert queue.taskdef(f"nobody.registered.{uuid.uuid4().hex}") is None

    def test_keeps_fields_that_are_not_named(self, harness: QueueHarness, queue: TaskQueue) -> None:
        name = harness.define(
            retryCount=7, maxRetryDelaySeconds=70, backoffJitterMs=1500, description="kept"
        )
        queue.register_taskdef({"name": name, "retryCount": 2})
        queue.register_taskdef({"name": name, "retryCount": 2})

        found = queue.taskdef(name)
        assert found is not None
        assert found["retryCount"] == 2
        assert found["maxRetryDelaySeconds"] == 70
        assert found["backoffJitterMs"] == 1500
        assert found["description"] == "kept"
        assert found["ownerEmail"] == "contract@example.com"

    @pytest.mark.parametrize(
        "fields",
        [
            pytest.param({"responseTimeoutSeconds": 0}, id="no response timeout"),
            pytest.param(
                {"responseTimeoutSeconds": 61, "timeoutSeconds": 60},
                id="response timeout above the timeout",
            ),
            pytest.param(
                {"timeoutSeconds": 101, "totalTimeoutSeconds": 100},
                id="timeout above the total timeout",
            ),
        ],
    )
    def test_that_cannot_be_used_is_refused(
        self, harness: QueueHarness, queue: TaskQueue, fields: dict[str, int]
    ) -> None:
        name = harness.define(retryCount=4)
        with pytest.raises(QueueRefused):
            queue.register_taskdef({"name": name, **fields})

        found = queue.taskdef(name)
        assert found is not None
        assert found["responseTimeoutSeconds"] == 60
        assert found["timeoutSeconds"] == 0

    def test_may_have_equal_timeouts(self, harness: QueueHarness, queue: TaskQueue) -> None:
        equal = {"responseTimeoutSeconds": 60, "timeoutSeconds": 60, "totalTimeoutSeconds": 60}
        name = harness.define(**equal)

        found = queue.taskdef(name)
        assert found is not None
        assert {key: found[key] for key in equal} == equal


class TestConnection:
    def test_ping_is_answered(self, queue: TaskQueue) -> None:
        queue.ping()
        queue.ping()

    def test_close_may_be_repeated(self, queue: TaskQueue) -> None:
        queue.ping()
        queue.close()
        queue.close()
