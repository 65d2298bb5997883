"""Log lines: one per event, for people and machines, and never with a secret in them."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from perago_worker.config import Redactor
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
    StateChanged,
    StepFinished,
    Transferred,
)
from perago_worker.models import Lease, Outcome
from perago_worker.telemetry.logs import EventLog, configure_logging
from perago_worker.telemetry.summary import RunSummary
from tests.leases import make_lease

CANARY = "wJalrXUtnFEMI/K7MDENG+canary"

IDENTITY = {
    "task": "features.build",
    "task_id": "t-1",
    "workflow_id": "w-1",
    "retry": 2,
    "poll": 3,
}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    names = ("httpx", "httpcore", "urllib3", "conductor", "lakefs_sdk", "asyncio")
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lease(**changes: Any) -> Lease:
    return make_lease(**{"retry_count": 2, "poll_count": 3, **changes})


def lines(
    *events: Event, level: str = "debug", secrets: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Return the JSON lines that events become."""
    stream = io.StringIO()
    configure_logging("json", level, stream=stream, secrets=secrets)
    log = EventLog()
    for event in events:
        log.on_event(event)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def without_time(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "timestamp"}


# --- events ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            AttemptStarted(lease()),
            {**IDENTITY, "event": "attempt.started", "level": "info"},
        ),
        (
            StepFinished(lease(), "download", 1.23456, "StoreUnavailable"),
            {
                **IDENTITY,
                "event": "step.finished",
                "level": "debug",
                "step": "download",
                "seconds": 1.235,
                "error": "StoreUnavailable",
            },
        ),
        (
            AttemptFinished(
                lease(), Outcome(kind="completed", code="published", output_ref="c1"), 2.0, True
            ),
            {
                **IDENTITY,
                "event": "attempt.finished",
                "level": "info",
                "outcome": "completed",
                "code": "published",
                "seconds": 2.0,
                "reported": True,
                "output_ref": "c1",
            },
        ),
        (
            AttemptFinished(
                lease(), Outcome(kind="failed", code="task_failed", reason="no"), 2.0, True, "Trace"
            ),
            {
                **IDENTITY,
                "event": "attempt.finished",
                "level": "warning",
                "outcome": "failed",
                "code": "task_failed",
                "seconds": 2.0,
                "reported": True,
                "reason": "no",
                "exception": "Trace",
            },
        ),
        (
            BodyOutput(lease(domain="gpu"), "stderr", "hello"),
            {
                **IDENTITY,
                "domain": "gpu",
                "event": "body.output",
                "level": "info",
                "source": "body",
                "stream": "stderr",
                "line": "hello",
            },
        ),
        (
            Transferred(lease(), "download", 2, 300, 0.5, skipped_bytes=7),
            {
                **IDENTITY,
                "event": "workspace.transferred",
                "level": "info",
                "direction": "download",
                "objects": 2,
                "bytes": 300,
                "skipped_bytes": 7,
                "seconds": 0.5,
                "bytes_per_second": 600,
            },
        ),
        (
            CacheUsed(lease(), {"hit": 3, "miss": 1}, 300),
            {
                **IDENTITY,
                "event": "cache.used",
                "level": "debug",
                "hits": 3,
                "misses": 1,
                "corrupted": 0,
                "hit_bytes": 300,
            },
        ),
        (
            CacheUsed(lease(), {"corrupted": 2}, 0),
            {
                **IDENTITY,
                "event": "cache.used",
                "level": "warning",
                "hits": 0,
                "misses": 0,
                "corrupted": 2,
                "hit_bytes": 0,
            },
        ),
        (
            CacheTrimmed(2, 300),
            {"event": "cache.trimmed", "level": "debug", "objects": 2, "bytes": 300},
        ),
        (CacheFailed("full"), {"event": "cache.failed", "level": "warning", "error": "full"}),
        (
            HeartbeatSent(lease(), "held", 0.1),
            {
                **IDENTITY,
                "event": "heartbeat.sent",
                "level": "debug",
                "outcome": "held",
                "delay_s": 0.1,
            },
        ),
        (
            HeartbeatSent(lease(), "error", None, "the queue is away"),
            {
                **IDENTITY,
                "event": "heartbeat.sent",
                "level": "warning",
                "outcome": "error",
                "detail": "the queue is away",
            },
        ),
        (
            HeartbeatSent(lease(), "lost", 0.1, "superseded"),
            {
                **IDENTITY,
                "event": "heartbeat.lost",
                "level": "warning",
                "outcome": "lost",
                "delay_s": 0.1,
                "detail": "superseded",
            },
        ),
        (
            Published(lease(), "merged", "c1", 0.25, "hook"),
            {
                **IDENTITY,
                "event": "workspace.published",
                "level": "info",
                "outcome": "merged",
                "fence": "hook",
                "commit": "c1",
                "budget_used": 0.25,
            },
        ),
        (
            Published(lease(), "refused", "", 0.25, "verify", "head moved"),
            {
                **IDENTITY,
                "event": "workspace.not_published",
                "level": "warning",
                "outcome": "refused",
                "fence": "verify",
                "budget_used": 0.25,
                "detail": "head moved",
            },
        ),
        (
            GivenBack(lease(), "draining"),
            {**IDENTITY, "event": "task.given_back", "level": "info", "why": "draining"},
        ),
        (
            GivenBack(lease(), "draining", "no answer"),
            {
                **IDENTITY,
                "event": "task.given_back",
                "level": "warning",
                "why": "draining",
                "error": "no answer",
            },
        ),
        (
            ChildStarted("features.build", 7, "ended"),
            {
                "event": "child.started",
                "level": "warning",
                "task": "features.build",
                "pid": 7,
                "cause": "ended",
            },
        ),
        (
            ServiceFailed("poller", "Trace", 1.0),
            {
                "event": "service.failed",
                "level": "error",
                "service": "poller",
                "restart_in_s": 1.0,
                "exception": "Trace",
            },
        ),
        (
            StateChanged("draining", "SIGTERM"),
            {
                "event": "worker.state_changed",
                "level": "info",
                "state": "draining",
                "detail": "SIGTERM",
            },
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Event) else "",
)
def test_an_event_is_one_line_with_a_stable_name(event: Event, line: dict[str, Any]) -> None:
    (found,) = lines(event)

    assert without_time(found) == line


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("completed", "info"),
        ("failed", "warning"),
        ("terminal", "warning"),
        ("superseded", "warning"),
        ("cancelled", "info"),
        ("released", "info"),
    ],
)
def test_the_level_of_a_finished_attempt_follows_its_outcome(kind: Any, level: str) -> None:
    (line,) = lines(AttemptFinished(lease(), Outcome(kind=kind, code="x"), 1.0, False))

    assert line["level"] == level


