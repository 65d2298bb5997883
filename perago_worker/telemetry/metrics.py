"""Counts and times, for Prometheus.

Every series is there from the start, at zero, so that rates and absences can be computed. Labels
are closed sets: task types, steps, outcomes and codes; never an id, a path or the text of an error.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from perago_worker._version import __version__
from perago_worker.attempt.codes import Code
from perago_worker.events import (
    AttemptFinished,
    ChildStarted,
    Event,
    GivenBack,
    HeartbeatSent,
    PollFinished,
    Published,
    PublishOutcome,
    QueueSeen,
    ServiceFailed,
    StageLeft,
    Stalled,
    StateChanged,
    StepFinished,
    StepStarted,
    Swept,
    Transferred,
    WorkspaceBrought,
    WorkspaceSource,
)
from perago_worker.models import Lease
from perago_worker.models.outcome import OutcomeKind
from perago_worker.ports import FenceLevel

PHASE_BUCKETS_S = (
    0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 10800, 21600,
)  # fmt: skip
"""From a small object read to a body of six hours."""

DELAY_BUCKETS_S = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60)
BUDGET_BUCKETS = (0.1, 0.25, 0.5, 0.75, 0.9, 1, 1.5, 2)

OTHER = "other"
"""Stands for a label value outside of its closed set."""

UNTIMED_STEPS = frozenset({"receive"})
"""Takes no time worth twenty series: it looks at what is in memory already."""

_TRACE = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
"""The header `traceparent`. Source: W3C Trace Context."""

_POLLS = ("tasks", "empty", "error")
_BEATS = ("held", "lost", "error")
_PUBLICATIONS = get_args(PublishOutcome)
_FENCES = get_args(FenceLevel)
_SOURCES = get_args(WorkspaceSource)
_DIRECTIONS = ("download", "upload")
_RESTARTS = ("recycled", "ended", "stopped")
_STATES = ("starting", "running", "draining", "stopped")
_GIVEN_BACK = ("ok", "error")
_SWEPT = ("stage", "directory")

# Codes of attempts that did not fail; every other code belongs to those that failed.
_KINDS: Mapping[Code, OutcomeKind] = {
    Code.PUBLISHED: "completed",
    Code.REPLACED: "completed",
    Code.ADOPTED: "completed",
    Code.NO_OP: "completed",
    Code.READ_ONLY: "completed",
    Code.NO_WORKSPACE: "completed",
    Code.PARAMS_INVALID: "terminal",
    Code.WORKSPACE_INVALID: "terminal",
    Code.NOT_FOUND: "terminal",
    Code.STORE_REFUSED: "terminal",
    Code.KEY_REFUSED: "terminal",
    Code.WORKSPACE_TOO_LARGE: "terminal",
    Code.PRE_GUARD: "terminal",
    Code.TASK_TERMINAL: "terminal",
    Code.FENCE_MISSING: "terminal",
    Code.HEAD_MOVED: "terminal",
    Code.LOST_RACE: "terminal",
    Code.OUTPUT_TOO_LARGE: "terminal",
    Code.REPORT_REFUSED: "terminal",
    Code.SUPERSEDED: "superseded",
    Code.CANCELLED: "cancelled",
    Code.DRAINED: "released",
    Code.SHUT_DOWN: "released",
}


class Metrics:
    """A listener that keeps the metrics of one worker. Safe from any thread.

    Args:
        registry: Where the metrics are registered; each instance needs its own.
        slots: How many attempts each task type may have at once.
        steps: Names of the steps of an attempt; others are not timed.
        codes: Every code an outcome can have.
        services: Names of the long-lived parts of the worker.
        trace_of: Returns the id of the trace an attempt belongs to, hex, where there is one.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        slots: Mapping[str, int],
        steps: Collection[str],
        codes: Collection[str] = tuple(Code),
        services: Collection[str] = (),
        trace_of: Callable[[Lease], str | None] = lambda _: None,
    ) -> None:
        # Without this every counter and histogram comes with a second series, its time of creation.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry
        self._trace_of = trace_of
        self._steps = frozenset(steps)
        self._timed = self._steps - UNTIMED_STEPS
        self._codes = frozenset(codes)
        self._orphans: set[tuple[str, str]] = set()
        self._make_worker_metrics()
        self._make_task_metrics()
        self._start_worker_series(services)
        for task, count in slots.items():
            self._start_task_series(task, count)

    def on_event(self, event: Event) -> None:
        """Count one event."""
        match event:
            case PollFinished():
                self._poll_finished(event)
            case StepStarted(lease, step):
                self._in_progress.labels(lease.task_type, self._known(step)).inc()
            case StepFinished(lease, step, seconds):
                self._in_progress.labels(lease.task_type, self._known(step)).dec()
                if step in self._timed:
                    self._phases.labels(lease.task_type, step).observe(
                        seconds, self._exemplar(lease)
                    )
            case AttemptFinished(lease, outcome):
                code = str(outcome.code) if outcome.code in self._codes else OTHER
                self._attempts.labels(lease.task_type, outcome.kind, code).inc()
            case Transferred():
                self._transferred(event)
            case WorkspaceBrought(lease, source):
                self._workspaces.labels(lease.task_type, source).inc()
            case HeartbeatSent(_, outcome, delay_s):
                self._heartbeats.labels(outcome).inc()
                if delay_s is not None:  # or many that cannot be late would hide the late ones
                    self._heartbeat_delay.observe(delay_s)
            case Published(lease, outcome, _, budget_used, fence):
                self._publications.labels(lease.task_type, outcome).inc()
                self._fences.labels(fence).inc()
                used = self._budget_used.labels(lease.task_type)
                used.observe(budget_used, self._exemplar(lease))
            case GivenBack(lease, _, error):
                self._given_back.labels(lease.task_type, "error" if error else "ok").inc()
            case ChildStarted(_, _, cause):
                if cause != "start":
                    self._restarts.labels(cause if cause in _RESTARTS else OTHER).inc()
            case Swept(kind, repository, name):
                self._swept.labels(kind).inc()
                self._orphans.discard((repository, name))
                self._stages_left.set(len(self._orphans))
            case QueueSeen(task_type, waiting):
                self._depth.labels(task_type).set(waiting)
            case StageLeft(_, repository, name):
                self._orphans.add((repository, name))
                self._stages_left.set(len(self._orphans))
            case Stalled(service):
                self._stalls.labels(service).inc()
            case ServiceFailed(service):
                self._service_failures.labels(service).inc()
            case StateChanged(state):
                self._show_state(state)

    def _poll_finished(self, event: PollFinished) -> None:
        self._polls.labels(event.task_type, event.outcome).inc()
        if event.outcome != "error":
            self._last_poll.labels(event.task_type).set(event.at)

    def _exemplar(self, lease: Lease) -> dict[str, str] | None:
        """Return the trace an attempt is part of: the one we make, or that of the task's input."""
        trace = self._trace_of(lease) or trace_of_input(lease)
        return {"trace_id": trace} if trace else None

    def _known(self, step: str) -> str:
        return step if step in self._steps else OTHER

    def watch(
        self,
        *,
        disk_free_bytes: Callable[[], float],
        loop_lag_s: Callable[[], float],
        lease_remaining_s: Mapping[str, Callable[[], float]],
        slots_busy: Mapping[str, Callable[[], float]],
    ) -> None:
        """Show what is looked up at the moment somebody asks for it.

        Args:
            disk_free_bytes: Left where workspaces are kept.
            loop_lag_s: How late the worker's main loop is.
            lease_remaining_s: For each task type, the shortest time a lease may be relied on.
            slots_busy: For each task type, how many slots are at work. Not counted from attempts:
                a slot may be at its next one before it reports the last.
        """
        self._disk_free.set_function(disk_free_bytes)
        self._lag.set_function(loop_lag_s)
        for task, shortest in lease_remaining_s.items():
            self._lease_remaining.labels(task).set_function(shortest)
        for task, busy in slots_busy.items():
            self._slots_busy.labels(task).set_function(busy)

    def _transferred(self, event: Transferred) -> None:
        labels = (event.lease.task_type, event.direction)
        self._bytes.labels(*labels).inc(event.bytes)
        self._objects.labels(*labels).inc(event.objects)
        self._skipped_bytes.labels(*labels).inc(event.skipped_bytes)

    def _show_state(self, current: str) -> None:
        for state in _STATES:
            self._state.labels(state).set(state == current)

    # --- definitions ---

    def _make_worker_metrics(self) -> None:
        ProcessCollector(registry=self._registry)
        self._build_info = self._gauge("build_info", "What runs; always 1.", "version", "python")
        self._state = self._gauge("state", "1 for the state the worker is in.", "state")
        self._heartbeats = self._counter("heartbeats", "Heartbeats by their answer.", "outcome")
        self._heartbeat_delay = self._histogram(
            "heartbeat_delay_seconds", "How late heartbeats were sent.", DELAY_BUCKETS_S
        )
        self._fences = self._counter(
            "publication_fences", "Publications by how well they were fenced.", "fence"
        )
        self._restarts = self._counter(
            "child_restarts", "Child processes started in place of another.", "cause"
        )
        self._service_failures = self._counter(
            "service_failures", "Parts of the worker that ended on an exception.", "service"
        )
        self._stalls = self._counter(
            "watchdog_stalls", "Parts of the worker that stopped making progress.", "service"
        )
        self._lag = self._gauge("event_loop_lag_seconds", "How late the main loop is.")
        self._disk_free = self._gauge(
            "workspace_disk_free_bytes", "Left on the disk that workspaces are kept on."
        )
        self._stages_left = self._gauge(
            "orphan_staging_branches", "Hidden branches that could not be dropped, until swept."
        )
        self._swept = self._counter("gc_removed", "Leftovers of killed workers removed.", "kind")

    def _make_task_metrics(self) -> None:
        self._polls = self._counter("polls", "Polls by what they brought.", "task", "outcome")
        self._last_poll = self._gauge(
            "last_successful_poll_timestamp_seconds",
            "When the queue last answered a poll; 0 is never.",
            "task",
        )
        self._depth = self._gauge("queue_depth", "Tasks that wait in the queue.", "task")
        self._in_progress = self._gauge(
            "attempts_in_progress", "Attempts by the step they are in.", "task", "phase"
        )
        self._lease_remaining = self._gauge(
            "lease_remaining_seconds", "Shortest time that a running attempt's lease has.", "task"
        )
        self._slots = self._gauge("slots", "Attempts that may run at once.", "task")
        self._slots_busy = self._gauge("slots_busy", "Slots that are at work.", "task")
        self._attempts = self._counter(
            "attempts", "Finished attempts.", "task", "outcome", "reason"
        )
        self._phases = self._histogram(
            "phase_duration_seconds", "Time in steps.", PHASE_BUCKETS_S, "task", "phase"
        )
        self._publications = self._counter(
            "publications", "Publications by what became of them.", "task", "outcome"
        )
        self._budget_used = self._histogram(
            "publish_budget_used_ratio", "Share of its budget a merge took.", BUDGET_BUCKETS, "task"
        )
        self._given_back = self._counter(
            "tasks_given_back", "Tasks put back in the queue.", "task", "outcome"
        )
        self._workspaces = self._counter(
            "workspaces", "Workspaces by where their files came from.", "task", "source"
        )
        transfer = ("task", "direction")
        self._bytes = self._counter("transfer_bytes", "Bytes moved.", *transfer)
        self._objects = self._counter("transfer_objects", "Objects moved.", *transfer)
        self._skipped_bytes = self._counter(
            "transfer_skipped_bytes", "Bytes that did not need moving.", *transfer
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"perago_worker_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"perago_worker_{name}", text, labels, registry=self._registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"perago_worker_{name}", text, labels, buckets=buckets, registry=self._registry
        )

    # --- first values ---

    def _start_worker_series(self, services: Collection[str]) -> None:
        self._build_info.labels(__version__, platform.python_version()).set(1)
        self._show_state("starting")
        _touch(self._fences, ((fence,) for fence in _FENCES))
        _touch(self._heartbeats, ((outcome,) for outcome in _BEATS))
        _touch(self._restarts, ((cause,) for cause in (*_RESTARTS, OTHER)))
        _touch(self._service_failures, ((service,) for service in services))
        _touch(self._stalls, ((service,) for service in services))
        _touch(self._swept, ((kind,) for kind in _SWEPT))

    def _start_task_series(self, task: str, slots: int) -> None:
        self._slots.labels(task).set(slots)
        for metric in (self._slots_busy, self._last_poll, self._budget_used, self._depth):
            _touch(metric, [(task,)])
        self._lease_remaining.labels(task).set(float("inf"))
        _touch(self._in_progress, ((task, step) for step in (*sorted(self._steps), OTHER)))
        _touch(self._polls, ((task, outcome) for outcome in _POLLS))
        _touch(self._attempts, ((task, kind, code) for kind, code in self._endings()))
        _touch(self._phases, ((task, step) for step in sorted(self._timed)))
        _touch(self._publications, ((task, outcome) for outcome in _PUBLICATIONS))
        _touch(self._given_back, ((task, outcome) for outcome in _GIVEN_BACK))
        _touch(self._workspaces, ((task, source) for source in _SOURCES))
        for counter in (self._bytes, self._objects, self._skipped_bytes):
            _touch(counter, ((task, direction) for direction in _DIRECTIONS))

    def _endings(self) -> Iterator[tuple[OutcomeKind, str]]:
        """Yield how attempts can end; a code with each kind would be six times as many series."""
        kinds = {str(code): kind for code, kind in _KINDS.items()}
        for code in sorted(self._codes):
            yield kinds.get(code, "failed"), str(code)
        yield from ((kind, OTHER) for kind in get_args(OutcomeKind))


def trace_of_input(lease: Lease) -> str | None:
    """Return the trace a task belongs to, where its input has a `traceparent`."""
    given = lease.input.get("traceparent")
    found = _TRACE.fullmatch(given) if isinstance(given, str) else None
    return found["trace"] if found else None


def _touch(metric: Any, series: Any) -> None:
    """Make series exist: asking for their labels is enough."""
    for labels in series:
        metric.labels(*labels)
