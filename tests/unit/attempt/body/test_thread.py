"""Bodies in a thread of the worker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from perago_worker import TaskFailed, WorkspaceSpec, current_attempt, task
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


def run(
    what: str,
    *,
    stop: StopToken | None = None,
    remaining_s: float | None = None,
    on_output: Callable[[str, str], object] = lambda *_: None,
) -> Reply:
    call = Call(
        workflow_id="workflow",
        task_id="task",
        retry_count=2,
        params={"what": what},
        workspace=None,
        scratch="/nowhere",
        remaining_s=remaining_s,
    )

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

    reply = ThreadBody(TaskDefinition.of(files)).run(
        call, stop=StopToken(), on_output=lambda *_: None
    )

    assert reply == Returned(result={"value": str(tmp_path)})


def test_raising_is_a_value() -> None:
    reply = run("fail")

    assert isinstance(reply, Raised)
    assert (reply.kind, reply.reason) == ("failed", "why")


def test_what_it_tells_is_heard() -> None:
    said: list[tuple[str, str]] = []

    run("say", on_output=lambda stream, line: said.append((stream, line)))

    assert said == [("log", "a line"), ("progress", "1 of many"), ("progress", "0.5/2")]


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
