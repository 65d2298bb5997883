"""Counts of what the cache was good for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from perago_worker.events import CacheFailed, CacheLookup, CacheTrimmed, CacheUsed, Event


class CacheMetrics:
    """A listener that counts the use of the cache. Safe from any thread.

    Args:
        registry: Where the metrics are registered.
        tasks: Task types with series from the start.
    """

    def __init__(self, registry: CollectorRegistry, *, tasks: Collection[str]) -> None:
        self._lookups = Counter(
            "perago_worker_cache_lookups",
            "Objects looked for in the cache.",
            ("task", "outcome"),
            registry=registry,
        )
        self._hit_bytes = Counter(
            "perago_worker_cache_hit_bytes",
            "Bytes found in the cache.",
            ("task",),
            registry=registry,
        )
        self._evicted_bytes = Counter(
            "perago_worker_cache_evicted_bytes",
            "Removed from the cache to make room.",
            registry=registry,
        )
        self._failures = Counter(
            "perago_worker_cache_failures",
            "Times that the cache began to fail; work went on without it.",
            registry=registry,
        )
        self._held_bytes = Gauge(
            "perago_worker_cache_held_bytes",
            "In the cache, which all workers of a workspace root share.",
            registry=registry,
        )
        for task in tasks:
            self._hit_bytes.labels(task)
            for outcome in get_args(CacheLookup):
                self._lookups.labels(task, outcome)

    def watch(self, held_bytes: Callable[[], float]) -> None:
        """Show how much the cache holds at the moment somebody asks for it."""
        self._held_bytes.set_function(held_bytes)

    def on_event(self, event: Event) -> None:
        """Count what has to do with the cache; other events are nothing to it."""
        match event:
            case CacheUsed(lease, lookups, hit_bytes):
                for outcome, count in lookups.items():
                    self._lookups.labels(lease.task_type, outcome).inc(count)
                self._hit_bytes.labels(lease.task_type).inc(hit_bytes)
            case CacheTrimmed(_, size):
                self._evicted_bytes.inc(size)
            case CacheFailed():
                self._failures.inc()
