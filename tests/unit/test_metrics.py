"""Metrics: every series from the start, closed labels, and each event counted where it belongs."""

from __future__ import annotations

import time
from math import inf
from typing import Any, get_args

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest

from perago_worker._version import __version__
from perago_worker.attempt.codes import Code
from perago_worker.attempt.pipeline import STEP_NAMES
from perago_worker.events import (
    AttemptFinished,
    AttemptStarted,
    BodyOutput,
    CacheFailed,
    CacheLookup,
    CacheTrimmed,
    CacheUsed,
    CallRepeated,
    ChildStarted,
    Event,
    GivenBack,
    HeartbeatSent,
    PollFinished,
    Published,
    PublishOutcome,
    QueueSeen,
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
)
from perago_worker.models import Lease, Outcome
from perago_worker.models.outcome import OutcomeKind
from perago_worker.ports import FenceLevel
from perago_worker.telemetry.cache_metrics import CacheMetrics
from perago_worker.telemetry.client_metrics import ClientMetrics
from perago_worker.telemetry.metrics import PHASE_BUCKETS_S, Metrics
from perago_worker.telemetry.request_metrics import OPERATIONS, RequestMetrics
from tests.leases import make_lease

SLOTS = {"a": 2, "b": 1}


def lease(task_type: str = "a") -> Lease:
    return make_lease(task_type=task_type)


class Observed:
    """Metrics on a registry of their own."""

    def __init__(self, slots: dict[str, int] | None = None) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(
            self.registry,
            slots=SLOTS if slots is None else slots,
            steps=STEP_NAMES,
            services=("heartbeats",),
        )

    def see(self, *events: Event) -> None:
        for event in events:
            self.metrics.on_event(event)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"perago_worker_{name}", labels)

    def series(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name.startswith("perago_worker_")
        }


@pytest.fixture
def observed() -> Observed:
    return Observed()


ENDINGS: list[tuple[OutcomeKind, Code]] = [
    ("completed", Code.PUBLISHED),
    ("completed", Code.NO_OP),
    ("completed", Code.READ_ONLY),
    ("completed", Code.NO_WORKSPACE),
    ("terminal", Code.HEAD_MOVED),
    ("failed", Code.CHILD_DIED),
    ("failed", Code.WORKER_ERROR),
    ("superseded", Code.SUPERSEDED),
    ("cancelled", Code.CANCELLED),
    ("released", Code.DRAINED),
]

EVERY_EVENT: list[Event] = [
    *(PollFinished("a", outcome) for outcome in ("tasks", "empty", "error")),
    AttemptStarted(lease()),
    *(StepStarted(lease(), step) for step in (*STEP_NAMES, "unheard-of")),
    QueueSeen("a", 3),
    StageLeft(lease(), "shop", "perago-x"),
    Swept("stage", "shop", "perago-x"),
    Stalled("heartbeats", 130.0, "stacks"),
    *(StepFinished(lease(), step, 1.0) for step in (*STEP_NAMES, "unheard-of")),
    *(AttemptFinished(lease(), Outcome(kind=kind, code=code), 1.0, True) for kind, code in ENDINGS),
    *(
        AttemptFinished(lease(), Outcome(kind=kind, code="unheard-of"), 1.0, True)
        for kind in get_args(OutcomeKind)
    ),
    BodyOutput(lease(), "stdout", "x"),
    *(WorkspaceBrought(lease(), source) for source in ("warm", "cold", "unfit")),
    *(Transferred(lease(), direction, 1, 1, 1.0, 1) for direction in ("download", "upload")),
    *(HeartbeatSent(lease(), outcome, 0.1) for outcome in ("held", "lost", "error")),
    *(
        Published(lease(), outcome, "c", 0.5, fence)
        for outcome in get_args(PublishOutcome)
        for fence in get_args(FenceLevel)
    ),
    GivenBack(lease(), "x"),
    GivenBack(lease(), "x", "error"),
    *(
        ChildStarted("a", 1, cause)
        for cause in ("start", "recycled", "ended", "stopped", "unheard-of")
    ),
    ServiceFailed("heartbeats", "x", 1.0),
    *(StateChanged(state) for state in ("starting", "running", "draining", "stopped")),
]


