"""What only a real Conductor shows of the adapter: its limits, its texts, its own refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest

from perago_worker.adapters.conductor import ConductorQueue, ConductorSettings
from perago_worker.adapters.conductor.mapping import MAX_LOG_ENTRIES, MAX_OUTPUT_BYTES
from perago_worker.adapters.system import SystemClock
from perago_worker.errors import QueueError, QueueRefused
from perago_worker.models import Held, Lease, Outcome
from tests.contract.conductor_harness import ConductorHarness
from tests.contract.queue_harness import TaskView

pytestmark = pytest.mark.servers


@pytest.fixture
def harness(conductor_url: str) -> Iterator[ConductorHarness]:
    with closing(ConductorHarness(conductor_url)) as harness:
        yield harness


@pytest.fixture
def queue(harness: ConductorHarness) -> ConductorQueue:
    return harness.queue()


def completed(output: dict[str, Any] | None = None, *, log: tuple[str, ...] = ()) -> Outcome:
    return Outcome(kind="completed", code="no_workspace", output=output or {}, log=log)


def text_of_size(size: int) -> dict[str, Any]:
    """An output whose JSON has `size` bytes."""
    return {"text": "x" * (size - len('{"text":""}'))}


def leased(harness: ConductorHarness, queue: ConductorQueue, **fields: Any) -> Lease:
    """Start a workflow and poll its task."""
    task_type = harness.define(**fields)
    harness.submit(task_type)
    leases = harness.eventually(lambda: queue.poll(task_type, count=1, wait_s=1) or None, "a task")
    return leases[0]


def viewed(harness: ConductorHarness, lease: Lease) -> TaskView:
    view = harness.task(lease.task_id)
    assert view is not None
    return view


class TestLimits:
    def test_largest_output_is_taken(
        self, harness: ConductorHarness, queue: ConductorQueue
    ) -> None:
        lease = leased(harness, queue)
        queue.complete(lease, completed(text_of_size(MAX_OUTPUT_BYTES)))
        assert viewed(harness, lease).status == "COMPLETED"

    def test_larger_output_would_end_the_workflow(
        self, harness: ConductorHarness, queue: ConductorQueue, conductor_url: str
    ) -> None:
        """Why the adapter refuses: the server answers 200 and fails the task for good."""
        lease = leased(harness, queue)
        update = {
            "workflowInstanceId": lease.workflow_id,
            "taskId": lease.task_id,
            "status": "COMPLETED",
            "outputData": text_of_size(MAX_OUTPUT_BYTES + 1),
        }
        body = json.dumps(update, separators=(",", ":")).encode()
        json_body = {"Content-Type": "application/json"}
        answer = httpx.post(f"{conductor_url}/tasks", content=body, headers=json_body, timeout=60)
        assert answer.status_code == 200
        assert viewed(harness, lease).status == "FAILED_WITH_TERMINAL_ERROR"

    def test_larger_output_is_refused_and_the_lease_kept(
        self, harness: ConductorHarness, queue: ConductorQueue
    ) -> None:
        lease = leased(harness, queue)
        with pytest.raises(QueueRefused, match=str(11 * 1024 * 1024)):
            queue.complete(lease, completed(text_of_size(11 * 1024 * 1024)))
        assert queue.observe(lease) == Held()

    def test_log_entries_beyond_the_limit_are_joined_and_kept(
        self, harness: ConductorHarness, queue: ConductorQueue
    ) -> None:
        lease = leased(harness, queue)
        lines = tuple(f"line {n} é" for n in range(3 * MAX_LOG_ENTRIES))
        queue.complete(lease, completed(log=lines))
        log = harness.eventually(lambda: viewed(harness, lease).log or None, "the log")
        assert len(log) == MAX_LOG_ENTRIES
        assert "\n".join(log) == "\n".join(lines)

    def test_input_in_storage_without_an_address_fails_the_task(
        self, harness: ConductorHarness, queue: ConductorQueue
    ) -> None:
        """Conductor keeps inputs above 3 MiB elsewhere; its built-in storage gives no address."""
        task_type = harness.define(retryCount=0)
        submitted = harness.submit(task_type, {"text": "x" * 4_000_000})
        assert queue.poll(task_type, count=1, wait_s=5) == []
        view = harness.task(submitted.task_id)
        assert view is not None
        assert view.status == "FAILED"
        assert view.reason.startswith("input_unreadable: ")


class TestTexts:
    def test_log_arrives_as_it_was_written(
        self, harness: ConductorHarness, queue: ConductorQueue
    ) -> None:
        lease = leased(harness, queue)
        lines = ['{"json": "größer"}', 'quotes " and \\ and\ttab', "", "🚀 end"]
        queue.append_log(lease, lines)
        log = harness.eventually(lambda: viewed(harness, lease).log or None, "the log")
        assert log == ("\n".join(lines),)

    def test_refusal_says_what_is_wrong(
        self, harness: ConductorHarness, queue: ConductorQueue
    ) -> None:
        name = harness.define()
        with pytest.raises(QueueRefused, match="61 must be less than timeoutSeconds: 60"):
            queue.register_taskdef(
                {"name": name, "responseTimeoutSeconds": 61, "timeoutSeconds": 60}
            )


class TestUpdates:
    def test_second_report_changes_nothing(
        self, harness: ConductorHarness, queue: ConductorQueue
    ) -> None:
        lease = leased(harness, queue)
        queue.complete(lease, completed({"report": 1}))
        queue.complete(lease, completed({"report": 2}))
        queue.complete(lease, Outcome(kind="terminal", code="late", reason="too late"))
        assert viewed(harness, lease).output == {"report": 1}
        assert harness.workflow_status(lease.workflow_id) == "COMPLETED"

    def test_extension_after_the_report_changes_nothing(
        self, harness: ConductorHarness, queue: ConductorQueue
    ) -> None:
        """One that overlaps the report would undo it, which is why the caller holds a lock."""
        lease = leased(harness, queue)
        queue.complete(lease, completed({"report": 1}))
        queue.extend(lease)
        assert viewed(harness, lease).status == "COMPLETED"

    def test_given_back_after_its_poll_timeout_the_task_lives(
        self, harness: ConductorHarness, queue: ConductorQueue
    ) -> None:
        lease = leased(harness, queue, pollTimeoutSeconds=2, retryCount=0)
        harness.pass_time(4)
        queue.give_back(lease)
        assert viewed(harness, lease).status == "SCHEDULED"
        again = harness.eventually(
            lambda: queue.poll(lease.task_type, count=1, wait_s=5) or None, "the task again"
        )
        assert (again[0].task_id, again[0].retry_count) == (lease.task_id, 0)
        assert queue.observe(again[0]) == Held()

    def test_from_many_threads(self, harness: ConductorHarness, queue: ConductorQueue) -> None:
        lease = leased(harness, queue)
        with ThreadPoolExecutor(32) as pool:
            observations = list(pool.map(lambda _n: queue.observe(lease), range(64)))
        assert observations == [Held()] * 64


class TestLoops:
    def test_iterations_are_lineages_of_their_own(
        self, harness: ConductorHarness, queue: ConductorQueue, conductor_url: str
    ) -> None:
        task_type = harness.define()
        body = {"name": task_type, "taskReferenceName": "body", "type": "SIMPLE"}
        loop = {
            "name": "loop",
            "taskReferenceName": "loop",
            "type": "DO_WHILE",
            "loopCondition": "$.loop['iteration'] < 2",
            "loopOver": [body],
        }
        definition = {
            "name": f"loop.{task_type}",
            "version": 1,
            "schemaVersion": 2,
            "ownerEmail": "integration@example.com",
            "tasks": [loop],
        }
        request = {"name": definition["name"], "version": 1, "workflowDef": definition}
        httpx.post(f"{conductor_url}/workflow", json=request).raise_for_status()

        leases = []
        for _ in range(2):
            polled = harness.eventually(
                lambda: queue.poll(task_type, count=1, wait_s=5) or None, "an iteration"
            )
            leases += polled
            queue.complete(polled[0], completed())
        assert [lease.iteration for lease in leases] == [1, 2]
        assert len({str(lease.lineage) for lease in leases}) == 2


class TestAccess:
    def opened(self, url: str, **settings: Any) -> ConductorQueue:
        settings = {"request_timeout_s": 30, **settings}
        return ConductorQueue.open(
            ConductorSettings(url, **settings), clock=SystemClock(), worker_id="integration"
        )

    def test_keys_do_no_harm_to_open_conductor(self, conductor_url: str) -> None:
        with closing(self.opened(conductor_url, auth_key_id="k", auth_key_secret="s")) as queue:  # noqa: S106
            queue.ping()
            assert queue.poll("nobody.registered", count=1, wait_s=0) == []

    def test_address_may_leave_out_the_api(self, conductor_url: str) -> None:
        with closing(self.opened(conductor_url.removesuffix("/api"))) as queue:
            queue.ping()

    def test_address_of_something_else_is_found_out(self, conductor_url: str) -> None:
        with closing(self.opened(f"{conductor_url}/v2")) as queue, pytest.raises(QueueError):
            queue.ping()
