"""Traces: a span for each attempt and step, beneath the span that the task's input names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from structlog.testing import capture_logs

from perago_worker.events import (
    AttemptFinished,
    AttemptStarted,
    Event,
    Published,
    StepFinished,
    StepStarted,
)
from perago_worker.models import Lease, Outcome
from perago_worker.telemetry.traces import Traces, open_traces, wanted
from tests.leases import make_lease
from tests.unit.scripted_server import answer, serving

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


def lease(task_id: str = "t-1", **given: Any) -> Lease:
    return make_lease(task_id=task_id, input={"params": {"password": "hunter2"}, **given})


class Seen:
    """Traces whose spans are kept; each event happens a second after the one before."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.traces = Traces(provider)
        self.seconds = 0

    def see(self, *events: Event) -> dict[str, ReadableSpan]:
        for event in events:
            self.seconds += 1
            self.traces.on_event(replace(event, at=float(self.seconds)))
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def seen() -> Iterator[Seen]:
    seen = Seen()
    yield seen
    seen.traces.close()
    seen.traces.close()


DONE = Outcome(kind="completed", code="published", output={"result": "hunter3"})


def test_an_attempt_is_a_span_and_its_steps_are_beneath(seen: Seen) -> None:
    given = lease()
    spans = seen.see(
        AttemptStarted(given),
        StepStarted(given, "body"),
        StepFinished(given, "body", 1.0),
        StepStarted(given, "publish"),
        Published(given, "merged", "abc", 0.1, "hook"),
        StepFinished(given, "publish", 1.0, "StoreUnavailable"),
        AttemptFinished(given, DONE, 2.0, True),
    )

    attempt, body, publish = (spans[name] for name in ("attempt features.build", "body", "publish"))
    assert attempt.kind is SpanKind.CONSUMER
    assert attempt.parent is None
    assert dict(attempt.attributes or {}) == {
        "perago.task": "features.build",
        "perago.task_id": "t-1",
        "perago.workflow_id": "w-1",
        "perago.retry": 1,
        "perago.poll": 2,
        "perago.publication": "merged",
        "perago.fence": "hook",
        "perago.commit": "abc",
        "perago.outcome": "completed",
        "perago.code": "published",
    }
    for step in (body, publish):
        assert step.parent is not None
        assert step.parent.span_id == attempt.context.span_id
    assert body.status.status_code is StatusCode.UNSET
    assert publish.status.status_code is StatusCode.ERROR
    times = [(s.start_time, s.end_time) for s in (attempt, body, publish)]
    assert times == [(1 * 10**9, 7 * 10**9), (2 * 10**9, 3 * 10**9), (4 * 10**9, 6 * 10**9)]
    assert "hunter" not in str([span.to_json() for span in spans.values()])


def test_an_attempt_goes_on_with_the_trace_of_its_input(seen: Seen) -> None:
    given = lease(traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="vendor=1")

    spans = seen.see(AttemptStarted(given), AttemptFinished(given, DONE, 1.0, True))

    (span,) = spans.values()
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert span.context.trace_state["vendor"] == "1"


@pytest.mark.parametrize("traceparent", ["", "00-1-2-3", 7, None, ["00"], f"00-{'0' * 32}-x-01"])
def test_what_is_no_trace_context_begins_a_trace(seen: Seen, traceparent: object) -> None:
    given = lease(traceparent=traceparent)

    spans = seen.see(AttemptStarted(given), AttemptFinished(given, DONE, 1.0, True))

    (span,) = spans.values()
    assert span.parent is None


def test_a_trace_that_is_not_sampled_stays_so(seen: Seen) -> None:
    given = lease(traceparent=f"00-{TRACE}-{PARENT}-00")

    assert seen.see(AttemptStarted(given), AttemptFinished(given, DONE, 1.0, True)) == {}


def test_a_running_attempt_tells_its_trace(seen: Seen) -> None:
    """For exemplars; one that is not sampled has none to look up."""
    sampled = lease("t-1", traceparent=f"00-{TRACE}-{PARENT}-01")
    unsampled = lease("t-2", traceparent=f"00-{TRACE}-{PARENT}-00")
    seen.see(AttemptStarted(sampled), AttemptStarted(unsampled))

    assert seen.traces.trace_of(sampled) == TRACE
    assert seen.traces.trace_of(unsampled) is None
    seen.see(AttemptFinished(sampled, DONE, 1.0, True))
    assert seen.traces.trace_of(sampled) is None


@pytest.mark.parametrize(
    ("kind", "status"),
    [("failed", StatusCode.ERROR), ("terminal", StatusCode.ERROR), ("released", StatusCode.UNSET)],
)
def test_a_failure_is_one(seen: Seen, kind: Any, status: StatusCode) -> None:
    outcome = Outcome(kind=kind, code="task_failed", reason="no readings")

    (span,) = seen.see(
        AttemptStarted(lease()), AttemptFinished(lease(), outcome, 1.0, True)
    ).values()

    assert span.status.status_code is status


def test_events_of_attempts_that_are_not_known_are_nothing(seen: Seen) -> None:
    events = (StepStarted(lease(), "body"), StepFinished(lease(), "body", 1.0))

    assert seen.see(*events, AttemptFinished(lease(), DONE, 1.0, True)) == {}


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", **ENDPOINT}, False),
        ({"OTEL_SDK_DISABLED": "true", **ENDPOINT}, False),
    ],
)
def test_the_standard_variables_turn_it_on(environ: dict[str, str], expected: bool) -> None:
    assert wanted(environ) is expected


def test_spans_arrive_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as start:
        collector = start(answer(200, b""))
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-team=data",
            "OTEL_SERVICE_NAME": "etl",
        }
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        traces = open_traces(environ, worker_id="host:1:a")
        assert traces is not None
        traces.on_event(AttemptStarted(lease()))
        traces.on_event(AttemptFinished(lease(), DONE, 1.0, True))
        traces.close()

    (request,) = collector.requests
    assert request.target == "/v1/traces"
    assert request.headers["x-team"] == "data"
    (sent,) = ExportTraceServiceRequest.FromString(request.body).resource_spans
    about = {each.key: each.value.string_value for each in sent.resource.attributes}
    assert (about["service.name"], about["service.instance.id"]) == ("etl", "host:1:a")
    assert [span.name for span in sent.scope_spans[0].spans] == ["attempt features.build"]


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    with capture_logs() as lines:
        assert open_traces(ENDPOINT, worker_id="w") is None

    assert lines[0]["event"] == "traces.unavailable"
    assert "perago-worker[otel]" in lines[0]["detail"]


def test_nothing_of_it_is_loaded_unless_it_is_asked_for() -> None:
    code = (
        "import sys, perago_worker.bootstrap.run as b; b.open_traces({}, worker_id='w'); "
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout == "[]\n"
