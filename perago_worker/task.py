"""`@task`: how a function becomes a task.

A task is a plain function with a definition beside it. Nothing about the function changes, so it
can be called, tested and reused like any other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import BaseModel

from perago_worker.definition import ATTRIBUTE, TaskDefinition
from perago_worker.errors import TaskDefinitionError
from perago_worker.loading import declare, load_module_task, load_module_tasks
from perago_worker.models import TaskControls, WorkspaceSpec
from perago_worker.signature import check_model, read_models

__all__ = ["TaskDefinition", "load_module_task", "load_module_tasks", "task"]

_WorkspaceBody = TypeVar("_WorkspaceBody", bound=Callable[[Path, Any], BaseModel])
_PlainBody = TypeVar("_PlainBody", bound=Callable[[Any], BaseModel])
_AnyBody = TypeVar("_AnyBody", bound=Callable[..., BaseModel])


@overload
def task(
    *,
    name: str,
    owner_email: str,
    description: str | None = None,
    workspace: WorkspaceSpec,
    controls: TaskControls | None = None,
    strict_params: bool = False,
) -> Callable[[_WorkspaceBody], _WorkspaceBody]: ...


@overload
def task(
    *,
    name: str,
    owner_email: str,
    description: str | None = None,
    workspace: None = None,
    controls: TaskControls | None = None,
    strict_params: bool = False,
) -> Callable[[_PlainBody], _PlainBody]: ...


def task(
    *,
    name: str,
    owner_email: str,
    description: str | None = None,
    workspace: WorkspaceSpec | None = None,
    controls: TaskControls | None = None,
    strict_params: bool = False,
    **unknown: object,
) -> Callable[[_AnyBody], _AnyBody]:
    """Declare a task: the function below is its body.

    The body is `(workspace: Path, params: Model) -> Model`, or `(params: Model) -> Model` for a
    task without a workspace, and nothing else. It stays the function it was and carries its
    definition as `__perago_task__`.

    Args:
        name: Task type in the queue; without slashes and backslashes.
        owner_email: Whom the queue names as the owner.
        description: For people who look at the task definition.
        workspace: The files the body works on; None for a task that needs none.
        controls: Retries, timeouts, limits and publish budget; None for the defaults.
        strict_params: Refuse fields in `params` that the model does not have, at every depth.
        unknown: Refused by name.

    Raises:
        TaskDefinitionError: Something breaks the contract. Raised when the module is imported.

    Warns:
        UserWarning: A publish budget on a read-only workspace, which is ignored.
    """
    if unknown:
        raise TaskDefinitionError(
            f"task {name!r}: @task has no argument {', '.join(sorted(map(repr, unknown)))}"
        )

    def decorate(fn: _AnyBody) -> _AnyBody:
        definition = _define(
            fn,
            name=name,
            owner_email=owner_email,
            description=description,
            workspace=workspace,
            controls=TaskControls() if controls is None else controls,
            strict_params=strict_params,
        )
        setattr(fn, ATTRIBUTE, definition)
        declare(definition)
        return fn

    return decorate


def _define(
    fn: Callable[..., BaseModel],
    *,
    name: str,
    owner_email: str,
    description: str | None,
    workspace: WorkspaceSpec | None,
    controls: TaskControls,
    strict_params: bool,
) -> TaskDefinition:
    _check_text(name=name, owner_email=owner_email)
    if "/" in name or "\\" in name:
        raise TaskDefinitionError(f"task name {name!r} must not have a slash or backslash in it")
    for argument, value, kind in (
        ("description", description, str | None),
        ("workspace", workspace, WorkspaceSpec | None),
        ("controls", controls, TaskControls),
        ("strict_params", strict_params, bool),
    ):
        if not isinstance(value, kind):
            raise TaskDefinitionError(f"task {name!r}: {argument} cannot be {value!r}")
    try:
        params_model, output_model = read_models(fn, has_workspace=workspace is not None)
        check_model(params_model, may_refer_ahead=True)
        check_model(output_model, may_refer_ahead=True)
    except TaskDefinitionError as error:
        raise TaskDefinitionError(f"task {name!r}: {error}") from error.__cause__
    return TaskDefinition(
        name=name,
        owner_email=owner_email,
        fn=fn,
        params_model=params_model,
        output_model=output_model,
        strict_params=strict_params,
        description=description,
        workspace=workspace,
        controls=_without_idle_budget(name, workspace, controls),
    )


def _check_text(**fields: object) -> None:
    for argument, value in fields.items():
        if not isinstance(value, str) or not value.strip():
            raise TaskDefinitionError(f"@task needs {argument} as text, not {value!r}")


def _without_idle_budget(
    name: str, workspace: WorkspaceSpec | None, controls: TaskControls
) -> TaskControls:
    """Return the controls without a publish budget that nothing will ever be published in."""
    if controls.publish_budget is None:
        return controls
    if workspace is None:
        raise TaskDefinitionError(
            f"task {name!r}: controls.publish_budget needs workspace=WorkspaceSpec(...); "
            "a task without a workspace publishes nothing"
        )
    if not workspace.read_only:
        return controls
    warnings.warn(
        f"task {name!r}: controls.publish_budget is ignored, "
        "since workspace.read_only publishes nothing",
        UserWarning,
        stacklevel=4,  # the line that decorates: _without_idle_budget, _define, decorate, there
    )
    return controls.model_copy(update={"publish_budget": None})
