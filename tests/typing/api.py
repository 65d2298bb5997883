"""The public API as a type checker sees it: checked by mypy, never run.

Lines that must not pass carry an ignore, which mypy reports once it is not needed any more.
"""

# Bodies that are declared and never called are empty.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, assert_type

from pydantic import BaseModel

from perago_worker import (
    CurrentAttempt,
    ExecutionLimits,
    PublishBudget,
    RetryPolicy,
    TaskControls,
    TaskDefinition,
    TaskFailed,
    TaskTerminalError,
    TimeoutPolicy,
    WorkspaceInput,
    WorkspaceOutput,
    WorkspaceSpec,
    build_taskdef,
    check_guardrails,
    current_attempt,
    forbid_glob,
    load_module_task,
    load_module_tasks,
    require_dir,
    require_file,
    require_glob,
    task,
    write_taskdef,
)
from perago_worker.current import bind_attempt


class Params(BaseModel):
    source: str


class Result(BaseModel):
    rows: int


@task(
    name="features.build",
    owner_email="data@example.com",
    description="Build features.",
    workspace=WorkspaceSpec(
        prefix="features",
        pre=[require_file("raw/input.csv"), require_dir(Path("raw"))],
        post=[require_glob("out/*.parquet", min_count=1, max_count=9), forbid_glob("tmp/**")],
        read_only=False,
    ),
    controls=TaskControls(
        retry=RetryPolicy(count=4, logic="FIXED", delay_seconds=30),
        timeout=TimeoutPolicy(policy="RETRY", response_seconds=120),
        limits=ExecutionLimits(concurrent_exec_limit=2),
        publish_budget=PublishBudget(
            observed_merge_p99_seconds=20,
            safety_margin_seconds=10,
            lakefs_merge_timeout_seconds=45,
            conductor_completion_timeout_seconds=15,
            worker_shutdown_grace_seconds=30,
            heartbeat_interval_seconds=10,
        ),
    ),
    strict_params=True,
)
def build(workspace: Path, params: Params) -> Result:
    attempt = current_attempt()
    assert_type(attempt, CurrentAttempt)
    assert_type(attempt.remaining(), float | None)
    assert_type(attempt.deadline, float | None)
    assert_type(attempt.cancelled, threading.Event)
    assert_type(attempt.retry_count, int)
    attempt.progress(1, total=3, note="reading")
    attempt.log("done")
    if attempt.cancelled.is_set():
        raise TaskFailed("cancelled")
    if not params.source:
        raise TaskTerminalError("there is no source")
    return Result(rows=len(list(workspace.iterdir())))


@task(name="metadata.check", owner_email="data@example.com")
def check(params: Params) -> Result:
    return Result(rows=len(params.source))


# A decorated function keeps its signature, its names included.
assert_type(build(Path(), Params(source="a")), Result)
assert_type(build(workspace=Path(), params=Params(source="a")), Result)
assert_type(check(params=Params(source="a")), Result)
build("not a path", Params(source="a"))  # type: ignore[arg-type]
check(Path(), Params(source="a"))  # type: ignore[call-arg, arg-type]


# Bodies of another shape are refused.
@task(name="a", owner_email="b", workspace=WorkspaceSpec())  # type: ignore[type-var]
def without_workspace(params: Params) -> Result: ...


@task(name="a", owner_email="b")  # type: ignore[type-var]
def without_declaration(workspace: Path, params: Params) -> Result: ...


@task(name="a", owner_email="b")  # type: ignore[type-var]
def without_model(params: Params) -> dict[str, int]: ...


@task(name="a", owner_email="b", retries=3)  # type: ignore[call-overload, untyped-decorator]
def with_unknown_argument(params: Params) -> Result: ...


def definitions() -> None:
    definition = TaskDefinition.of(build)
    assert_type(definition, TaskDefinition)
    assert_type(definition.workspace, WorkspaceSpec | None)
    assert_type(definition.has_workspace, bool)
    assert_type(definition.read_only, bool)
    assert_type(definition.validate_params({}), BaseModel)
    assert_type(definition.validate_result(Result(rows=1)), dict[str, Any])
    assert_type(load_module_task("app.tasks"), TaskDefinition)
    assert_type(load_module_tasks("app.tasks"), list[TaskDefinition])
    assert_type(build_taskdef(definition), dict[str, Any])
    assert_type(write_taskdef(definition, Path("a.json")), Path)
    assert_type(write_taskdef(definition, "a.json"), str)
    definition.name = "other"  # type: ignore[misc]


def values(workspace: Path) -> None:
    reference = WorkspaceInput(repository="r", branch="main", ref_type="commit", ref="c")
    assert_type(reference.published_output("d"), WorkspaceOutput)
    TimeoutPolicy(response=1)  # type: ignore[call-arg]
    spec = WorkspaceSpec()
    spec.prefix = "other"  # type: ignore[misc]
    check_guardrails(workspace, spec.post, "post")
    with bind_attempt(CurrentAttempt(retry_count=1, deadline=3.0)):
        build(workspace, Params(source="a"))
