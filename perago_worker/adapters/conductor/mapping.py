"""Conductor's task records to leases and observations, and outcomes to what Conductor is sent.

Pure functions: nothing here talks to a server. Field names are as Conductor's JSON spells them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from perago_worker.errors import QueueRefused, QueueUnavailable
from perago_worker.models import Held, Lease, LeaseIdentity, Lost, Observation, Outcome
from perago_worker.ports import TaskEnd

MAX_OUTPUT_BYTES = 10 * 1024 * 1024
"""Conductor takes a report with a larger output, answers 200, and ends the workflow for it.

Source: `conductor.app.maxTaskOutputPayloadSizeThreshold`, 10240 KB unless configured.
"""

MAX_LOG_ENTRIES = 10
"""Conductor keeps the first entries of a report and drops the rest.

Source: `conductor.app.taskExecLogSizeLimit`.
"""

POLL_TIMEOUT_MARGIN_S = 5
"""How far a task is kept from its poll timeout when it goes back to the queue."""

_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))
"""Not ASCII-only: Conductor measures UTF-8, and so is what is measured here."""

Record = Mapping[str, Any]
"""A task as Conductor's JSON has it."""


class UnreadableTaskError(Exception):
    """A polled task that no lease can be made of."""


# --- from Conductor -------------------------------------------------------------------------------


def read_lease(
    record: Record, *, task_type: str, domain: str | None, worker_id: str, granted_at: float
) -> Lease:
    """Read a polled task.

    The worker id is that of who polled and not the record's: whoever polls the same task a moment
    later overwrites it there, and `observe` must then not find us the holder.

    Raises:
        UnreadableTaskError: A field is missing or is not what it should be.
    """
    definition = _definition(record)
    try:
        return Lease(
            task_type=task_type,
            domain=record.get("domain") or domain,
            workflow_id=record["workflowInstanceId"],
            workflow_type=record.get("workflowType") or "",
            task_id=record["taskId"],
            reference_name=record["referenceTaskName"],
            iteration=record.get("iteration") or 0,
            retry_count=record["retryCount"],
            poll_count=record["pollCount"],
            worker_id=worker_id,
            start_time_ms=record["startTime"],
            scheduled_time_ms=record["scheduledTime"],
            response_timeout_s=record["responseTimeoutSeconds"],
            timeout_s=definition.get("timeoutSeconds") or 0,
            poll_timeout_s=definition.get("pollTimeoutSeconds") or 0,
            input={} if record.get("inputData") is None else record["inputData"],
            granted_at=granted_at,
        )
    except KeyError as problem:
        raise UnreadableTaskError(f"the task has no {problem.args[0]}") from problem
    except ValidationError as problem:
        fields = ", ".join(sorted({str(error["loc"][0]) for error in problem.errors()}))
        raise UnreadableTaskError(f"the task has a strange {fields}") from problem


def read_observation(record: Record, lease: Lease) -> Observation:
    """Tell from a task's record whether `lease` is held."""
    status = str(record.get("status"))
    detail = _detail(record)
    if status in {"CANCELED", "SKIPPED"}:
        return Lost(why="cancelled", detail=detail)
    if _identity(record) != lease.identity:
        return Lost(why="superseded", detail=detail)
    match status:
        case "IN_PROGRESS":
            return Held()
        case "COMPLETED" | "COMPLETED_WITH_ERRORS" | "FAILED" | "FAILED_WITH_TERMINAL_ERROR":
            return Lost(why="reported", detail=detail)
        case "TIMED_OUT" if not record.get("retried"):  # no retries left, so the workflow ended
            return Lost(why="cancelled", detail=detail)
        case _:  # a retry has it, or it waits in the queue again
            return Lost(why="superseded", detail=detail)


def read_end(record: Record) -> TaskEnd:
    """Tell from a task's record whether and how the task has ended.

    A retry is another task, with a record of its own.

    Raises:
        QueueUnavailable: The record says nothing that is known here.
    """
    match record.get("status"):
        case "SCHEDULED" | "IN_PROGRESS":
            return "running"
        case "COMPLETED":
            return "completed"
        case "FAILED" | "FAILED_WITH_TERMINAL_ERROR" | "COMPLETED_WITH_ERRORS":
            return "failed"
        case "TIMED_OUT" | "CANCELED" | "SKIPPED":
            return "failed"
        case strange:
            raise QueueUnavailable(f"task {record.get('taskId')} has the strange status {strange}")


def _definition(record: Record) -> Record:
    """The definition as it was when the workflow started, which is what the server goes by."""
    places = (record, record.get("workflowTask"))
    found = (place.get("taskDefinition") for place in places if isinstance(place, dict))
    return next((definition for definition in found if isinstance(definition, dict)), {})


def _identity(record: Record) -> LeaseIdentity | None:
    try:
        return LeaseIdentity(
            task_id=record["taskId"],
            retry_count=record["retryCount"],
            poll_count=record["pollCount"],
            worker_id=record["workerId"],
            start_time_ms=record["startTime"],
        )
    except (KeyError, ValidationError):
        return None