def test_no_event_makes_a_series_that_was_not_there_from_the_start(observed: Observed) -> None:
    at_start = set(observed.series())

    observed.see(*EVERY_EVENT)

    assert set(observed.series()) == at_start


def test_everything_is_zero_at_the_start_but_what_describes_the_worker(observed: Observed) -> None:
    not_zero = {name for (name, _), value in observed.series().items() if value and value < inf}

    assert not_zero == {"perago_worker_build_info", "perago_worker_state", "perago_worker_slots"}


def test_series_of_one_task_stay_below_300() -> None:
    more = len(Observed({"a": 1, "b": 1}).series()) - len(Observed({"a": 1}).series())

    assert 0 < more < 300


def test_labels_are_closed_sets_without_ids(observed: Observed) -> None:
    observed.see(*EVERY_EVENT)
    labels = {label for _, labels in observed.series() for label, _ in labels}

    assert labels == {
        *("task", "outcome", "reason", "phase", "direction", "state", "cause", "service"),
        *("fence", "source", "kind", "le", "version", "python"),
    }


def test_every_code_has_a_series_with_one_outcome(observed: Observed) -> None:
    series = [
        dict(labels)
        for name, labels in observed.series()
        if name == "perago_worker_attempts_total" and ("task", "a") in labels
    ]
    codes = [labels["reason"] for labels in series if labels["reason"] != "other"]

    assert sorted(codes) == sorted(Code)
    assert {labels["outcome"] for labels in series} == set(get_args(OutcomeKind))


def test_the_worker_describes_itself(observed: Observed) -> None:
    infos = [dict(labels) for name, labels in observed.series() if name.endswith("build_info")]

    assert [info["version"] for info in infos] == [__version__]
    assert observed.value("state", state="starting") == 1
    assert observed.value("slots", task="a") == 2
    assert observed.value("slots", task="b") == 1


def test_the_state_is_one_of_its_values(observed: Observed) -> None:
    observed.see(StateChanged("running"), StateChanged("draining"))

    states = {
        dict(labels)["state"]: value
        for (name, labels), value in observed.series().items()
        if name == "perago_worker_state"
    }
    assert states == {"starting": 0, "running": 0, "draining": 1, "stopped": 0}


def test_polls_are_counted_and_the_last_good_one_is_dated(observed: Observed) -> None:
    observed.see(PollFinished("a", "error"))
    assert observed.value("last_successful_poll_timestamp_seconds", task="a") == 0

    observed.see(PollFinished("a", "empty"), PollFinished("a", "tasks", count=2, at=1.5e9))

    assert observed.value("last_successful_poll_timestamp_seconds", task="a") == 1.5e9
    assert observed.value("last_successful_poll_timestamp_seconds", task="b") == 0
    for outcome in ("error", "empty", "tasks"):
        assert observed.value("polls_total", task="a", outcome=outcome) == 1


def test_finished_attempts_are_counted_by_how_they_ended(observed: Observed) -> None:
    observed.see(AttemptFinished(lease(), Outcome(kind="completed", code="published"), 1.0, True))

    assert observed.value("attempts_total", task="a", outcome="completed", reason="published") == 1


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.04, "0.05"), (3.0, "5.0"), (20_000.0, "21600.0")]
)
def test_steps_are_timed_up_to_six_hours(seconds: float, bucket: str, observed: Observed) -> None:
    observed.see(StepFinished(lease(), "body", seconds))

    def count(le: str) -> Any:
        return observed.value("phase_duration_seconds_bucket", task="a", phase="body", le=le)

    smaller = [str(float(limit)) for limit in PHASE_BUCKETS_S if limit < float(bucket)]
    assert count(bucket) == 1
    assert not smaller or count(smaller[-1]) == 0
    assert observed.value("phase_duration_seconds_sum", task="a", phase="body") == seconds


def test_there_are_17_buckets_from_50_ms_to_6_hours() -> None:
    assert len(PHASE_BUCKETS_S) == 17
    assert (PHASE_BUCKETS_S[0], PHASE_BUCKETS_S[-1]) == (0.05, 21600)


