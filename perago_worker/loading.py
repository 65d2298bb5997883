"""How the tasks of a module are found: by importing it, and looking at what it declared."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections import Counter
from dataclasses import dataclass, field
from types import ModuleType

from perago_worker.definition import ATTRIBUTE, TaskDefinition
from perago_worker.errors import TaskDefinitionError
from perago_worker.signature import check_model


@dataclass
class _Declared:
    """Tasks by one execution of a module, which reloading the module follows with another."""

    execution: object
    tasks: list[TaskDefinition] = field(default_factory=list)


_by_module: dict[str, _Declared] = {}


def _execution(module: ModuleType | None) -> object:
    """Return what tells executions of a module apart: each import, and each reload, sets a spec."""
    return getattr(module, "__spec__", None) or module


def declare(definition: TaskDefinition) -> None:
    """Remember a task as one of the module that its function is defined in."""
    # The attribute alone would do, were it not that a second function of the same name hides the
    # first from the module, and a copied task would go missing without a word.
    module = definition.fn.__module__
    execution = _execution(sys.modules.get(module))
    declared = _by_module.get(module)
    if declared is None or declared.execution is not execution:
        declared = _by_module[module] = _Declared(execution)
    declared.tasks.append(definition)


def load_module_task(target: str) -> TaskDefinition:
    """Import a module and return its one task.

    Args:
        target: Import path, such as `app.tasks`.

    Raises:
        TaskDefinitionError: As `load_module_tasks`; or there are several, which it lists.
    """
    tasks = load_module_tasks(target)
    if len(tasks) > 1:
        raise TaskDefinitionError(
            f"{target} declares {len(tasks)} tasks where one is wanted: {_listing(tasks)}"
        )
    return tasks[0]


def load_module_tasks(target: str) -> list[TaskDefinition]:
    """Import a module and return its tasks, at least one, in the order they are declared in.

    Tasks that the module imports from another one are that one's.

    Args:
        target: Import path, such as `app.tasks`; not a file and not an object in a module.

    Raises:
        TaskDefinitionError: `target` is not an import path or fails to import (the cause is
            chained), or the module has no task, two of one name, or an unfinished model.
    """
    _check_target(target)
    module = _import(target)
    tasks = _declared_in(module)
    if not tasks:
        raise TaskDefinitionError(f"{target} declares no task{_imported_ones(module)}")
    counts = Counter(definition.name for definition in tasks)
    repeated = [definition for definition in tasks if counts[definition.name] > 1]
    if repeated:
        raise TaskDefinitionError(
            f"{target} declares several tasks of one name: {_listing(repeated)}"
        )
    for definition in tasks:
        check_model(definition.params_model, may_refer_ahead=False)
        check_model(definition.output_model, may_refer_ahead=False)
    return tasks


def _declared_in(module: ModuleType) -> list[TaskDefinition]:
    declared = _by_module.get(module.__name__)
    if declared is None or declared.execution is not _execution(module):
        return []
    return list(declared.tasks)


def _check_target(target: str) -> None:
    parts = target.split(".")
    if parts[-1] != "py" and all(part.isidentifier() for part in parts):
        return
    path = target.partition(":")[0].removesuffix(".py").replace("\\", "/").strip("./")
    guess = path.replace("/", ".")
    hint = f"; perhaps {guess!r}" if all(part.isidentifier() for part in guess.split(".")) else ""
    raise TaskDefinitionError(
        f"{target!r} is not the import path of a module, such as 'app.tasks'{hint}"
    )


def _import(target: str) -> ModuleType:
    try:
        return importlib.import_module(target)
    except TaskDefinitionError as error:
        raise TaskDefinitionError(f"cannot import {target}: {error}") from error
    except (Exception, SystemExit) as error:  # a module runs whatever its author wrote there
        raise TaskDefinitionError(
            f"cannot import {target}: {type(error).__name__}: {error}{_searched(target, error)}"
        ) from error


def _searched(target: str, error: BaseException) -> str:
    """Return where was looked for `target`, when it is the target itself that does not exist."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if not missing or not f"{target}.".startswith(f"{missing}."):
        return ""
    return f"; looked in {', '.join(path or 'the current directory' for path in sys.path)}"


def _imported_ones(module: ModuleType) -> str:
    others = [
        definition
        for value in vars(module).values()
        if inspect.isfunction(value)
        and isinstance(definition := getattr(value, ATTRIBUTE, None), TaskDefinition)
    ]
    return f"; it imports {_listing(others)}" if others else ""


def _listing(tasks: list[TaskDefinition]) -> str:
    return ", ".join(
        f"{definition.name!r} ({definition.fn.__module__}.{definition.fn.__qualname__}"
        f", line {definition.fn.__code__.co_firstlineno})"
        for definition in tasks
    )
