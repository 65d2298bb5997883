"""Traces for OpenTelemetry: a span for each attempt, and one for each of its steps.

Made only where the standard variables ask for it and the extra `perago-worker[otel]` is installed;
nothing of OpenTelemetry is imported before. An attempt's span is the child of the one that the
task's input names by `traceparent` (and `tracestate`), as W3C Trace Context writes it; without one
it begins a trace. What tasks were given and what they answered is in no span.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from perago_worker._version import __version__
from perago_worker.events import (
    AttemptFinished,
    AttemptStarted,
    Event,
    Published,
    StepFinished,
    StepStarted,
)
from perago_worker.models import Lease

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

CLOSE_S = 5.0
"""How long what is left may take to be sent at the end of the worker."""

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_FAILED = frozenset({"failed", "terminal"})


def wanted(environ: Mapping[str, str]) -> bool:
    """Tell whether the variables of OpenTelemetry ask for traces.

    They do where they name an exporter, or an endpoint to export to, and nothing turns it off.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporters:
        return "otlp" in {each.strip() for each in exporters.split(",")}
    return any(environ.get(name) for name in _ENDPOINTS)


def open_traces(environ: Mapping[str, str], *, worker_id: str) -> Traces | None:
    """Return what sends traces; None where none are asked for or the extra is missing."""
    if not wanted(environ):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as missing:
        structlog.get_logger(__name__).warning(
            "traces.unavailable", detail=f"install perago-worker[otel]: {missing}"
        )
        return None
    about = {"service.version": __version__, "service.instance.id": worker_id}
    if not _names_the_service(environ):
        about["service.name"] = "perago-worker"
    provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)


def _names_the_service(environ: Mapping[str, str]) -> bool:
    attributes = environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return bool(environ.get("OTEL_SERVICE_NAME")) or "service.name=" in attributes


@dataclass
class _Attempt:
    """An attempt in progress."""

    span: Span
    context: Context
    steps: dict[str, Span] = field(default_factory=dict)


class Traces:
    """A listener that makes spans. Safe from any thread.

    Args:
        provider: Knows where they go; closed with the listener.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = provider.get_tracer("perago_worker", __version__)
        self._lock = threading.Lock()
        self._running: dict[str, _Attempt] = {}

    def on_event(self, event: Event) -> None:
        """Begin, complete or end a span."""
        match event:
            case AttemptStarted():
                self._begin(event)
            case StepStarted():
                self._begin_step(event)
            case StepFinished():
                self._end_step(event)
            case Published():
                self._published(event)
            case AttemptFinished():
                self._end(event)

    def trace_of(self, lease: Lease) -> str | None:
        """Return the id of the trace that a running attempt is recorded in; None for none."""
        attempt = self._attempt(lease)
        if attempt is None or not attempt.span.is_recording():
            return None
        return f"{attempt.span.get_span_context().trace_id:032x}"

    def close(self) -> None:
        """Send what is left, for a bounded time. Idempotent."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(CLOSE_S)

    def _begin(self, event: AttemptStarted) -> None:
        lease = event.lease
        given = {
            name: value
            for name in ("traceparent", "tracestate")
            if isinstance(value := lease.input.get(name), str)
        }
        span = self._tracer.start_span(
            f"attempt {lease.task_type}",
            context=self._propagator.extract(given),
            kind=self._trace.SpanKind.CONSUMER,
            attributes={
                "perago.task": lease.task_type,
                "perago.task_id": lease.task_id,
                "perago.workflow_id": lease.workflow_id,
                "perago.retry": lease.retry_count,
                "perago.poll": lease.poll_count,
            },
            start_time=_ns(event),
        )
        attempt = _Attempt(span, self._trace.set_span_in_context(span))
        with self._lock:
            self._running[lease.task_id] = attempt

    def _begin_step(self, event: StepStarted) -> None:
        attempt = self._attempt(event.lease)
        if attempt is not None:
            attempt.steps[event.step] = self._tracer.start_span(
                event.step, context=attempt.context, start_time=_ns(event)
            )

    def _end_step(self, event: StepFinished) -> None:
        attempt = self._attempt(event.lease)
        span = None if attempt is None else attempt.steps.pop(event.step, None)
        if span is None:
            return
        if event.error:
            span.set_attribute("error.type", event.error)
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(_ns(event))

    def _published(self, event: Published) -> None:
        attempt = self._attempt(event.lease)
        if attempt is not None:
            attempt.span.set_attributes(
                {
                    "perago.publication": event.outcome,
                    "perago.fence": event.fence,
                    "perago.commit": event.commit,
                }
            )

    def _end(self, event: AttemptFinished) -> None:
        with self._lock:
            attempt = self._running.pop(event.lease.task_id, None)
        if attempt is None:
            return
        outcome = event.outcome
        attempt.span.set_attributes(
            {"perago.outcome": outcome.kind, "perago.code": str(outcome.code)}
        )
        if outcome.kind in _FAILED:
            attempt.span.set_attribute("error.type", str(outcome.code))
            attempt.span.set_status(self._trace.StatusCode.ERROR, outcome.reason)
        attempt.span.end(_ns(event))

    def _attempt(self, lease: Lease) -> _Attempt | None:
        with self._lock:
            return self._running.get(lease.task_id)


def _ns(event: Event) -> int:
    """Return when something happened, nanoseconds since the epoch."""
    return round(event.at * 1e9)