def test_unknown_words_are_counted_as_other(observed: Observed) -> None:
    observed.see(
        AttemptFinished(lease(), Outcome(kind="failed", code="unheard-of"), 1.0, True),
        ChildStarted("a", 1, "unheard-of"),
    )

    assert observed.value("attempts_total", task="a", outcome="failed", reason="other") == 1
    assert observed.value("child_restarts_total", cause="other") == 1


def test_transfers_are_counted_by_direction(observed: Observed) -> None:
    observed.see(
        Transferred(lease(), "download", 3, 1000, 1.0, skipped_bytes=50),
        Transferred(lease(), "download", 1, 24, 1.0),
        Transferred(lease(), "upload", 1, 7, 1.0),
    )

    down = {"task": "a", "direction": "download"}
    assert observed.value("transfer_bytes_total", **down) == 1024
    assert observed.value("transfer_objects_total", **down) == 4
    assert observed.value("transfer_skipped_bytes_total", **down) == 50
    assert observed.value("transfer_bytes_total", task="a", direction="upload") == 7


def test_heartbeats_are_counted_with_their_delay(observed: Observed) -> None:
    observed.see(
        HeartbeatSent(lease(), "held", 0.02),
        HeartbeatSent(lease(), "held", None),
        HeartbeatSent(lease(), "lost", 7.0),
    )

    assert observed.value("heartbeats_total", outcome="held") == 2
    assert observed.value("heartbeats_total", outcome="lost") == 1
    assert observed.value("heartbeat_delay_seconds_sum") == pytest.approx(7.02)
    assert observed.value("heartbeat_delay_seconds_bucket", le="5.0") == 1
    assert observed.value("heartbeat_delay_seconds_count") == 2


def test_publications_are_counted_with_the_budget_they_used(observed: Observed) -> None:
    observed.see(
        Published(lease(), "merged", "c", 0.3, "hook"),
        Published(lease(), "refused", "", 1.2, "verify"),
    )
    assert observed.value("publication_fences_total", fence="hook") == 1
    assert observed.value("publication_fences_total", fence="verify") == 1

    assert observed.value("publications_total", task="a", outcome="merged") == 1
    assert observed.value("publications_total", task="a", outcome="refused") == 1
    assert observed.value("publish_budget_used_ratio_sum", task="a") == pytest.approx(1.5)


def test_a_first_child_is_no_restart(observed: Observed) -> None:
    observed.see(ChildStarted("a", 1, "start"), ChildStarted("a", 2, "ended"))

    restarts = {
        dict(labels)["cause"]: value
        for (name, labels), value in observed.series().items()
        if name == "perago_worker_child_restarts_total"
    }
    assert restarts == {"recycled": 0, "ended": 1, "stopped": 0, "other": 0}


def test_failures_of_services_and_tasks_given_back_are_counted(observed: Observed) -> None:
    observed.see(
        ServiceFailed("heartbeats", "x", None),
        GivenBack(lease(), "x"),
        GivenBack(lease(), "x", "e"),
    )

    assert observed.value("service_failures_total", service="heartbeats") == 1
    assert observed.value("tasks_given_back_total", task="a", outcome="ok") == 1
    assert observed.value("tasks_given_back_total", task="a", outcome="error") == 1


def test_the_process_is_measured_too(observed: Observed) -> None:
    assert observed.registry.get_sample_value("process_resident_memory_bytes")


def test_times_are_those_of_events() -> None:
    registry = CollectorRegistry()
    before = time.time()
    Metrics(registry, slots={"a": 1}, steps=STEP_NAMES).on_event(PollFinished("a", "empty"))

    last = registry.get_sample_value(
        "perago_worker_last_successful_poll_timestamp_seconds", {"task": "a"}
    )
    assert last is not None
    assert last >= before


def test_names_are_those_of_open_metrics(observed: Observed) -> None:
    text = generate_latest(observed.registry).decode()  # type: ignore[no-untyped-call]

    assert "_created" not in text
    assert "# TYPE perago_worker_attempts counter" in text
    assert text.endswith("# EOF\n")


