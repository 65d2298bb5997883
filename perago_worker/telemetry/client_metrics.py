"""The metrics that Conductor's client libraries have in common, by their names and labels.

For dashboards that show workers of several languages side by side. They are beside our own and not
in their place: their buckets end at ten seconds, and a long poll makes the time of a poll mean
little. Those of things this worker does not do are left out: acknowledging, pausing, starting
workflows. Source: the catalogue shared by Conductor's SDKs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from perago_worker.events import (
    AttemptFinished,
    AttemptStarted,
    ChildStarted,
    Event,
    GivenBack,
    PollFinished,
    RequestFinished,
    ServiceFailed,
    StepFinished,
)

TIME_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZE_BUCKETS_BYTES = (1e2, 1e3, 1e4, 1e5, 1e6, 1e7)

_STATUSES = ("SUCCESS", "FAILURE")
_UNAVAILABLE = "QueueUnavailable"
_OTHER = "Exception"
_EXCEPTIONS = {
    "failed": "RetryableAttemptError",
    "terminal": "TerminalAttemptError",
}
"""Class names for how an attempt failed: those of bodies' own exceptions are no closed set."""


class ClientMetrics:
    """A listener that keeps the common metrics of Conductor's clients. Safe from any thread.

    Args:
        registry: Where they are registered.
        tasks: The task types; their series exist from the start.
    """

    def __init__(self, registry: CollectorRegistry, *, tasks: Collection[str]) -> None:
        self._registry = registry
        self._polls = self._counter("task_poll", "Polls.")
        self._poll_errors = self._counter("task_poll_error", "Failed polls.", "exception")
        self._started = self._counter("task_execution_started", "Executions begun.")
        self._errors = self._counter("task_execute_error", "Failed executions.", "exception")
        self._update_errors = self._counter("task_update_error", "Updates not taken.", "exception")
        self._full = self._counter("task_execution_queue_full", "Tasks that no slot was free for.")
        self._restarts = self._counter("worker_restart", "Processes started in place of another.")
        self._poll_time = self._times("task_poll_time_seconds", "Time of polls.")
        self._execute_time = self._times("task_execute_time_seconds", "Time of bodies.")
        self._update_time = self._times("task_update_time_seconds", "Time of updates.")
        self._result_size = Histogram(
            "task_result_size_bytes",
            "Size of results, as JSON.",
            ("taskType",),
            buckets=SIZE_BUCKETS_BYTES,
            registry=registry,
        )
        self._active = Gauge(
            "active_workers", "Slots that are at work.", ("taskType",), registry=registry
        )
        self._uncaught = Counter(
            "thread_uncaught_exceptions",
            "Exceptions that ended a thread.",
            ("exception",),
            registry=registry,
        )
        self._requests = Histogram(
            "http_api_client_request_seconds",
            "Time of requests to Conductor.",
            ("method", "uri", "status"),
            buckets=TIME_BUCKETS_S,
            registry=registry,
        )
        self._uncaught.labels(_OTHER)
        self._start_series(tasks)

    def watch(self, slots_busy: Mapping[str, Callable[[], float]]) -> None:
        """Show, of each task type, how many slots are at work when somebody asks."""
        for task, busy in slots_busy.items():
            self._active.labels(task).set_function(busy)

    def on_event(self, event: Event) -> None:
        """Count one event."""
        match event:
            case PollFinished(task, outcome, _, seconds):
                self._poll_finished(task, seconds, failed=outcome == "error")
            case AttemptStarted(lease):
                self._started.labels(lease.task_type).inc()
            case StepFinished(lease, "body", seconds, error):
                self._execute_time.labels(lease.task_type, _status(error)).observe(seconds)
            case StepFinished(lease, "report", seconds, error):
                self._update_time.labels(lease.task_type, _status(error)).observe(seconds)
            case AttemptFinished():
                self._attempt_finished(event)
            case GivenBack(lease, why) if why.startswith("more tasks"):
                self._full.labels(lease.task_type).inc()
            case ChildStarted(task, _, cause) if cause != "start":
                self._restarts.labels(task).inc()
            case ServiceFailed():
                self._uncaught.labels(_OTHER).inc()
            case RequestFinished("conductor", _, method, route, status, seconds):
                self._requests.labels(method, route, str(status)).observe(seconds)

    def _poll_finished(self, task: str, seconds: float, *, failed: bool) -> None:
        self._polls.labels(task).inc()
        self._poll_time.labels(task, "FAILURE" if failed else "SUCCESS").observe(seconds)
        if failed:
            self._poll_errors.labels(task, _UNAVAILABLE).inc()

    def _attempt_finished(self, event: AttemptFinished) -> None:
        task, outcome = event.lease.task_type, event.outcome
        if outcome.kind in _EXCEPTIONS:
            self._errors.labels(task, _EXCEPTIONS[outcome.kind]).inc()
        if outcome.kind in {"completed", *_EXCEPTIONS} and not event.reported:
            self._update_errors.labels(task, _UNAVAILABLE).inc()
        if outcome.output:
            self._result_size.labels(task).observe(len(json.dumps(outcome.output).encode()))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, ("taskType", *labels), registry=self._registry)

    def _times(self, name: str, text: str) -> Histogram:
        return Histogram(
            name, text, ("taskType", "status"), buckets=TIME_BUCKETS_S, registry=self._registry
        )

    def _start_series(self, tasks: Iterable[str]) -> None:
        for task in tasks:
            for counter in (self._polls, self._started, self._full, self._restarts):
                counter.labels(task)
            for times in (self._poll_time, self._execute_time, self._update_time):
                for status in _STATUSES:
                    times.labels(task, status)
            for exception in _EXCEPTIONS.values():
                self._errors.labels(task, exception)
            self._poll_errors.labels(task, _UNAVAILABLE)
            self._update_errors.labels(task, _UNAVAILABLE)
            self._result_size.labels(task)
            self._active.labels(task)


def _status(error: str) -> str:
    return "FAILURE" if error else "SUCCESS"
