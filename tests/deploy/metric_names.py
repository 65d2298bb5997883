"""Which metrics a worker has, and which an expression asks for."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry

from perago_worker.attempt.pipeline import STEP_NAMES
from perago_worker.telemetry.cache_metrics import CacheMetrics
from perago_worker.telemetry.metrics import Metrics
from perago_worker.telemetry.request_metrics import RequestMetrics

METRIC = re.compile(r"\b(?:perago_worker|process)_[a-z_]+\b(?!=)")
SELECTED = re.compile(r"\b(perago_worker_[a-z_]+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')


def registered() -> dict[str, set[str]]:
    """Return the name of every series that a worker exposes, with its labels."""
    registry = CollectorRegistry()
    Metrics(registry, slots={"t": 1}, steps=STEP_NAMES, services=["poller t"])
    CacheMetrics(registry, tasks=["t"])
    RequestMetrics(registry, services={"queue": "conductor", "store": "lakefs"})
    return {
        sample.name: set(sample.labels)
        for family in registry.collect()
        for sample in family.samples
    }


def asked_for(expression: str) -> set[str]:
    """Return the names of metrics in an expression."""
    return set(METRIC.findall(expression))


def labels_asked_for(expression: str) -> set[tuple[str, str]]:
    """Return pairs of a metric and a label that an expression selects it by."""
    return {
        (name, label)
        for name, matchers in SELECTED.findall(expression)
        for label in MATCHER.findall(matchers)
    }