def test_attempts_are_counted_in_the_step_they_are_in(observed: Observed) -> None:
    observed.see(StepStarted(lease(), "download"))
    assert observed.value("attempts_in_progress", task="a", phase="download") == 1

    observed.see(StepFinished(lease(), "download", 1.0), StepStarted(lease(), "body"))

    assert observed.value("attempts_in_progress", task="a", phase="download") == 0
    assert observed.value("attempts_in_progress", task="a", phase="body") == 1


def test_what_waits_and_what_is_stuck_is_told(observed: Observed) -> None:
    observed.see(QueueSeen("a", 7), Stalled("heartbeats", 130.0, ""))

    assert observed.value("queue_depth", task="a") == 7
    assert observed.value("watchdog_stalls_total", service="heartbeats") == 1


def test_stages_are_orphans_until_they_are_swept(observed: Observed) -> None:
    observed.see(StageLeft(lease(), "shop", "perago-1"), StageLeft(lease(), "shop", "perago-2"))
    assert observed.value("orphan_staging_branches") == 2

    observed.see(Swept("stage", "shop", "perago-1"), Swept("stage", "shop", "somebody-elses"))

    assert observed.value("orphan_staging_branches") == 1
    assert observed.value("gc_removed_total", kind="stage") == 2


def test_some_are_read_when_somebody_asks(observed: Observed) -> None:
    observed.metrics.watch(
        disk_free_bytes=lambda: 5e9,
        loop_lag_s=lambda: 0.5,
        lease_remaining_s={"a": lambda: 42.0},
        slots_busy={"a": lambda: 2},
    )

    assert observed.value("workspace_disk_free_bytes") == 5e9
    assert observed.value("event_loop_lag_seconds") == 0.5
    assert observed.value("lease_remaining_seconds", task="a") == 42
    assert observed.value("lease_remaining_seconds", task="b") == inf
    assert observed.value("slots_busy", task="a") == 2
    assert observed.value("slots_busy", task="b") == 0


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", True),
        (f"00-{TRACE}-00f067aa0ba902b7-01\n", False),
        ("00-secret-of-somebody", False),
        (None, False),
        (5, False),
    ],
)
def test_steps_of_a_traced_task_have_its_trace_as_exemplar(
    given: object, shown: bool, observed: Observed
) -> None:
    traced = replace_input(lease(), {"traceparent": given})
    observed.see(StepFinished(traced, "body", 3.0))

    text = generate_latest(observed.registry).decode()  # type: ignore[no-untyped-call]

    assert (f'# {{trace_id="{TRACE}"}} 3.0' in text) is shown
    assert "secret" not in text


def test_the_trace_that_is_made_here_is_the_exemplar_too() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, slots={"a": 1}, steps=["body"], trace_of=lambda _: TRACE)
    of_a = lease().model_copy(update={"task_type": "a"})
    metrics.on_event(StepFinished(of_a, "body", 3.0))
    metrics.on_event(Published(of_a, "merged", "c", 0.2, "hook"))

    text = generate_latest(registry).decode()  # type: ignore[no-untyped-call]

    assert f'# {{trace_id="{TRACE}"}} 3.0' in text
    assert f'# {{trace_id="{TRACE}"}} 0.2' in text


def replace_input(given: Lease, value: dict[str, Any]) -> Lease:
    return given.model_copy(update={"input": value})


# --- requests to servers, and what Conductor's clients share --------------------------------------


def values(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if not sample.name.endswith("_created")  # there until a process has its first `Metrics`
    }


def test_requests_are_counted_by_what_they_ask_for_and_how_they_end() -> None:
    registry = CollectorRegistry()
    metrics = RequestMetrics(registry, services={"queue": "conductor", "store": "lakefs"})
    at_start = set(values(registry))
    for service, operations in OPERATIONS.items():
        for operation in (*operations, "unheard-of"):
            for status in (0, 200, 302, 404, 503, 999):
                metrics.on_event(
                    RequestFinished(service, operation, "GET", "/x", status, 0.2)  # type: ignore[arg-type]
                )
    metrics.on_event(CallRepeated("store"))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"perago_worker_{name}", labels)

    assert set(values(registry)) == at_start
    polls = {"service": "conductor", "operation": "poll"}
    assert value("http_requests_total", **polls, code="2xx") == 1
    assert value("http_requests_total", **polls, code="none") == 2
    assert value("http_request_duration_seconds_count", **polls) == 6
    assert value("http_retries_total", service="lakefs") == 1
    assert value("http_retries_total", service="conductor") == 0


