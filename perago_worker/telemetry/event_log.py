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
        self._log = Lines("perago_worker")
        self._lock = threading.Lock()
        self._failing: set[str] = set()

    def on_event(self, event: Event) -> None:
        """Write what there is to say about one event."""
        match event:  # what comes most often first
            case StepStarted():
                pass  # its end tells more
            case StepFinished():
                self._step_finished(event)
            case PollFinished():
                self._poll_finished(event)
            case AttemptStarted(lease):
                self._log.info("attempt.started", **identity(lease))
            case AttemptFinished():
                self._attempt_finished(event)
            case BodyOutput(lease, stream, line):
                self._log.info(
                    "body.output", **identity(lease), source="body", stream=stream, line=line
                )
            case Transferred():
                self._transferred(event)
            case WorkspaceBrought(lease, source, detail):
                level = logging.INFO if source == "unfit" else logging.DEBUG
                self._log.log(
                    level,
                    "workspace.brought",
                    **identity(lease),
                    source=source,
                    **given(detail=detail),
                )
            case WorkspaceNotKept(lease, reason):
                self._log.info("workspace.not_kept", **identity(lease), reason=reason)
            case CacheUsed():
                self._cache_used(event)
            case CacheTrimmed(objects, size):
                self._log.debug("cache.trimmed", objects=objects, bytes=size)
            case CacheFailed(error):
                self._log.warning("cache.failed", error=error)
            case HeartbeatSent():
                self._heartbeat_sent(event)
            case Published():
                self._published(event)
            case StageLeft(lease, repository, name):
                self._log.warning(
                    "stage.left", **identity(lease), repository=repository, stage=name
                )
            case GivenBack(lease, why, error):
                level = logging.WARNING if error else logging.INFO
                self._log.log(
                    level, "task.given_back", **identity(lease), why=why, **given(error=error)
                )
            case Swept(kind, repository, name):
                self._log.info("gc.removed", kind=kind, name=name, **given(repository=repository))
            case ChildStarted(task_type, pid, cause):
                level = logging.WARNING if cause == "ended" else logging.DEBUG
                self._log.log(level, "child.started", task=task_type, pid=pid, cause=cause)
            case ServiceFailed(service, error, restart_in_s):
                self._log.error(
                    "service.failed", service=service, restart_in_s=restart_in_s, exception=error
                )
            case Stalled(service, silent_s, stacks):
                self._log.error(
                    "service.stalled", service=service, silent_s=_rounded(silent_s), stack=stacks
                )
            case StateChanged(state, detail):
                self._log.info("worker.state_changed", state=state, **given(detail=detail))

    def _poll_finished(self, event: PollFinished) -> None:
        fields: dict[str, Any] = {"task": event.task_type, "seconds": _rounded(event.seconds)}
        with self._lock:
            recovered = event.outcome != "error" and event.task_type in self._failing
            if event.outcome == "error":
                self._failing.add(event.task_type)
            else:
                self._failing.discard(event.task_type)
        if recovered:
            self._log.info("poll.recovered", task=event.task_type)
        if event.outcome == "error":
            self._log.warning(
                "poll.finished",
                **fields,
                outcome="error",
                error=event.error,
                retry_in_s=_rounded(event.retry_in_s),
            )
            return
        self._log.debug("poll.finished", **fields, outcome=event.outcome, count=event.count)

    def _step_finished(self, event: StepFinished) -> None:
        if not self._log.wants(logging.DEBUG):
            return
        self._log.debug(
            "step.finished",
            **identity(event.lease),
            step=event.step,
            seconds=_rounded(event.seconds),
            **given(error=event.error),
        )

    def _attempt_finished(self, event: AttemptFinished) -> None:
        outcome = event.outcome
        self._log.log(
            _FINISHED_LEVELS[outcome.kind],
            "attempt.finished",
            **identity(event.lease),
            outcome=outcome.kind,
            code=str(outcome.code),
            seconds=_rounded(event.seconds),
            reported=event.reported,
            **given(reason=outcome.reason, output_ref=outcome.output_ref, exception=event.error),
        )

    def _transferred(self, event: Transferred) -> None:
        rate = event.bytes / event.seconds if event.seconds > 0 else 0.0
        self._log.info(
            "workspace.transferred",
            **identity(event.lease),
            direction=event.direction,
            objects=event.objects,
            bytes=event.bytes,
            skipped_bytes=event.skipped_bytes,
            seconds=_rounded(event.seconds),
            bytes_per_second=round(rate),
        )

    def _cache_used(self, event: CacheUsed) -> None:
        corrupted = event.lookups.get("corrupted", 0)
        self._log.log(
            logging.WARNING if corrupted else logging.DEBUG,
            "cache.used",
            **identity(event.lease),
            hits=event.lookups.get("hit", 0),
            misses=event.lookups.get("miss", 0),
            corrupted=corrupted,
            hit_bytes=event.hit_bytes,
        )

    def _heartbeat_sent(self, event: HeartbeatSent) -> None:
        name = "heartbeat.lost" if event.outcome == "lost" else "heartbeat.sent"
        self._log.log(
            logging.DEBUG if event.outcome == "held" else logging.WARNING,
            name,
            **identity(event.lease),
            outcome=event.outcome,
            **given(
                delay_s=None if event.delay_s is None else _rounded(event.delay_s),
                detail=event.detail,
            ),
        )

    def _published(self, event: Published) -> None:
        published = event.outcome in {"merged", "replaced"}
        lost = event.outcome == "lost_race"
        self._log.log(
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