def test_poll_errors_are_warnings_and_recovery_is_told_once() -> None:
    def poll(task: str, outcome: Any, error: str = "") -> PollFinished:
        return PollFinished(task, outcome, error=error, retry_in_s=1.0)

    found = lines(
        poll("a", "empty"),
        poll("a", "error", "refused"),
        poll("b", "empty"),
        poll("a", "error", "refused"),
        poll("a", "empty"),
        poll("a", "tasks"),
        level="info",
    )

    assert [(line["event"], line["level"], line["task"]) for line in found] == [
        ("poll.finished", "warning", "a"),
        ("poll.finished", "warning", "a"),
        ("poll.recovered", "info", "a"),
    ]
    assert found[0]["error"] == "refused"


def test_polls_that_go_well_are_told_at_debug() -> None:
    found = lines(PollFinished("a", "tasks", count=2), PollFinished("a", "empty"))

    assert [(line["level"], line["outcome"], line["count"]) for line in found] == [
        ("debug", "tasks", 2),
        ("debug", "empty", 0),
    ]


# --- where lines come from ------------------------------------------------------------------------


def test_lines_have_the_time_in_utc() -> None:
    (line,) = lines(StateChanged("running"))

    assert line["timestamp"].endswith("Z")
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() is not None


def test_a_line_about_an_event_has_the_time_of_the_event() -> None:
    (line,) = lines(AttemptStarted(lease(), at=86_400.25))
    assert line["timestamp"] == "1970-01-02T00:00:00.250000Z"