def test_only_servers_that_there_are_have_series() -> None:
    registry = CollectorRegistry()
    RequestMetrics(registry, services={"queue": "conductor"})

    services = {dict(labels)["service"] for _, labels in values(registry)}

    assert services == {"conductor"}


def test_what_the_cache_was_good_for_is_counted() -> None:
    registry = CollectorRegistry()
    metrics = CacheMetrics(registry, tasks=["a"])
    metrics.watch(lambda: 5e6)
    at_start = set(values(registry))
    metrics.on_event(CacheUsed(lease(), {"hit": 3, "corrupted": 1}, 300))
    metrics.on_event(CacheTrimmed(2, 200))
    metrics.on_event(CacheFailed("full"))
    metrics.on_event(AttemptStarted(lease()))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"perago_worker_cache_{name}", labels)

    assert set(values(registry)) == at_start
    outcomes = [value("lookups_total", task="a", outcome=o) for o in get_args(CacheLookup)]
    assert outcomes == [3, 0, 1]
    assert value("hit_bytes_total", task="a") == 300
    assert value("evicted_bytes_total") == 200
    assert value("failures_total") == 1
    assert value("held_bytes") == 5e6


def test_metrics_of_conductors_clients_are_there_from_the_start() -> None:
    registry = CollectorRegistry()
    metrics = ClientMetrics(registry, tasks=["a"])
    at_start = set(values(registry))
    assert all(value == 0 for value in values(registry).values())
    assert len(at_start) < 130

    for event in EVERY_EVENT:
        metrics.on_event(event)
    assert set(values(registry)) == at_start

    metrics.on_event(RequestFinished("conductor", "poll", "GET", "/tasks/poll", 200, 0.2))
    labels = {"method": "GET", "uri": "/tasks/poll", "status": "200"}
    count = registry.get_sample_value("http_api_client_request_seconds_count", labels)
    assert count == 1


def test_metrics_of_conductors_clients_count_what_happens() -> None:
    registry = CollectorRegistry()
    metrics = ClientMetrics(registry, tasks=["a"])
    for event in (
        PollFinished("a", "empty", seconds=0.2),
        PollFinished("a", "error", error="no"),
        AttemptStarted(lease()),
        StepFinished(lease(), "body", 3.0),
        StepFinished(lease(), "report", 0.1, "QueueUnavailable"),
        AttemptFinished(
            lease(), Outcome(kind="completed", code="published", output={"x": 1}), 3.1, False
        ),
        AttemptFinished(lease(), Outcome(kind="failed", code="task_failed"), 3.1, True),
        ChildStarted("a", 1, "start"),
        ChildStarted("a", 2, "ended"),
        GivenBack(lease(), "more tasks came than were asked for"),
        GivenBack(lease(), "the worker stops"),
    ):
        metrics.on_event(event)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"taskType": "a", **labels})

    assert value("task_poll_total") == 2
    assert value("task_poll_error_total", exception="QueueUnavailable") == 1
    assert value("task_poll_time_seconds_count", status="FAILURE") == 1
    assert value("task_execution_started_total") == 1
    assert value("task_execute_time_seconds_sum", status="SUCCESS") == 3
    assert value("task_update_time_seconds_count", status="FAILURE") == 1
    assert value("task_update_error_total", exception="QueueUnavailable") == 1
    assert value("task_execute_error_total", exception="RetryableAttemptError") == 1
    assert value("task_result_size_bytes_sum") == len('{"x": 1}')
    assert value("worker_restart_total") == 1
    assert value("task_execution_queue_full_total") == 1
    assert value("active_workers") == 0
    metrics.watch({"a": lambda: 2})
    assert value("active_workers") == 2
