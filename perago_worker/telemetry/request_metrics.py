"""Counts and times of requests to the servers."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram

from perago_worker.events import CallRepeated, Event, RequestFinished

BUCKETS_S = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 120)
"""From an answer out of memory to a merge of a large branch; a poll takes as long as it is held."""

OPERATIONS: Mapping[str, tuple[str, ...]] = {
    "conductor": ("poll", "observe", "update", "log", "depth", "taskdef", "payload", "other"),
    "lakefs": (
        *("read", "list", "diff", "commits", "merge", "write", "delete", "address", "commit"),
        *("branches", "other"),
    ),
    "storage": ("read", "write", "other"),
}
"""Every word for a request, by service."""

CODES = ("2xx", "3xx", "4xx", "5xx", "none")


class RequestMetrics:
    """A listener that measures requests. Safe from any thread.

    Args:
        registry: Where the metrics are registered.
        services: Names of the servers behind `queue` and `store`, where there are any; their series
            exist from the start.
    """

    def __init__(self, registry: CollectorRegistry, *, services: Mapping[str, str]) -> None:
        self._services = services
        self._retries = Counter(
            "perago_worker_http_retries",
            "Calls made again because they were not answered.",
            ("service",),
            registry=registry,
        )
        self._count = Counter(
            "perago_worker_http_requests",
            "Requests by the class of the answer's status.",
            ("service", "operation", "code"),
            registry=registry,
        )
        self._seconds = Histogram(
            "perago_worker_http_request_duration_seconds",
            "Time until a request was answered.",
            ("service", "operation"),
            buckets=BUCKETS_S,
            registry=registry,
        )
        for service in services.values():
            self._retries.labels(service)
        counted = {*services.values(), *(("storage",) if "lakefs" in services.values() else ())}
        for service in sorted(counted):
            for operation in OPERATIONS[service]:
                self._seconds.labels(service, operation)
                for code in CODES:
                    self._count.labels(service, operation, code)

    def on_event(self, event: Event) -> None:
        """Count a request; other events are nothing to it."""
        if isinstance(event, CallRepeated) and event.port in self._services:
            self._retries.labels(self._services[event.port]).inc()
        if not isinstance(event, RequestFinished):
            return
        known = event.operation in OPERATIONS[event.service]
        operation = event.operation if known else "other"
        self._count.labels(event.service, operation, code_class(event.status)).inc()
        self._seconds.labels(event.service, operation).observe(event.seconds)


def code_class(status: int) -> str:
    """Return the class of a status, `none` for no answer."""
    return f"{status // 100}xx" if 200 <= status < 600 else "none"