def test_lines_begin_with_when_and_what() -> None:
    (line,) = lines(AttemptStarted(lease()))

    assert list(line)[:3] == ["timestamp", "level", "event"]


def test_bound_context_is_in_every_line_of_libraries_too() -> None:
    stream = io.StringIO()
    configure_logging("json", "info", stream=stream)
    with structlog.contextvars.bound_contextvars(task_id="t-9"):
        structlog.get_logger().info("ours", n=1)
        logging.getLogger("some.library").info("theirs %s", "x")

    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    assert without_time(ours) == {"event": "ours", "level": "info", "n": 1, "task_id": "t-9"}
    assert without_time(theirs) == {
        "event": "theirs x",
        "level": "info",
        "logger": "some.library",
        "task_id": "t-9",
    }


@pytest.mark.parametrize("name", ["httpx", "httpcore.connection", "urllib3", "conductor.client"])
def test_chatty_libraries_are_heard_from_warning_upwards(name: str) -> None:
    stream = io.StringIO()
    configure_logging("json", "debug", stream=stream)
    logging.getLogger(name).info("a request")
    logging.getLogger(name).warning("a problem")

    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert line["event"] == "a problem"


def test_a_level_leaves_out_what_is_less_important() -> None:
    found = lines(StateChanged("running"), PollFinished("a", "error"), level="warning")

    assert [line["event"] for line in found] == ["poll.finished"]


@pytest.mark.key("logging.levels")
def test_single_loggers_can_have_levels_of_their_own() -> None:
    stream = io.StringIO()
    configure_logging(
        "json", "warning", stream=stream, levels={"shop.tasks": "debug", "urllib3": "info"}
    )
    try:
        logging.getLogger("shop.tasks.readings").debug("of a module below")
        logging.getLogger("shop").info("of another")
        logging.getLogger("urllib3").info("of a chatty library that was asked for")
    finally:
        logging.getLogger("shop.tasks").setLevel(logging.NOTSET)

    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events == ["of a module below", "of a chatty library that was asked for"]


