"""One log line per event, under a stable name, with the identity of what it is about."""

from __future__ import annotations

import logging
import threading
from typing import Any

from perago_worker.events import (
    AttemptFinished,
    AttemptStarted,
    BodyOutput,
    CacheFailed,
    CacheTrimmed,
    CacheUsed,
    ChildStarted,
    Event,
    GivenBack,
    HeartbeatSent,
    PollFinished,
    Published,
    RequestFinished,
    ServiceFailed,
    StageLeft,
    Stalled,
    StateChanged,
    StepFinished,
    StepStarted,
    Swept,
    Transferred,
    WorkspaceBrought,
    WorkspaceNotKept,
)
from perago_worker.models import Lease
from perago_worker.telemetry.lines import Lines

_FINISHED_LEVELS = {
    "completed": logging.INFO,
    "failed": logging.WARNING,
    "terminal": logging.WARNING,
    "superseded": logging.WARNING,
    "cancelled": logging.INFO,
    "released": logging.INFO,
}


class EventLog:
    """A listener that writes log lines. Safe from any thread."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("perago_worker")
        self._lock = threading.Lock()
        self._failing: set[str] = set()

    def on_event(self, event: Event) -> None:
        """Write what there is to say about one event."""
        log = Lines(self._logger, event.at)
        match event:  # what comes most often first
            case StepStarted() | RequestFinished():
                pass  # its end tells more; and so do the steps that send requests
            case StepFinished():
                _step_finished(event, log)
            case PollFinished():
                self._poll_finished(event, log)
            case AttemptStarted(lease):
                log.info("attempt.started", **identity(lease))
            case AttemptFinished():
                _attempt_finished(event, log)
            case BodyOutput(lease, stream, line):
                log.info("body.output", **identity(lease), source="body", stream=stream, line=line)
            case Transferred():
                _transferred(event, log)
            case WorkspaceBrought(lease, source, detail):
                level = logging.INFO if source == "unfit" else logging.DEBUG
                log.log(
                    level,
                    "workspace.brought",
                    **identity(lease),
                    source=source,
                    **given(detail=detail),
                )
            case WorkspaceNotKept(lease, reason):
                log.info("workspace.not_kept", **identity(lease), reason=reason)
            case CacheUsed():
                _cache_used(event, log)
            case CacheTrimmed(objects, size):
                log.debug("cache.trimmed", objects=objects, bytes=size)
            case CacheFailed(error):
                log.warning("cache.failed", error=error)
            case HeartbeatSent():
                _heartbeat_sent(event, log)
            case Published():
                _published(event, log)
            case StageLeft(lease, repository, name):
                log.warning("stage.left", **identity(lease), repository=repository, stage=name)
            case GivenBack(lease, why, error):
                level = logging.WARNING if error else logging.INFO
                log.log(level, "task.given_back", **identity(lease), why=why, **given(error=error))
            case Swept(kind, repository, name):
                log.info("gc.removed", kind=kind, name=name, **given(repository=repository))
            case ChildStarted(task_type, pid, cause):
                level = logging.WARNING if cause == "ended" else logging.DEBUG
                log.log(level, "child.started", task=task_type, pid=pid, cause=cause)
            case ServiceFailed(service, error, restart_in_s):
                log.error(
                    "service.failed", service=service, restart_in_s=restart_in_s, exception=error
                )
            case Stalled(service, silent_s, stacks):
                log.error(
                    "service.stalled", service=service, silent_s=_rounded(silent_s), stack=stacks
                )
            case StateChanged(state, detail):
                log.info("worker.state_changed", state=state, **given(detail=detail))

    def _poll_finished(self, event: PollFinished, log: Lines) -> None:
        fields: dict[str, Any] = {"task": event.task_type, "seconds": _rounded(event.seconds)}
        with self._lock:
            recovered = event.outcome != "error" and event.task_type in self._failing
            if event.outcome == "error":
                self._failing.add(event.task_type)
            else:
                self._failing.discard(event.task_type)
        if recovered:
            log.info("poll.recovered", task=event.task_type)
        if event.outcome == "error":
            log.warning(
                "poll.finished",
                **fields,
                outcome="error",
                error=event.error,
                retry_in_s=_rounded(event.retry_in_s),
            )
            return
        log.debug("poll.finished", **fields, outcome=event.outcome, count=event.count)


def _step_finished(event: StepFinished, log: Lines) -> None:
    if not log.wants(logging.DEBUG):
        return
    log.debug(
        "step.finished",
        **identity(event.lease),
        step=event.step,
        seconds=_rounded(event.seconds),
        **given(error=event.error),
    )


def _attempt_finished(event: AttemptFinished, log: Lines) -> None:
    outcome = event.outcome
    log.log(
        _FINISHED_LEVELS[outcome.kind],
        "attempt.finished",
        **identity(event.lease),
        outcome=outcome.kind,
        code=str(outcome.code),
        seconds=_rounded(event.seconds),
        reported=event.reported,
        **given(reason=outcome.reason, output_ref=outcome.output_ref, exception=event.error),
    )


def _transferred(event: Transferred, log: Lines) -> None:
    rate = event.bytes / event.seconds if event.seconds > 0 else 0.0
    log.info(
        "workspace.transferred",
        **identity(event.lease),
        direction=event.direction,
        objects=event.objects,
        bytes=event.bytes,
        skipped_bytes=event.skipped_bytes,
        seconds=_rounded(event.seconds),
        bytes_per_second=round(rate),
    )


def _cache_used(event: CacheUsed, log: Lines) -> None:
    corrupted = event.lookups.get("corrupted", 0)
    log.log(
        logging.WARNING if corrupted else logging.DEBUG,
        "cache.used",
        **identity(event.lease),
        hits=event.lookups.get("hit", 0),
        misses=event.lookups.get("miss", 0),
        corrupted=corrupted,
        hit_bytes=event.hit_bytes,
    )


def _heartbeat_sent(event: HeartbeatSent, log: Lines) -> None:
    name = "heartbeat.lost" if event.outcome == "lost" else "heartbeat.sent"
    log.log(
        logging.DEBUG if event.outcome == "held" else logging.WARNING,
        name,
        **identity(event.lease),
        outcome=event.outcome,
        **given(
            delay_s=None if event.delay_s is None else _rounded(event.delay_s),
            detail=event.detail,
        ),
    )


def _published(event: Published, log: Lines) -> None:
    published = event.outcome in {"merged", "replaced"}
    lost = event.outcome == "lost_race"
    log.log(
        logging.ERROR if lost else logging.INFO if published else logging.WARNING,
        "workspace.published" if published else "workspace.not_published",
        **identity(event.lease),
        outcome=event.outcome,
        fence=event.fence,
        budget_used=_rounded(event.budget_used),
        **given(commit=event.commit, detail=event.detail),
    )


def identity(lease: Lease) -> dict[str, Any]:
    """Return the fields that tell one attempt from all others."""
    return {
        "task": lease.task_type,
        "task_id": lease.task_id,
        "workflow_id": lease.workflow_id,
        "retry": lease.retry_count,
        "poll": lease.poll_count,
        **given(domain=lease.domain),
    }


def given(**fields: Any) -> dict[str, Any]:
    """Return the fields that have something to say."""
    return {name: value for name, value in fields.items() if value not in (None, "")}


def _rounded(seconds: float) -> float:
    return round(seconds, 3)
