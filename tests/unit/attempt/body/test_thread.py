"""Bodies in a thread of the worker."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import pytest
from pydantic import BaseModel

from perago_worker import TaskFailed, WorkspaceSpec, current_attempt, task
from perago_worker.attempt.body.printing import Printing
from perago_worker.attempt.body.protocol import Call, Raised, Returned
from perago_worker.attempt.body.runner import Reply, Stopped
from perago_worker.attempt.body.thread import ThreadBody
from perago_worker.attempt.stop import StopCause, StopToken
from perago_worker.task import TaskDefinition
from tests.support import PATIENCE_S


class Params(BaseModel):
    what: str = "identity"


class Result(BaseModel):
    value: Any = None


def fail() -> None:
    raise TaskFailed("why")


def say() -> None:
    current_attempt().log("a line")
    current_attempt().progress(1, None, "of many")
    current_attempt().progress(0.5, 2)


def print_much() -> bool:
    print("first")
    print("sec", end="")
    print("ond", file=sys.stderr)
    sys.stdout.buffer.write(b"third\xff\n")
    print("without an end", end="", flush=True)
    sys.stdout.close()
    return sys.stdout.isatty()


def print_in_a_thread_of_its_own() -> None:
    thread = threading.Thread(target=print, args=("stray",))
    thread.start()
    thread.join(PATIENCE_S)


def wait_for_cancellation() -> bool:
    return current_attempt().cancelled.wait(PATIENCE_S)


def identity() -> list[object]:
    attempt = current_attempt()
    remaining = attempt.remaining()
    return [
        attempt.workflow_id,
        attempt.task_id,
        attempt.task_type,
        attempt.retry_count,
        remaining if remaining is None else remaining > 0,
    ]


DEEDS: dict[str, Callable[[], object]] = {
    "fail": fail,
    "say": say,
    "print": print_much,
    "stray": print_in_a_thread_of_its_own,
    "wait": wait_for_cancellation,
    "identity": identity,
}


@task(name="thread.plain", owner_email="tests@example.com")
def plain(params: Params) -> Result:
    """Do one thing."""
    return Result(value=DEEDS[params.what]())


@task(name="thread.files", owner_email="tests@example.com", workspace=WorkspaceSpec(prefix="data"))
def files(workspace: Path, params: Params) -> Result:
    """Tell where the workspace is."""
    return Result(value=str(workspace))


def call_of(what: str, *, remaining_s: float | None = None) -> Call:
    return Call(
        workflow_id="workflow",
        task_id="task",
        retry_count=2,
        params={"what": what},
        workspace=None,
        scratch="/nowhere",
        remaining_s=remaining_s,
    )


def run(
    what: str,
    *,
    stop: StopToken | None = None,
    remaining_s: float | None = None,
    on_output: Callable[[str, str], object] = lambda *_: None,
) -> Reply:
    call = call_of(what, remaining_s=remaining_s)

    def hear(stream: str, line: str) -> None:
        on_output(stream, line)

    body = ThreadBody(TaskDefinition.of(plain))
    body.warm_up()
    try:
        return body.run(call, stop=stop or StopToken(), on_output=hear)
    finally:
        body.close()


def test_a_body_finds_its_attempt() -> None:
    assert run("identity") == Returned(
        result={"value": ["workflow", "task", "thread.plain", 2, None]}
    )
    assert run("identity", remaining_s=60) == Returned(
        result={"value": ["workflow", "task", "thread.plain", 2, True]}
    )


def test_a_body_gets_its_workspace(tmp_path: Path) -> None:
    call = Call(
        workflow_id="w",
        task_id="t",
        retry_count=0,
        params={},
        workspace=str(tmp_path),
        scratch="/nowhere",
    )

    body = ThreadBody(TaskDefinition.of(files))
    try:
        reply = body.run(call, stop=StopToken(), on_output=lambda *_: None)
    finally:
        body.close()

    assert reply == Returned(result={"value": str(tmp_path)})


def test_raising_is_a_value() -> None:
    reply = run("fail")

    assert isinstance(reply, Raised)
    assert (reply.kind, reply.reason) == ("failed", "why")


def test_what_it_tells_is_heard() -> None:
    said: list[tuple[str, str]] = []

    run("say", on_output=lambda stream, line: said.append((stream, line)))

    assert said == [("log", "a line"), ("progress", "1 of many"), ("progress", "0.5/2")]


def test_what_it_prints_is_taken_by_the_line() -> None:
    said: list[tuple[str, str]] = []

    reply = run("print", on_output=lambda stream, line: said.append((stream, line)))

    assert reply == Returned(result={"value": False})
    assert said == [
        ("stdout", "first"),
        ("stderr", "ond"),
        ("stdout", "secthird\\xff"),
        ("stdout", "without an end"),
    ]


def test_a_line_without_end_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perago_worker.attempt.body.printing.MAX_LINE_CHARS", 4)
    monkeypatch.setitem(DEEDS, "long", lambda: print("0123456789"))
    said: list[str] = []

    run("long", on_output=lambda _, line: said.append(line))

    assert "".join(said) == "0123456789"
    assert max(map(len, said)) <= 10


def test_what_its_own_threads_print_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """They have no context to tell their attempt by, but their lines are redacted as all are."""
    caplog.set_level(logging.INFO)
    said: list[str] = []

    run("stray", on_output=lambda _, line: said.append(line))

    assert not said
    assert "stray" in caplog.messages


def test_two_bodies_print_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line goes to the attempt that printed it, and none to the worker's own output."""
    meet = threading.Barrier(2, timeout=PATIENCE_S)
    heard: dict[str, list[str]] = {"a": [], "b": []}

    def deed(name: str) -> None:
        for number in range(20):
            meet.wait()
            print(name, number)

    bodies = {name: ThreadBody(TaskDefinition.of(plain)) for name in heard}
    for name in heard:
        DEEDS[name] = lambda name=name: deed(name)  # type: ignore[misc]
    try:
        threads = [
            threading.Thread(
                target=bodies[name].run,
                args=(call_of(name),),
                kwargs={
                    "stop": StopToken(),
                    "on_output": lambda _, line, lines=heard[name]: lines.append(line),
                },
            )
            for name in heard
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    finally:
        for name, body in bodies.items():
            body.close()
            del DEEDS[name]

    assert heard == {name: [f"{name} {number}" for number in range(20)] for name in heard}
    assert capsys.readouterr() == ("", "")


def test_a_handler_that_fails_is_not_logged_again(capsys: pytest.CaptureFixture[str]) -> None:
    """It complains on standard error, in the thread that printed: for ever, were that taken."""

    def complain(stream: str, line: str) -> None:
        print(f"cannot take {line}", file=sys.stderr)

    run("print", on_output=complain)

    assert "cannot take first" in capsys.readouterr().err


def own_streams(monkeypatch: pytest.MonkeyPatch) -> tuple[TextIO, TextIO]:
    """Have standard streams, until the test ends, that bodies of other tests know nothing of."""
    streams = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    return streams


def test_the_streams_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = own_streams(monkeypatch)
    printing = Printing()
    first, second = (ThreadBody(TaskDefinition.of(plain), printing=printing) for _ in range(2))
    first.warm_up()
    second.warm_up()
    first.close()
    first.close()
    assert sys.stdout is not out
    assert sys.stderr is not err
    second.close()
    assert sys.stdout is out
    assert sys.stderr is err


def test_streams_that_somebody_else_put_there_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    own_streams(monkeypatch)
    body = ThreadBody(TaskDefinition.of(plain), printing=Printing())
    body.warm_up()
    other = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", other)
        body.close()
        assert sys.stdout is other
    body.close()


def test_an_order_to_stop_sets_the_event_and_voids_the_result() -> None:
    stop = StopToken()
    threading.Timer(0, stop.trip, (StopCause.DRAINED, "why")).start()

    assert run("wait", stop=stop) == Stopped()


def test_a_body_that_used_up_its_time_is_told_to_stop() -> None:
    stop = StopToken()

    assert run("wait", stop=stop, remaining_s=0.01) == Stopped()
    assert stop.stop is not None
    assert stop.stop.cause is StopCause.BODY_TIMEOUT


@pytest.mark.parametrize("remaining_s", [None, 3600.0])
def test_no_timer_is_left_running(remaining_s: float | None) -> None:
    before = threading.active_count()

    run("identity", remaining_s=remaining_s)

    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(PATIENCE_S)
    assert threading.active_count() <= before


def test_the_binding_ends_with_the_call() -> None:
    run("identity")

    assert current_attempt().task_id == "local"