def test_python_warnings_become_lines() -> None:
    stream = io.StringIO()
    configure_logging("json", "info", stream=stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("careful", UserWarning, stacklevel=1)
        logging.captureWarnings(capture=False)

    assert "careful" in json.loads(stream.getvalue())["event"]


def test_configuring_again_replaces_what_was_there() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging("json", "info", stream=first)
    log = EventLog()
    configure_logging("json", "info", stream=second)
    log.on_event(StateChanged("running"))

    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1


def test_standard_output_is_used_unless_a_stream_is_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("auto", "info")
    EventLog().on_event(StateChanged("running"))

    assert json.loads(capsys.readouterr().out)["state"] == "running"


# --- for people -----------------------------------------------------------------------------------


def console(event: str, *, stream: io.StringIO | None = None, **fields: Any) -> str:
    stream = stream or io.StringIO()
    configure_logging("console", "info", stream=stream)
    structlog.get_logger().info(event, **fields)
    return stream.getvalue()


def test_auto_is_console_on_a_terminal_and_json_elsewhere() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        configure_logging("auto", "info", stream=stream)
        EventLog().on_event(StateChanged("running"))

    assert json.loads(pipe.getvalue())["event"] == "worker.state_changed"
    assert not terminal.getvalue().startswith("{")
    assert "worker.state_changed" in terminal.getvalue()


def test_a_terminal_gets_colours_unless_no_color_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in console("x", stream=Terminal())
    assert "\x1b[" not in console("x")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in console("x", stream=Terminal())


def test_control_characters_are_shown_and_not_obeyed() -> None:
    text = console("a\nforged line", line="b\x1b[2Jc\r\u202ed\ud800", other=["e\x07"])

    assert len(text.splitlines()) == 1
    assert r"a\nforged line" in text
    assert r"b\x1b[2Jc\r\u202ed\ud800" in text
    assert "\x1b" not in text
    assert "\x07" not in text


def test_tracebacks_keep_their_lines_and_show_no_local_variables() -> None:
    stream = io.StringIO()
    configure_logging("console", "info", stream=stream)
    local_variable = "canary-in-a-local"
    try:
        raise ValueError(len(local_variable))
    except ValueError:
        structlog.get_logger().exception("failed")

    text = stream.getvalue()
    assert "Traceback (most recent call last)" in text
    assert text.count("\n") > 3
    assert "canary" not in text.replace('local_variable = "canary-in-a-local"', "")


def test_a_line_of_json_survives_any_text() -> None:
    (line,) = lines(BodyOutput(lease(), "stdout", "\ud800 \x00 \u2028 é"))

    assert line["line"] == "\ud800 \x00 \u2028 é"


# --- secrets --------------------------------------------------------------------------------------

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_known_secret_is_hidden_wherever_it_stands(style: Any) -> None:
    stream = io.StringIO()
    configure_logging(style, "info", stream=stream, secrets=[CANARY])
    log = structlog.get_logger()
    log.info(f"in the event {CANARY}")
    log.info("in fields", a=CANARY, b={"c": [f"x{CANARY}x"]}, d=ValueError(CANARY), e=(CANARY,))
    log.info("in a key", **{CANARY: 1})
    log.info("quoted", url="http://h/?k=wJalrXUtnFEMI%2FK7MDENG%2Bcanary")
    logging.getLogger("library").warning("in arguments %s", CANARY)
    logging.getLogger("library").warning("in extras", extra={"extra_field": CANARY})
    with structlog.contextvars.bound_contextvars(bound=CANARY):
        log.info("in the context")
    try:
        raise ValueError(f"in an exception {CANARY}")
    except ValueError:
        log.exception("failed")
    EventLog().on_event(BodyOutput(lease(), "stdout", f"password is {CANARY}"))

    text = stream.getvalue()
    assert len(text.splitlines()) >= 9
    assert "canary" not in text
    assert text.count("[redacted]") >= 12


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("id AKIAIOSFODNN7EXAMPLE.", "id [redacted]."),
        ("Authorization: Bearer abc.def", "Authorization: [redacted]"),
        ("Authorization: AWS4-HMAC-SHA256 Credential=a, Signature=b", "Authorization: [redacted]"),
        ("{'X-Authorization': 'abc', 'n': 1}", "{'X-Authorization': '[redacted]', 'n': 1}"),
        ('"authorization":"Basic eDp5", "n":1', '"authorization":"[redacted]", "n":1'),
        (f"token {JWT}", "token [redacted]"),
        (
            "GET /x?X-Amz-Credential=AK%2F2&X-Amz-Date=1&X-Amz-Signature=0af3&n=1",
            "GET /x?X-Amz-Credential=[redacted]&X-Amz-Date=1&X-Amz-Signature=[redacted]&n=1",
        ),
        ("http://me:pw%40x@host:80/p", "http://me:[redacted]@host:80/p"),
        ("secret_access_key = abc123", "secret_access_key = [redacted]"),
        (
            r"KeyError('{\'X-Authorization\': \'abc\'}')",
            r"KeyError('{\'X-Authorization\': \'[redacted]'}')",
        ),
        (r'"{\"password\": \"abc\", \"n\": 1}"', r'"{\"password\": \"[redacted]", \"n\": 1}"'),
        ('{"password": "abc", "n": 1}', '{"password": "[redacted]", "n": 1}'),
        ("AWS_SECRET_ACCESS_KEY=abc x", "AWS_SECRET_ACCESS_KEY=[redacted] x"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, hidden: str) -> None:
    redactor = Redactor()

    assert redactor.text(text) == hidden
    assert redactor.text(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "attempt.finished",
        "http://host:8080/a/b@c",
        "the secret of success",
        "2026-01-01T00:00:00Z commit 0af3c9",
        "path/to/AKIA.txt",
        "1,024 objects: 3.5 MiB",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor(["", "unrelated"]).text(text) == text


def test_fields_that_are_called_secrets_are_hidden() -> None:
    fields = {"password": "a", "headers": {"Authorization": "b", "n": 1}, "secrets": 2, "ok": None}

    assert Redactor().fields(fields) == {
        "password": "[redacted]",
        "headers": {"Authorization": "[redacted]", "n": 1},
        "secrets": 2,
        "ok": None,
    }


@given(
    texts=st.lists(st.text(), min_size=1, max_size=6),
    secret=st.text(min_size=1),
    place=st.integers(min_value=0),
)
def test_one_look_at_all_fields_finds_what_a_look_at_each_does(
    texts: list[str], secret: str, place: int
) -> None:
    texts[place % len(texts)] += secret
    redactor = Redactor([secret])
    fields = {f"field{number}": text for number, text in enumerate(texts)} | {"n": 1, secret: None}

    assert redactor.fields(fields) == {
        redactor.text(name): redactor.value(value) for name, value in fields.items()
    }


# --- summary --------------------------------------------------------------------------------------


def finished(kind: Any, *, reported: bool = True, **fields: Any) -> AttemptFinished:
    outcome = Outcome(kind=kind, code=fields.pop("code", "x"), **fields)
    return AttemptFinished(lease(), outcome, 1.5, reported)


def summary_of(*events: Event, stream: io.StringIO) -> str:
    summary = RunSummary()
    for event in events:
        summary.on_event(event)
    summary.render(stream)
    return stream.getvalue()


def test_the_summary_is_aligned_text_where_there_is_no_terminal() -> None:
    text = summary_of(
        StateChanged("running"),
        finished("completed", code="published", output_ref="c1"),
        finished("failed", code="task_failed", reason="no\x1b[2J"),
        finished("terminal", code="pre_guard", reason="missing"),
        finished("superseded", reported=False),
        finished("completed", reported=False),
        stream=io.StringIO(),
    )

    assert [line.split() for line in text.splitlines()[:5]] == [
        ["TASK", "TASK", "ID", "STATUS", "SECONDS", "OUTPUT", "REF", "REASON"],
        ["features.build", "t-1", "COMPLETED", "1.50", "c1", "-"],
        ["features.build", "t-1", "FAILED", "1.50", "-", "task_failed:", r"no\x1b[2J"],
        [
            "features.build",
            "t-1",
            "FAILED_WITH_TERMINAL_ERROR",
            "1.50",
            "-",
            "pre_guard:",
            "missing",
        ],
        ["features.build", "t-1", "superseded", "1.50", "-", "x:"],
    ]
    assert text.splitlines()[-1] == (
        "1 COMPLETED, 1 COMPLETED (not reported), 1 FAILED, 1 FAILED_WITH_TERMINAL_ERROR, "
        "1 superseded"
    )
    columns = {line.index(" 1.50 ") for line in text.splitlines()[1:-1]}
    assert len(columns) == 1


def test_the_summary_is_a_table_on_a_terminal() -> None:
    text = summary_of(
        finished("completed", output_ref="[bold]" + "c" * 40),
        finished("failed", code="task_failed", reason="[red] " + "long " * 40),
        stream=Terminal(),
    )

    assert "───" in text
    assert "[bold]cccccc " in text
    assert f"t-1  task_failed: [red] {' '.join(['long'] * 40)}\n" in text


def test_the_summary_of_nothing_says_so() -> None:
    assert summary_of(stream=io.StringIO()) == "No task was waiting.\n"


def test_the_summary_keeps_the_latest_and_counts_all() -> None:
    text = summary_of(*[finished("completed")] * 1001, stream=io.StringIO())

    assert len(text.splitlines()) == 1002
    assert text.splitlines()[-1] == "1001 COMPLETED; the first 1 are not shown"


def test_nothing_is_written_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """The logging module reports lines it cannot format or write there."""
    lines(AttemptStarted(lease()), StateChanged("running"))

    assert capsys.readouterr().err == ""
    assert sys.stderr is not None
