"""The step that runs the author's function, and what each way of ending means for the attempt."""

from __future__ import annotations

import json
from typing import Any

import structlog

from perago_worker.attempt.body.protocol import Call, Raised, Returned
from perago_worker.attempt.body.runner import Died, Stopped
from perago_worker.attempt.codes import Code
from perago_worker.attempt.context import Attempt
from perago_worker.errors import RetryableAttemptError, TerminalAttemptError

MAX_OUTPUT_BYTES = 10 * 1024 * 1024 - 64 * 1024
"""Largest result that is reported; leaves room for what the report holds beside it.
Source: Conductor 3.32.1 ends a task whose output is above 10240 KB."""


def body(attempt: Attempt) -> None:
    """Run the author's function."""
    directory = attempt.directory
    lease = attempt.lease
    call = Call(
        workflow_id=lease.workflow_id,
        task_id=lease.task_id,
        retry_count=lease.retry_count,
        params=attempt.params,
        workspace=str(directory.workspace) if attempt.definition.has_workspace else None,
        scratch=str(directory.scratch),
        remaining_s=_body_time(attempt),
    )
    # What a body in this thread logs by itself carries the same fields as what it prints.
    with structlog.contextvars.bound_contextvars(
        task=lease.task_type,
        task_id=lease.task_id,
        workflow_id=lease.workflow_id,
        retry=lease.retry_count,
        poll=lease.poll_count,
    ):
        reply = attempt.tools.body.run(call, stop=attempt.stop, on_output=attempt.log.add)
    match reply:
        case Returned(result=result):
            attempt.result = _within_limit(result)
        case Raised() as raised:
            raise _raised_error(raised)
        case Died(reason=reason):
            raise RetryableAttemptError(Code.CHILD_DIED, reason)
        case Stopped():
            attempt.stop.check()


def _body_time(attempt: Attempt) -> float | None:
    """Return the seconds the body has: the configured ones or the server's, whichever are less."""
    limits = []
    if attempt.tools.settings.body_timeout_s is not None:
        limits.append(attempt.tools.settings.body_timeout_s)
    if attempt.lease.timeout_s:
        used = attempt.tools.clock.now() - attempt.lease.granted_at
        limits.append(max(0.1, attempt.lease.timeout_s - used))
    return min(limits, default=None)


def _within_limit(result: dict[str, Any]) -> dict[str, Any]:
    size = len(json.dumps(result).encode())
    if size > MAX_OUTPUT_BYTES:
        raise TerminalAttemptError(
            Code.OUTPUT_TOO_LARGE,
            f"the result is {size} bytes as JSON, more than the {MAX_OUTPUT_BYTES} a task may "
            "report; write it to the workspace and return where it is",
        )
    return result


def _raised_error(raised: Raised) -> TerminalAttemptError | RetryableAttemptError:
    match raised.kind:
        case "terminal":
            return TerminalAttemptError(Code.TASK_TERMINAL, raised.reason, logged=raised.traceback)
        case "params":
            return TerminalAttemptError(Code.PARAMS_INVALID, raised.reason)
        case "failed":
            return RetryableAttemptError(Code.TASK_FAILED, raised.reason, logged=raised.traceback)
        case "exception":
            return RetryableAttemptError(
                Code.TASK_EXCEPTION, raised.reason, logged=raised.traceback
            )
        case "result":
            return RetryableAttemptError(
                Code.RESULT_INVALID, f"the body did not return what it declares: {raised.reason}"
            )
        case "broken":
            # The reason may list the directories that were searched, so only the log has it.
            return RetryableAttemptError(
                Code.CHILD_DIED,
                "the child process could not load the task's module; the worker's log says why",
                logged=raised.reason,
            )
