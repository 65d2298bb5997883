"""Calling an author's function: whatever it does becomes a value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from perago_worker import TaskFailed, TaskTerminalError, WorkspaceSpec, task
from perago_worker.attempt.body.call import MAX_TRACEBACK_CHARS, call_body
from perago_worker.attempt.body.protocol import Raised, Returned
from perago_worker.task import TaskDefinition


class Params(BaseModel):
    what: str = ""
    number: int = 0


class Result(BaseModel):
    value: float = 0.0


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message for you")


def deep(levels: int) -> None:
    if not levels:
        raise ValueError("deep down")
    exec(f"deep({levels - 1})")  # noqa: S102 -- frames that differ, so that none is folded


RAISED: dict[str, Callable[[], BaseException]] = {
    "failed": lambda: TaskFailed("the source is away"),
    "terminal": lambda: TaskTerminalError("never"),
    "error": lambda: ValueError("wrong"),
    "silent": RuntimeError,
    "rude": Rude,
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "nested": lambda: ExceptionGroup("several", [ValueError("a"), TypeError("b")]),
}
RETURNED: dict[str, Any] = {
    "nothing": None,
    "other": Params(),
    "nan": Result(value=float("nan")),
    "assigned": Result.model_construct(value="text"),  # type: ignore[arg-type]
    "extra": {"value": 1.0, "more": 2},
}


@task(name="call.plain", owner_email="tests@example.com")
def plain(params: Params) -> Result:
    """Raise, return, or count."""
    if params.what == "deep":
        deep(300)
    if params.what in RAISED:
        raise RAISED[params.what]()
    if params.what in RETURNED:
        return RETURNED[params.what]  # type: ignore[no-any-return]
    return Result(value=params.number)


@task(name="call.files", owner_email="tests@example.com", workspace=WorkspaceSpec(prefix="data"))
def files(workspace: Path, params: Params) -> Result:
    """Count files."""
    return Result(value=len(list(workspace.iterdir())))


def call(**params: Any) -> Returned | Raised:
    return call_body(TaskDefinition.of(plain), params, None)


def raised(what: str) -> Raised:
    reply = call(what=what)
    assert isinstance(reply, Raised)
    return reply


def test_a_result_comes_back_as_json() -> None:
    assert call(number=7) == Returned(result={"value": 7.0})


def test_a_workspace_is_the_first_argument(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert call_body(TaskDefinition.of(files), {}, tmp_path) == Returned(result={"value": 1.0})


def test_params_are_validated_first() -> None:
    reply = call(number="many")

    assert isinstance(reply, Raised)
    assert reply.kind == "params"
    assert reply.reason.startswith("number: Input should be a valid integer")


@pytest.mark.parametrize(
    ("what", "kind", "reason"),
    [
        ("failed", "failed", "the source is away"),
        ("terminal", "terminal", "never"),
        ("error", "exception", "ValueError: wrong"),
        ("silent", "exception", "RuntimeError"),
        ("rude", "exception", "Rude: (no message: its __str__ raised)"),
        ("exit", "exception", "SystemExit: 3"),
        ("interrupt", "exception", "KeyboardInterrupt"),
        ("nested", "exception", "ExceptionGroup: several (2 sub-exceptions)"),
    ],
)
def test_whatever_is_raised_is_a_value(what: str, kind: str, reason: str) -> None:
    reply = raised(what)

    assert (reply.kind, reply.reason) == (kind, reason)
    assert "in plain" in reply.traceback


def test_a_traceback_begins_with_the_authors_code() -> None:
    lines = raised("error").traceback.splitlines()

    assert lines[0] == "Traceback (most recent call last):"
    assert "in plain" in lines[1]
    assert "call_body" not in raised("error").traceback


def test_of_a_long_traceback_the_end_is_kept() -> None:
    traceback = raised("deep").traceback

    assert len(traceback) <= MAX_TRACEBACK_CHARS
    assert traceback.endswith("ValueError: deep down\n")


@pytest.mark.parametrize("what", RETURNED)
def test_what_is_not_the_declared_result_is_refused(what: str) -> None:
    reply = raised(what)

    assert reply.kind == "result"
    assert reply.reason
