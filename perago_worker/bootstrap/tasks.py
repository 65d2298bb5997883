"""The tasks that a configuration names, found by importing its modules."""

from __future__ import annotations

import sys
import warnings

import structlog

from perago_worker.config import WorkerConfig, check_task_names
from perago_worker.errors import TaskDefinitionError
from perago_worker.task import TaskDefinition, load_module_tasks
from perago_worker.taskdef import build_taskdef


def load_tasks(config: WorkerConfig) -> list[TaskDefinition]:
    """Import the configured modules and return their tasks.

    Raises:
        TaskDefinitionError: A module cannot be loaded, a task breaks the contract, or two modules
            declare tasks of the same name.
        ConfigError: A section `[tasks."NAME"]` names no task.
    """
    for folder in reversed(config.worker.python_path):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    definitions: dict[str, TaskDefinition] = {}
    for module in config.worker.modules:
        for definition in load_module_tasks(module):
            other = definitions.setdefault(definition.name, definition)
            if other is not definition:
                raise TaskDefinitionError(
                    f"task {definition.name!r} is declared in {other.fn.__module__} and again in "
                    f"{module}; a task type can be served by one of them only"
                )
    check_task_names(config, definitions)
    return list(definitions.values())


def load_tasks_logging_warnings(config: WorkerConfig) -> list[TaskDefinition]:
    """Load the tasks; what their modules warn of, or their definitions, goes to the log."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        definitions = load_tasks(config)
        for definition in definitions:
            build_taskdef(definition)
    log = structlog.get_logger(__name__)
    for warning in caught:
        log.warning("task.warning", detail=str(warning.message))
    return definitions
