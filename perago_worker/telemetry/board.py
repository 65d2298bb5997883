"""What the worker is doing now and has done lately, kept for those who look at it.

A listener collects it; `snapshot` gives plain values that become JSON, a page, or lines on a
terminal. Nothing here is a secret, and nothing of a task's params or result is kept.
"""

from __future__ import annotations

import math
import platform
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from perago_worker._version import __version__
from perago_worker.events import (
    AttemptFinished,
    AttemptStarted,
    BodyOutput,
    CacheFailed,
    CacheTrimmed,
    CacheUsed,
    Event,
    HeartbeatSent,
    PollFinished,
    QueueSeen,
    RequestFinished,
    StateChanged,
    StepFinished,
    StepStarted,
    Transferred,
)
from perago_worker.models import Lease
from perago_worker.ports import Clock
from perago_worker.telemetry.cache_board import CacheBoard
from perago_worker.telemetry.skew import clock_skew_s

MAX_RECENT = 50
MAX_TIMES = 200
"""Attempts of a task whose times p50 and p95 are taken of."""
MAX_TEXT = 300
"""Characters of texts that come from elsewhere: reasons, progress, names of branches."""


@dataclass
class _Running:
    """An attempt in progress."""

    lease: Lease
    started_at: float
    step: str = ""
    step_at: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    progress: str = ""
    heartbeat: str = ""


@dataclass
class _Task:
    """What is known of a task type."""

    slots: int
    polls: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_TIMES))
    waiting: int | None = None
    polled_at: float | None = None
    error: str = ""


@dataclass
class _Server:
    """What requests to a server have shown."""

    answered_at: float | None = None
    failed_at: float | None = None
    failures: int = 0
    date: str = ""
    dated_at: float = 0.0


class Board:
    """A listener that knows the present state. Safe from any thread.

    Args:
        slots: How many attempts each task type may have at once.
        about: What is fixed for the process and may be shown, such as its id.
        clock: For ages and times.
    """

    def __init__(self, *, slots: Mapping[str, int], about: Mapping[str, str], clock: Clock) -> None:
        self._clock = clock
        self._about = dict(about)
        self._started_at = clock.now()
        self._lock = threading.Lock()
        self._state = "starting"
        self._tasks = {name: _Task(count) for name, count in slots.items()}
        self._running: dict[str, _Running] = {}
        self._recent: deque[dict[str, Any]] = deque(maxlen=MAX_RECENT)
        self._servers: dict[str, _Server] = {}
        self._cache = CacheBoard()

    def on_event(self, event: Event) -> None:
        """Take note of one event."""
        now = self._clock.now()
        with self._lock:
            match event:
                case StateChanged(state):
                    self._state = state
                case PollFinished() | QueueSeen():
                    self._task_seen(event, now)
                case AttemptStarted(lease):
                    self._running[lease.task_id] = _Running(lease, now, step_at=now)
                case AttemptFinished():
                    self._finished(event)
                case RequestFinished():
                    self._requested(event, now)
                case CacheUsed() | CacheTrimmed() | CacheFailed():
                    self._cache.take(event)
                case (
                    StepStarted() | StepFinished() | BodyOutput() | HeartbeatSent() | Transferred()
                ):
                    running = self._running.get(event.lease.task_id)
                    if running is not None:
                        _went_on(running, event, now)

    def _task_seen(self, event: PollFinished | QueueSeen, now: float) -> None:
        task = self._tasks.get(event.task_type)
        if task is None:
            return
        if isinstance(event, QueueSeen):
            task.waiting = event.waiting
            return
        task.polls[event.outcome] += 1
        task.error = event.error
        if event.outcome != "error":
            task.polled_at = now

    def _requested(self, event: RequestFinished, now: float) -> None:
        server = self._servers.setdefault(event.service, _Server())
        if event.date:
            # Read when somebody looks: there are many more requests than looks.
            server.date, server.dated_at = event.date, event.at
        if event.status and event.status < 500:
            server.answered_at, server.failures = now, 0
        else:
            server.failed_at = now
            server.failures += 1

    def _finished(self, event: AttemptFinished) -> None:
        running = self._running.pop(event.lease.task_id, None)
        task = self._tasks.get(event.lease.task_type)
        if task is not None:
            task.outcomes[event.outcome.kind] += 1
            task.seconds.append(event.seconds)
        self._recent.appendleft(
            {
                **_identity(event.lease),
                "ended_at": event.at,
                "outcome": event.outcome.kind,
                "code": str(event.outcome.code),
                "reason": _short(event.outcome.reason),
                "reported": event.reported,
                "seconds": round(event.seconds, 3),
                "steps": dict(running.steps) if running else {},
                "commit": event.outcome.output_ref or "",
            }
        )

    # --- what is shown ----------------------------------------------------------------------------

    def snapshot(
        self,
        *,
        lease_left_s: Callable[[str], float | None] = lambda _: None,
        slots_busy: Mapping[str, int] | None = None,
        cache_held_bytes: int = 0,
        cache_max_bytes: int = 0,
    ) -> dict[str, Any]:
        """Return everything as plain values; ages and times in seconds.

        Args:
            lease_left_s: How long the lease of a task that runs here may be relied on.
            slots_busy: How many slots are at work for each task type. Not the attempts: a slot may
                be at its next one before it reports the last.
            cache_held_bytes: What the cache holds.
            cache_max_bytes: What it may hold; 0 when there is none.
        """
        now = self._clock.now()
        with self._lock:
            running = list(self._running.values())
            busy = slots_busy or Counter(each.lease.task_type for each in running)
            return {
                "worker": {
                    **self._about,
                    "version": __version__,
                    "python": platform.python_version(),
                    "state": self._state,
                    "uptime_s": round(now - self._started_at, 1),
                    "now": _iso(self._clock.time()),
                },
                "tasks": [
                    self._show_task(name, task, busy.get(name, 0), now)
                    for name, task in self._tasks.items()
                ],
                "attempts": [
                    _show_running(each, now, lease_left_s(each.lease.task_id)) for each in running
                ],
                "recent": [each | {"ended_at": _iso(each["ended_at"])} for each in self._recent],
                "cache": self._cache.snapshot(
                    held_bytes=cache_held_bytes, max_bytes=cache_max_bytes
                ),
                "servers": [
                    {
                        "name": name,
                        "answered_ago_s": _ago(server.answered_at, now),
                        "failed_ago_s": _ago(server.failed_at, now),
                        "failures": server.failures,
                        "clock_skew_s": _skew(server),
                    }
                    for name, server in sorted(self._servers.items())
                ],
            }

    def _show_task(self, name: str, task: _Task, busy: int, now: float) -> dict[str, Any]:
        return {
            "name": name,
            "slots": task.slots,
            "busy": busy,
            "waiting": task.waiting,
            "polled_ago_s": _ago(task.polled_at, now),
            "error": _short(task.error),
            "polls": {key: task.polls[key] for key in ("tasks", "empty", "error")},
            "outcomes": dict(sorted(task.outcomes.items())),
            "p50_s": quantile(task.seconds, 0.5),
            "p95_s": quantile(task.seconds, 0.95),
        }


