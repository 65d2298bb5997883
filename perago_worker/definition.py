"""A task as a value: what `@task` makes of a function, and what a worker needs to run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from perago_worker.errors import TaskDefinitionError
from perago_worker.jsonable import from_json, to_json
from perago_worker.models import TaskControls, WorkspaceSpec

ATTRIBUTE = "__perago_task__"
"""Where a decorated function carries its definition."""


@dataclass(frozen=True)
class TaskDefinition:
    """Everything that is known about a task before it runs.

    Made by `@task`, which checks what is in it; found by `load_module_tasks`.

    Attributes:
        name: The task type that the queue knows the task by.
        owner_email: Whom the queue names as the owner.
        fn: The body.
        params_model: What the task input's `params` are validated with.
        output_model: What the body returns.
        strict_params: Refuse fields in `params` that the model does not have.
        description: For people who look at the task definition.
        workspace: None for a task without one.
        controls: As declared, but without the publish budget where there is nothing to publish.
    """

    name: str
    owner_email: str
    fn: Callable[..., BaseModel]
    params_model: type[BaseModel]
    output_model: type[BaseModel]
    strict_params: bool = False
    description: str | None = None
    workspace: WorkspaceSpec | None = None
    controls: TaskControls = field(default_factory=TaskControls)

    @classmethod
    def of(cls, fn: Callable[..., BaseModel]) -> TaskDefinition:
        """Return the definition of a decorated function.

        Raises:
            TaskDefinitionError: The function is not decorated.
        """
        definition = getattr(fn, ATTRIBUTE, None)
        if not isinstance(definition, cls):
            raise TaskDefinitionError(f"{fn!r} is not a task; decorate it with @task(...)")
        return definition

    @property
    def has_workspace(self) -> bool:
        """Whether the body works on files."""
        return self.workspace is not None

    @property
    def read_only(self) -> bool:
        """Whether the body works on files and none of its changes are published."""
        return self.workspace is not None and self.workspace.read_only

    def validate_params(self, raw: object) -> BaseModel:
        """Return the params of a task's input as the body takes them.

        Fields that a model does not have are ignored, or refused with `strict_params`, at every
        depth and whatever the models themselves say about extra fields.

        Raises:
            ValueError: `raw` is not valid; a `pydantic.ValidationError`, unless a validator failed.
        """
        return from_json(raw, self.params_model, extra_allowed=not self.strict_params)

    def validate_result(self, value: object) -> dict[str, Any]:
        """Return what the body returned as JSON.

        Args:
            value: An instance of the output model, which is validated again, or data for one.

        Raises:
            ValueError: `value` is not valid (then a `pydantic.ValidationError`), has fields that
                the model does not have, or holds something JSON cannot express, such as NaN.
        """
        return to_json(value, self.output_model)
