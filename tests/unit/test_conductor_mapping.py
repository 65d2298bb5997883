"""How Conductor's task records become leases and observations, and outcomes what it is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from perago_worker.adapters.conductor import mapping
from perago_worker.adapters.conductor.mapping import (
    MAX_LOG_ENTRIES,
    MAX_OUTPUT_BYTES,
    UnreadableTaskError,
)
from perago_worker.adapters.partial_import import without_packages
from perago_worker.errors import QueueRefused, QueueUnavailable
from perago_worker.models import Held, Lease, Lost, Outcome
from perago_worker.ports import TaskEnd

RECORD: dict[str, Any] = {
    "taskType": "features.build",
    "status": "IN_PROGRESS",
    "inputData": {"params": {"n": 1}},
    "referenceTaskName": "build_ref",
    "retryCount": 1,
    "pollCount": 2,
    "scheduledTime": 1_700_000_000_000,
    "startTime": 1_700_000_001_000,
    "startDelayInSeconds": 0,
    "retried": False,
    "responseTimeoutSeconds": 60,
    "workflowInstanceId": "workflow-1",
    "workflowType": "features",
    "taskId": "task-1",
    "workerId": "host:1:abc",
    "iteration": 3,
    "outputData": {},
    "workflowTask": {"name": "features.build", "taskDefinition": {"timeoutSeconds": 5}},
    "taskDefinition": {
        "timeoutSeconds": 900,
        "pollTimeoutSeconds": 300,
        "responseTimeoutSeconds": 99,
    },
}
"""A polled task as Conductor 3.32.1 sends it, without what the adapter does not read."""


def record(**changes: Any) -> dict[str, Any]:
    return {**RECORD, **changes}


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in RECORD.items() if key not in keys}


def read(task: dict[str, Any], *, domain: str | None = None) -> Lease:
    return mapping.read_lease(
        task, task_type="features.build", domain=domain, worker_id="host:1:abc", granted_at=7.5
    )


@pytest.fixture
def lease() -> Lease:
    return read(RECORD)


def sent(lease: Lease, outcome: Outcome) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(mapping.report(lease, outcome, time_ms=17))
    return body


def completed(output: dict[str, Any], *, log: tuple[str, ...] = ()) -> Outcome:
    return Outcome(kind="completed", code="published", output=output, log=log)


class TestReadLease:
    def test_takes_every_field(self) -> None:
        assert read(RECORD) == Lease(
            task_type="features.build",
            domain=None,
            workflow_id="workflow-1",
            workflow_type="features",
            task_id="task-1",
            reference_name="build_ref",
            iteration=3,
            retry_count=1,
            poll_count=2,
            worker_id="host:1:abc",
            start_time_ms=1_700_000_001_000,
            scheduled_time_ms=1_700_000_000_000,
            response_timeout_s=60,
            timeout_s=900,
            poll_timeout_s=300,
            input={"params": {"n": 1}},
            granted_at=7.5,
        )

    def test_is_held_by_who_polled_and_not_by_who_polled_after(self) -> None:
        assert read(record(workerId="host:2:def")).worker_id == "host:1:abc"

    def test_limits_are_those_of_the_workflow_task_without_a_definition_of_its_own(self) -> None:
        assert read(without("taskDefinition")).timeout_s == 5

    def test_limits_are_none_without_any_definition(self) -> None:
        lease = read(without("taskDefinition", "workflowTask"))
        assert (lease.timeout_s, lease.poll_timeout_s) == (0, 0)

    @pytest.mark.parametrize("strange", [None, [], "text", 1])
    def test_survives_strange_definitions(self, strange: Any) -> None:
        assert read(record(taskDefinition=strange, workflowTask=strange)).timeout_s == 0

    def test_missing_optional_fields_have_neutral_values(self) -> None:
        lease = read(without("inputData", "iteration", "workflowType"))
        assert (lease.input, lease.iteration, lease.workflow_type) == ({}, 0, "")

    def test_domain_is_the_records_and_else_the_one_polled(self) -> None:
        assert read(record(domain="blue"), domain="red").domain == "blue"
        assert read(RECORD, domain="red").domain == "red"

    @pytest.mark.parametrize(
        "key",
        [
            "workflowInstanceId",
            "taskId",
            "referenceTaskName",
            "retryCount",
            "pollCount",
            "startTime",
            "scheduledTime",
            "responseTimeoutSeconds",
        ],
    )
    def test_names_the_field_that_is_missing(self, key: str) -> None:
        with pytest.raises(UnreadableTaskError, match=key):
            read(without(key))

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"responseTimeoutSeconds": 0}, "response_timeout_s"),
            ({"inputData": ["a", "list"]}, "input"),
            ({"taskId": None}, "task_id"),
            ({"pollCount": "many"}, "poll_count"),
        ],
    )
    def test_names_the_field_that_is_strange(self, changes: dict[str, Any], field: str) -> None:
        with pytest.raises(UnreadableTaskError, match=field):
            read(record(**changes))


class TestReadObservation:
    def test_held(self, lease: Lease) -> None:
        assert mapping.read_observation(RECORD, lease) == Held()

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            # The lease is ours by every mark, so the status decides.
            ({"status": "SCHEDULED"}, "superseded"),
            ({"status": "TIMED_OUT", "retried": True}, "superseded"),
            ({"status": "TIMED_OUT", "retried": False}, "cancelled"),
            ({"status": "COMPLETED"}, "reported"),
            ({"status": "COMPLETED_WITH_ERRORS"}, "reported"),
            ({"status": "FAILED", "retried": True}, "reported"),
            ({"status": "FAILED_WITH_TERMINAL_ERROR"}, "reported"),
            ({"status": "CANCELED"}, "cancelled"),
            ({"status": "SKIPPED"}, "cancelled"),
            ({"status": "SOMETHING_NEW"}, "superseded"),
            ({"status": None}, "superseded"),
            # One mark differs: whatever the task is now, it is not by us.
            ({"workerId": "host:2:def"}, "superseded"),
            ({"workerId": None}, "superseded"),
            ({"pollCount": 3}, "superseded"),
            ({"retryCount": 2}, "superseded"),
            ({"startTime": 1_700_000_009_000}, "superseded"),
            ({"taskId": "task-2"}, "superseded"),
            ({"status": "COMPLETED", "workerId": "host:2:def"}, "superseded"),
            ({"status": "FAILED", "pollCount": 3}, "superseded"),
            # An ended workflow is told as such whoever held the task last.
            ({"status": "CANCELED", "workerId": None}, "cancelled"),
        ],
    )
    def test_lost(self, lease: Lease, changes: dict[str, Any], why: str) -> None:
        observation = mapping.read_observation(record(**changes), lease)
        assert isinstance(observation, Lost)
        assert observation.why == why

    def test_without_marks_is_lost(self, lease: Lease) -> None:
        observation = mapping.read_observation({"status": "IN_PROGRESS"}, lease)
        assert isinstance(observation, Lost)

    def test_detail_is_one_line_with_the_servers_reason(self, lease: Lease) -> None:
        task = record(status="TIMED_OUT", retried=True, reasonForIncompletion="no\nanswer")
        observation = mapping.read_observation(task, lease)
        assert isinstance(observation, Lost)
        assert "TIMED_OUT" in observation.detail
        assert "no answer" in observation.detail


class TestReadEnd:
    @pytest.mark.parametrize(
        ("status", "end"),
        [
            ("SCHEDULED", "running"),
            ("IN_PROGRESS", "running"),
            ("COMPLETED", "completed"),
            ("COMPLETED_WITH_ERRORS", "failed"),
            ("FAILED", "failed"),
            ("FAILED_WITH_TERMINAL_ERROR", "failed"),
            ("TIMED_OUT", "failed"),
            ("CANCELED", "failed"),
            ("SKIPPED", "failed"),
        ],
    )
    def test_of_every_status_there_is(self, status: str, end: TaskEnd) -> None:
        assert mapping.read_end(record(status=status)) == end

    @pytest.mark.parametrize("status", ["PAUSED", "completed", "", None, 7])
    def test_of_another_status_is_not_guessed(self, status: Any) -> None:
        """Guessed wrong, a stage in use would be dropped, or work adopted that goes on."""
        with pytest.raises(QueueUnavailable, match=f"task-1 has the strange status {status}"):
            mapping.read_end(record(status=status))

    def test_of_a_record_without_status_is_not_guessed(self) -> None:
        with pytest.raises(QueueUnavailable, match="strange status"):
            mapping.read_end(without("status"))


class TestReport:
    def test_of_a_completed_attempt(self, lease: Lease) -> None:
        assert sent(lease, completed({"result": {"rows": 3}}, log=("one",))) == {
            "workflowInstanceId": "workflow-1",
            "taskId": "task-1",
            "workerId": "host:1:abc",
            "status": "COMPLETED",
            "outputData": {"result": {"rows": 3}},
            "logs": [{"log": "one", "taskId": "task-1", "createdTime": 17}],
        }

    @pytest.mark.parametrize(
        ("kind", "status"), [("failed", "FAILED"), ("terminal", "FAILED_WITH_TERMINAL_ERROR")]
    )
    def test_of_a_failed_attempt(self, lease: Lease, kind: Any, status: str) -> None:
        body = sent(lease, Outcome(kind=kind, code="body", reason="it broke"))
        assert (body["status"], body["reasonForIncompletion"]) == (status, "body: it broke")
        assert "outputData" not in body

    @pytest.mark.parametrize("kind", ["superseded", "cancelled", "released"])
    def test_of_what_is_not_reported_is_refused(self, lease: Lease, kind: Any) -> None:
        with pytest.raises(QueueRefused, match=kind):
            mapping.report(lease, Outcome(kind=kind, code="x"), time_ms=0)

    def test_keeps_output_as_it_is(self, lease: Lease) -> None:
        output: dict[str, Any] = {
            "text": "größer 🚀\n\x00",
            "none": None,
            "list": [1, 2.5, {}],
            "deep": {"a": []},
        }
        assert sent(lease, completed(output))["outputData"] == output

    def test_keeps_an_empty_output(self, lease: Lease) -> None:
        assert sent(lease, completed({}))["outputData"] == {}

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(float("nan"), id="NaN"),
            pytest.param(float("-inf"), id="infinity"),
            pytest.param({1, 2}, id="set"),
            pytest.param(b"bytes", id="bytes"),
            pytest.param("half \ud83d", id="lone surrogate"),
        ],
    )
    def test_refuses_an_output_that_is_not_json(self, lease: Lease, value: Any) -> None:
        with pytest.raises(QueueRefused, match="not JSON"):
            mapping.report(lease, completed({"value": value}), time_ms=0)

    def test_refuses_an_output_that_contains_itself(self, lease: Lease) -> None:
        output: dict[str, Any] = {}
        outcome = completed(output)
        output["again"] = output
        cyclic = outcome.model_copy(update={"output": output})
        with pytest.raises(QueueRefused, match="not JSON"):
            mapping.report(lease, cyclic, time_ms=0)

    def test_takes_an_output_of_the_limit_and_refuses_one_byte_more(self, lease: Lease) -> None:
        frame = len('{"text":""}')
        text = "x" * (MAX_OUTPUT_BYTES - frame)
        assert sent(lease, completed({"text": text}))["outputData"] == {"text": text}
        with pytest.raises(
            QueueRefused, match=rf"{MAX_OUTPUT_BYTES + 1} bytes.*{MAX_OUTPUT_BYTES}"
        ):
            mapping.report(lease, completed({"text": text + "x"}), time_ms=0)

    def test_measures_output_in_bytes_of_utf8(self, lease: Lease) -> None:
        text = "é" * (MAX_OUTPUT_BYTES // 2)
        with pytest.raises(QueueRefused, match="bytes"):
            mapping.report(lease, completed({"text": text}), time_ms=0)

    def test_marks_what_utf8_cannot_hold_in_reason_and_log(self, lease: Lease) -> None:
        outcome = Outcome(kind="failed", code="body", reason="no \udcff file", log=("a \udcff",))
        body = sent(lease, outcome)
        assert body["reasonForIncompletion"] == "body: no ? file"
        assert body["logs"][0]["log"] == "a ?"


class TestOtherUpdates:
    def test_extension(self, lease: Lease) -> None:
        body = json.loads(mapping.extension(lease))
        assert (body["status"], body["extendLease"]) == ("IN_PROGRESS", True)
        assert body["workerId"] == "host:1:abc"
        assert "callbackAfterSeconds" not in body

    def test_give_back_does_not_extend(self, lease: Lease) -> None:
        body = json.loads(mapping.give_back(lease, after_s=0))
        assert (body["status"], body["extendLease"]) == ("IN_PROGRESS", False)
        assert body["callbackAfterSeconds"] == 0
        assert body["workerId"] == "host:1:abc"

    def test_failure_of_what_is_not_a_lease(self) -> None:
        body = json.loads(mapping.failure("task-1", "workflow-1", "host:1:abc", "unreadable"))
        assert body["status"] == "FAILED"
        assert body["reasonForIncompletion"] == "unreadable"


def test_fields_of_updates_are_those_that_the_sdk_knows(lease: Lease) -> None:
    with without_packages("conductor.client", "conductor.client.http.models"):
        from conductor.client.http.models.task_exec_log import TaskExecLog
        from conductor.client.http.models.task_result import TaskResult
    outcome = Outcome(kind="failed", code="body_failed", reason="why", output={"a": 1}, log=("x",))
    updates = [
        mapping.report(lease, outcome, time_ms=1),
        mapping.failure("task", "workflow", "worker", "why"),
        mapping.extension(lease),
        mapping.give_back(lease, after_s=1),
    ]
    for update in map(json.loads, updates):
        assert set(update) <= set(TaskResult.attribute_map.values())
        for entry in update.get("logs", ()):
            assert set(entry) == set(TaskExecLog.attribute_map.values())


class TestLogs:
    @pytest.mark.parametrize("number", [0, 1, MAX_LOG_ENTRIES])
    def test_up_to_the_limit_are_entries_of_their_own(self, number: int) -> None:
        lines = [f"line {n}" for n in range(number)]
        assert mapping.log_entries(lines) == lines

    @pytest.mark.parametrize("number", [MAX_LOG_ENTRIES + 1, 100])
    def test_beyond_the_limit_share_the_last_entry(self, number: int) -> None:
        lines = [f"line {n}" for n in range(number)]
        entries = mapping.log_entries(lines)
        assert len(entries) == MAX_LOG_ENTRIES
        assert "\n".join(entries) == "\n".join(lines)

    def test_body_is_plain_text(self) -> None:
        assert mapping.log_body(["one", 'two "é"']) == b'one\ntwo "\xc3\xa9"'


class TestGiveBackDelay:
    @pytest.mark.parametrize(
        ("poll_timeout_s", "waited_s", "after_s", "expected"),
        [
            pytest.param(0, 1e6, 0, 0, id="no poll timeout"),
            pytest.param(0, 1e6, 2.2, 3, id="whole seconds, not less than asked"),
            pytest.param(0, 0, -5, 0, id="never negative"),
            pytest.param(300, 100, 0, 0, id="far from the poll timeout"),
            pytest.param(300, 100, 40, 40, id="as asked when that keeps it alive"),
            pytest.param(300, 295, 0, 0, id="at the margin"),
            pytest.param(300, 296, 0, 1, id="within the margin"),
            pytest.param(300, 310, 0, 15, id="past the poll timeout"),
            pytest.param(300, 310, 60, 60, id="asked for more than is needed"),
        ],
    )
    def test_keeps_the_task_from_its_poll_timeout(
        self, lease: Lease, poll_timeout_s: float, waited_s: float, after_s: float, expected: int
    ) -> None:
        lease = lease.model_copy(update={"poll_timeout_s": poll_timeout_s})
        server_time = lease.scheduled_time_ms / 1000 + waited_s
        delay = mapping.give_back_delay(RECORD, lease, after_s=after_s, server_time=server_time)
        assert delay == expected

    def test_does_not_count_the_delay_before_a_retry(self, lease: Lease) -> None:
        task = record(startDelayInSeconds=60)
        server_time = lease.scheduled_time_ms / 1000 + 350
        assert mapping.give_back_delay(task, lease, after_s=0, server_time=server_time) == 0