def quantile(values: Iterable[float], share: float) -> float | None:
    """Return the value that this share of the values do not exceed; None of no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 3)


def _skew(server: _Server) -> float | None:
    skew = clock_skew_s(server.date, server.dated_at) if server.date else None
    return None if skew is None else round(skew, 1)


def _went_on(running: _Running, event: Event, now: float) -> None:
    match event:
        case StepStarted(_, step):
            running.step, running.step_at = step, now
        case StepFinished(_, step, seconds):
            running.steps[step] = round(seconds, 3)
        case BodyOutput(_, "progress", line):
            running.progress = _short(line)
        case HeartbeatSent(_, outcome):
            running.heartbeat = outcome
        case Transferred():
            running.bytes[event.direction] = running.bytes.get(event.direction, 0) + event.bytes


def _show_running(running: _Running, now: float, lease_left_s: float | None) -> dict[str, Any]:
    workspace = running.lease.input.get("workspace")
    place = workspace if isinstance(workspace, dict) else {}
    return {
        **_identity(running.lease),
        "step": running.step,
        "step_s": round(now - running.step_at, 1),
        "age_s": round(now - running.started_at, 1),
        "lease_left_s": None if lease_left_s is None else round(lease_left_s, 1),
        "lease_s": running.lease.response_timeout_s,
        "heartbeat": running.heartbeat,
        "repository": _short(place.get("repository")),
        "branch": _short(place.get("branch")),
        "bytes": dict(running.bytes),
        "progress": running.progress,
    }


def _identity(lease: Lease) -> dict[str, Any]:
    return {
        "task": lease.task_type,
        "task_id": lease.task_id,
        "workflow_id": lease.workflow_id,
        "retry": lease.retry_count,
        "poll": lease.poll_count,
    }


def _short(text: object) -> str:
    """Return a text from elsewhere, cut; anything that is no text is left out."""
    if not isinstance(text, str):
        return ""
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def _ago(moment: float | None, now: float) -> float | None:
    return None if moment is None else round(now - moment, 1)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
