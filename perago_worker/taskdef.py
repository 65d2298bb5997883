"""The task definition that is registered with the queue, as JSON.

It says what people and other programs may know of a task: its name, owner and policies, and the
JSON schemas of its input and output. What is between the task and its worker stays out of it:
guards, prefixes and publish budgets.
"""

from __future__ import annotations

import json
import warnings
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from perago_worker.definition import TaskDefinition
from perago_worker.errors import TaskDefinitionError
from perago_worker.models import TaskControls, WorkspaceInput, WorkspaceOutput
from perago_worker.schema import object_schema
from perago_worker.signature import check_model

SCHEMA_VERSION = 1
"""Version of the schemas' names in the queue, not of their content."""

_Path = TypeVar("_Path", bound=str | PathLike[str])


def build_taskdef(task: TaskDefinition) -> dict[str, Any]:
    """Return the definition of a task as Conductor reads it.

    Args:
        task: From `load_module_task`, or `__perago_task__` of a decorated function.

    Raises:
        TaskDefinitionError: A model is recursive, or has no JSON schema for another reason.

    Warns:
        UserWarning: The publish budget is larger than the response timeout. Nothing is changed by
            it: a lease that short can run out while the workspace is published.
    """
    _warn_of_short_lease(task)
    try:
        inputs, outputs = _input_schemas(task), _output_schemas(task)
    except TaskDefinitionError as error:
        raise TaskDefinitionError(f"task {task.name!r}: {error}") from error.__cause__
    return {
        "name": task.name,
        "ownerEmail": task.owner_email,
        **({} if task.description is None else {"description": task.description}),
        **_policies(task.controls),
        "inputKeys": list(inputs),
        "outputKeys": list(outputs),
        # The queue may add to the input of a task; what a worker answers is exactly its output.
        "inputSchema": _schema(f"{task.name}.input", inputs, extra_allowed=True),
        "outputSchema": _schema(f"{task.name}.output", outputs, extra_allowed=False),
    }


def write_taskdef(task: TaskDefinition, path: _Path) -> _Path:
    """Write the definition of a task to a JSON file, whose directory is made, and return its path.

    Args:
        task: As for `build_taskdef`, which also says what is raised and warned of.
        path: Ends in `.json`. A file that is there is replaced.

    Raises:
        ValueError: `path` does not end in `.json`, or is a directory.
        OSError: The file cannot be written.
    """
    file = Path(path)
    if file.suffix != ".json":
        raise ValueError(f"{path} does not end in .json; write a file such as taskdefs/name.json")
    if file.is_dir():
        raise ValueError(f"{path} is a directory; write a file such as taskdefs/name.json")
    text = json.dumps(build_taskdef(task), indent=2, ensure_ascii=False, allow_nan=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n", encoding="utf-8")
    return path


def _input_schemas(task: TaskDefinition) -> dict[str, Any]:
    check_model(task.params_model, may_refer_ahead=False)
    workspace = object_schema(WorkspaceInput, extra_allowed=False, mode="validation")
    params = object_schema(
        task.params_model, extra_allowed=not task.strict_params, mode="validation"
    )
    return {**({"workspace": workspace} if task.has_workspace else {}), "params": params}


def _output_schemas(task: TaskDefinition) -> dict[str, Any]:
    check_model(task.output_model, may_refer_ahead=False)
    workspace = object_schema(WorkspaceOutput, extra_allowed=False, mode="serialization")
    result = object_schema(task.output_model, extra_allowed=False, mode="serialization")
    return {**({"workspace": workspace} if task.has_workspace else {}), "result": result}


def _schema(name: str, properties: dict[str, Any], *, extra_allowed: bool) -> dict[str, Any]:
    return {
        "name": name,
        "version": SCHEMA_VERSION,
        "type": "JSON",
        "data": {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": extra_allowed,
        },
    }


def _policies(controls: TaskControls) -> dict[str, Any]:
    retry, timeout, limits = controls.retry, controls.timeout, controls.limits
    fields = {
        "retryCount": retry.count,
        "retryLogic": retry.logic,
        "retryDelaySeconds": retry.delay_seconds,
        "maxRetryDelaySeconds": retry.max_delay_seconds,
        "backoffJitterMs": retry.jitter_ms,
        "totalTimeoutSeconds": timeout.total_seconds,
        "timeoutPolicy": timeout.policy,
        "timeoutSeconds": timeout.seconds,
        "responseTimeoutSeconds": controls.response_timeout_seconds,
        "pollTimeoutSeconds": timeout.poll_seconds,
        "concurrentExecLimit": limits.concurrent_exec_limit,
        "rateLimitFrequencyInSeconds": limits.rate_limit_frequency_in_seconds,
        "rateLimitPerFrequency": limits.rate_limit_per_frequency,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _warn_of_short_lease(task: TaskDefinition) -> None:
    budget, lease = task.controls.publish_budget, task.controls.response_timeout_seconds
    if budget is None or task.read_only or lease >= budget.response_timeout_seconds:
        return
    warnings.warn(
        f"task {task.name!r}: timeout.response_seconds is {lease}, which is less than the "
        f"{budget.response_timeout_seconds} seconds of its publish_budget; it stays as it is, "
        "and the lease may run out while publishing",
        UserWarning,
        stacklevel=3,  # the caller of build_taskdef
    )
