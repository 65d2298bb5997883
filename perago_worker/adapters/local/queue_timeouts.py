"""When a task's time is up, and what follows on its end: pure functions of its row and rules.

Source of the semantics: the decider of Conductor 3.32.1. What differs is that nothing lags here: a
timeout takes effect at the instant it is due, even when it is noticed later.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from perago_worker.adapters.local.queue_records import Rules, TaskRow, TaskStatus, WorkflowStatus

_MAX_DELAY_S = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Limit:
    """A timeout of an unfinished task.

    Attributes:
        at_ms: When it is due.
        reason: What is recorded then.
        ends_workflow: Whether it ends the workflow although retries are left.
    """

    at_ms: int
    reason: str
    ends_workflow: bool


@dataclass(frozen=True, slots=True)
class Retry:
    """The task is tried again, after a delay."""

    delay_ms: int


@dataclass(frozen=True, slots=True)
class End:
    """The workflow ends."""

    status: WorkflowStatus
    reason: str = ""


def next_limit(task: TaskRow, rules: Rules) -> Limit | None:
    """Return the timeout that is due first, or None when nothing limits the task's time."""
    if not task.unfinished:
        return None
    limits = [*_by_policy(task, rules)]
    if task.status == "IN_PROGRESS":
        # The one timeout whose policy is always to try again.
        seconds = rules.response_timeout_seconds
        reason = f"responseTimeout: {seconds} exceeded for the taskId: {task.id}"
        limits.append(Limit(task.update_ms + seconds * 1000, reason, ends_workflow=False))
    return min(limits, key=lambda limit: limit.at_ms, default=None)


def _by_policy(task: TaskRow, rules: Rules) -> list[Limit]:
    if rules.timeout_policy == "ALERT_ONLY":
        return []
    clocks = []
    if rules.total_timeout_seconds:
        clocks.append((task.first_scheduled_ms, rules.total_timeout_seconds, "all attempts"))
    if rules.timeout_seconds and task.start_ms:
        clocks.append((task.start_ms, rules.timeout_seconds, "the attempt"))
    if rules.poll_timeout_seconds and task.status == "SCHEDULED":
        since_ms = task.scheduled_ms + task.postponed_ms
        clocks.append((since_ms, rules.poll_timeout_seconds, "waiting in the queue"))
    return [
        Limit(
            since_ms + seconds * 1000,
            f"Task timed out: {seconds} seconds for {what} are over; "
            f"timeout policy {rules.timeout_policy}",
            ends_workflow=rules.timeout_policy == "TIME_OUT_WF",
        )
        for since_ms, seconds, what in clocks
    ]


def after(
    task: TaskRow,
    rules: Rules,
    status: TaskStatus,
    *,
    reason: str,
    at_ms: int,
    jitter: float,
) -> Retry | End:
    """Decide what follows when `task` ends with `status` at `at_ms`.

    `jitter`, from 0 to 1, tells how much of the rules' jitter is added to a retry's delay.
    """
    if status == "COMPLETED":
        return End("COMPLETED")
    if status == "CANCELED":
        return End("TERMINATED", reason)
    if status == "FAILED_WITH_TERMINAL_ERROR":
        return End("FAILED", reason)
    given_up: WorkflowStatus = "TIMED_OUT" if status == "TIMED_OUT" else "FAILED"
    if task.retry_count >= rules.retry_count:
        return End(given_up, reason)
    total_ms = rules.total_timeout_seconds * 1000
    if 0 < total_ms <= at_ms - task.first_scheduled_ms:
        seconds = rules.total_timeout_seconds
        return End(given_up, f"{reason}; exceeded total timeout of {seconds} seconds: no retry")
    return Retry(retry_delay_ms(rules, task.retry_count, jitter=jitter))


def retry_delay_ms(rules: Rules, retry_count: int, *, jitter: float) -> int:
    """Return how long the retry of try number `retry_count` (from 0) waits in the queue."""
    delay_s = rules.retry_delay_seconds
    if rules.retry_logic == "LINEAR_BACKOFF":
        delay_s *= rules.backoff_scale_factor * (retry_count + 1)
    elif rules.retry_logic == "EXPONENTIAL_BACKOFF":
        delay_s *= 2**retry_count
    delay_s = min(delay_s, rules.max_retry_delay_seconds or _MAX_DELAY_S)
    return delay_s * 1000 + int(rules.backoff_jitter_ms * jitter)


def leased(task: TaskRow, *, worker_id: str, now_ms: int) -> TaskRow:
    """Deliver the task. A start time that it has already is kept."""
    return replace(
        task,
        status="IN_PROGRESS",
        worker_id=worker_id,
        poll_count=task.poll_count + 1,
        start_ms=task.start_ms or now_ms,
        update_ms=now_ms,
        postponed_ms=0,
        queued=0,
    )


def given_back(task: TaskRow, *, after_ms: int, now_ms: int) -> TaskRow:
    """Put the task in the queue again.

    Its poll timeout starts anew when it may be delivered. Conductor counts on from the scheduled
    time, and a delay only keeps the task alive there because timeouts are noticed late; here they
    are not, so what the port promises takes a new start.
    """
    deliver_ms = now_ms + after_ms
    return replace(
        task,
        status="SCHEDULED",
        update_ms=now_ms,
        queued=1,
        deliver_ms=deliver_ms,
        postponed_ms=deliver_ms - task.scheduled_ms,
    )


def ended(task: TaskRow, status: TaskStatus, *, reason: str, output: str, at_ms: int) -> TaskRow:
    """Finish the task."""
    return replace(
        task,
        status=status,
        reason=reason,
        output=output,
        update_ms=at_ms,
        end_ms=at_ms,
        queued=0,
    )


def retry_of(task: TaskRow, task_id: str, *, delay_ms: int, at_ms: int) -> TaskRow:
    """Schedule the next try of a task that has ended; it carries the reason of this one."""
    return replace(
        task,
        id=task_id,
        retry_count=task.retry_count + 1,
        retried_task_id=task.id,
        scheduled_ms=at_ms,
        status="SCHEDULED",
        poll_count=0,
        worker_id=None,
        start_ms=0,
        update_ms=at_ms,
        end_ms=0,
        postponed_ms=delay_ms,
        queued=1,
        deliver_ms=at_ms + delay_ms,
        output="{}",
    )