def _detail(record: Record) -> str:
    facts = {
        "status": "status",
        "retry": "retryCount",
        "poll": "pollCount",
        "worker": "workerId",
        "start": "startTime",
    }
    parts = [f"{word} {record.get(key)}" for word, key in facts.items()]
    if reason := record.get("reasonForIncompletion"):
        parts.append(f"reason {reason}")
    return " ".join(", ".join(parts).split())


# --- to Conductor ---------------------------------------------------------------------------------


def report(lease: Lease, outcome: Outcome, *, time_ms: int) -> bytes:
    """Render an outcome as the body of a task update.

    Raises:
        QueueRefused: The output is not JSON or is larger than Conductor takes; or outcomes of this
            kind are not reported.
    """
    output = _output(outcome)
    body = _update(
        lease,
        _status(outcome),
        reasonForIncompletion=_encodable(outcome.full_reason) or None,
        logs=[_log(lease, entry, time_ms) for entry in log_entries(outcome.log)] or None,
    )
    # It is rendered already, to be measured, so that it is rendered once.
    return body if output is None else body[:-1] + b',"outputData":' + output + b"}"


def failure(task_id: str, workflow_id: str, worker_id: str, reason: str) -> bytes:
    """Render the failure of a task of which there is no lease."""
    return _json(
        {
            "taskId": task_id,
            "workflowInstanceId": workflow_id,
            "workerId": worker_id,
            "status": "FAILED",
            "reasonForIncompletion": _encodable(reason),
        }
    )


def extension(lease: Lease) -> bytes:
    """Render a lease extension; Conductor looks at nothing else of it."""
    return _update(lease, "IN_PROGRESS", extendLease=True)


def give_back(lease: Lease, *, after_s: int) -> bytes:
    """Render the update that puts a task back in the queue: in progress, but not extending."""
    return _update(lease, "IN_PROGRESS", extendLease=False, callbackAfterSeconds=after_s)


def give_back_delay(record: Record, lease: Lease, *, after_s: float, server_time: float) -> int:
    """Return the whole seconds after which a task that is given back is delivered again.

    Conductor ends a waiting task once `poll timeout + delay` have passed since it was scheduled,
    and giving it back does not schedule it anew, so that without a delay a task that ran for longer
    than its poll timeout would end at once. A negative delay would park it for ever.

    `server_time` is the server's wall clock in seconds since the epoch, since it is the server that
    compares.
    """
    asked = max(0, math.ceil(after_s))
    if lease.poll_timeout_s <= 0:
        return asked
    start_delay = record.get("startDelayInSeconds") or 0
    waited = server_time - lease.scheduled_time_ms / 1000 - start_delay
    return max(asked, math.ceil(waited - lease.poll_timeout_s + POLL_TIMEOUT_MARGIN_S))


def log_entries(lines: Sequence[str]) -> list[str]:
    """Join the tail of `lines` so that no entry exceeds those that Conductor keeps."""
    if len(lines) <= MAX_LOG_ENTRIES:
        return list(lines)
    head, tail = lines[: MAX_LOG_ENTRIES - 1], lines[MAX_LOG_ENTRIES - 1 :]
    return [*head, "\n".join(tail)]


def log_body(lines: Sequence[str]) -> bytes:
    """Render lines as one log entry of plain text."""
    return _encodable("\n".join(lines)).encode()


def _status(outcome: Outcome) -> str:
    match outcome.kind:
        case "completed":
            return "COMPLETED"
        case "failed":
            return "FAILED"
        case "terminal":
            return "FAILED_WITH_TERMINAL_ERROR"
        case "superseded" | "cancelled" | "released":
            raise QueueRefused(f"an outcome of kind {outcome.kind!r} is not reported")


def _output(outcome: Outcome) -> bytes | None:
    if outcome.output is None:
        return None
    try:
        output = _json(outcome.output)
    except (TypeError, ValueError, RecursionError) as problem:
        raise QueueRefused(f"the output is not JSON: {problem}") from problem
    if len(output) > MAX_OUTPUT_BYTES:
        raise QueueRefused(
            f"the output has {len(output)} bytes of JSON, Conductor takes {MAX_OUTPUT_BYTES}"
        )
    return output


def _update(lease: Lease, status: str, **fields: Any) -> bytes:
    """Render an update of a task, without fields of None."""
    update = {
        "taskId": lease.task_id,
        "workflowInstanceId": lease.workflow_id,
        "workerId": lease.worker_id,
        "status": status,
    }
    return _json(update | {name: value for name, value in fields.items() if value is not None})


def _log(lease: Lease, entry: str, time_ms: int) -> Record:
    # Conductor silently leaves out entries that lack the task or the time.
    return {"log": _encodable(entry), "taskId": lease.task_id, "createdTime": time_ms}


def _encodable(text: str) -> str:
    """Text with a mark in place of what UTF-8 cannot hold, such as halves of file names."""
    return text.encode("utf-8", "replace").decode()


def _json(value: Any) -> bytes:
    return _ENCODER.encode(value).encode()
