"""The shape of a body: what `@task` accepts, and the models it finds there.

The two shapes are all there is, so that a task's input and output can be read off its function.
Everything else is refused when the module is imported, with what was expected and what was found.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

from perago_worker.errors import TaskDefinitionError

WITH_WORKSPACE = "(workspace: Path, params: Model) -> Model"
WITHOUT_WORKSPACE = "(params: Model) -> Model"

_NOT_PLAIN = {
    inspect.iscoroutinefunction: "a coroutine function",
    inspect.isasyncgenfunction: "an asynchronous generator function",
    inspect.isgeneratorfunction: "a generator function",
}


def read_models(
    fn: Callable[..., Any], *, has_workspace: bool
) -> tuple[type[BaseModel], type[BaseModel]]:
    """Check the shape of a body and return its params model and its output model.

    Args:
        fn: The undecorated function.
        has_workspace: Whether the task declares a workspace, which decides the shape.

    Raises:
        TaskDefinitionError: The shape is another one, or its annotations cannot be resolved.
    """
    _check_is_plain_function(fn)
    expected = ("workspace", "params") if has_workspace else ("params",)
    problem = _wrong_parameters(fn, expected)
    hints = {} if problem else _hints(fn)
    problem = problem or _wrong_annotation(hints, has_workspace=has_workspace)
    if problem:
        declared = "with" if has_workspace else "without"
        shape = WITH_WORKSPACE if has_workspace else WITHOUT_WORKSPACE
        raise TaskDefinitionError(
            f"the body of a task {declared} workspace=WorkspaceSpec(...) must be {shape}, "
            f"but {problem}; found {_found(fn)}"
        )
    return hints["params"], hints["return"]


def check_model(model: type[BaseModel], *, may_refer_ahead: bool) -> None:
    """Refuse a model that is, or holds at any depth, a `RootModel`.

    A root model is not a JSON object, so it has no fields that could be ignored, added or named.

    Args:
        model: A params model or output model.
        may_refer_ahead: Let a model pass that refers to one its module has not defined yet.

    Raises:
        TaskDefinitionError: Names the model, and what was found in it.
    """
    try:
        model.model_rebuild()
    except PydanticUndefinedAnnotation as error:
        if may_refer_ahead:
            return
        raise TaskDefinitionError(
            f"{model.__name__} refers to {error.name}, which is not defined"
        ) from error
    except PydanticUserError as error:
        raise TaskDefinitionError(f"{model.__name__} cannot be built: {error.message}") from error
    roots = sorted({root.__name__ for root in _root_models(model.__pydantic_core_schema__)})
    if roots:
        raise TaskDefinitionError(
            f"{model.__name__} uses RootModel ({', '.join(roots)}); "
            "give it a model with named fields instead"
        )


def _check_is_plain_function(fn: Callable[..., Any]) -> None:
    if not inspect.isfunction(fn):
        raise TaskDefinitionError(f"@task decorates functions, and found {fn!r}")
    for is_kind, kind in _NOT_PLAIN.items():
        if is_kind(inspect.unwrap(fn)):
            raise TaskDefinitionError(
                f"the body {fn.__qualname__} must be a plain function, not {kind}"
            )


def _wrong_parameters(fn: Callable[..., Any], expected: tuple[str, ...]) -> str | None:
    parameters = list(inspect.signature(fn).parameters.values())
    for parameter in parameters:
        if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            return f"{parameter} is {parameter.kind.description}"
        if parameter.default is not inspect.Parameter.empty:
            return f"{parameter.name} has a default"
    names = tuple(parameter.name for parameter in parameters)
    if names != expected:
        return f"the parameters are called {', '.join(names) or 'nothing at all'}"
    return None


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(fn)
    except Exception as error:  # evaluating annotations runs whatever the author wrote there
        raise TaskDefinitionError(
            f"the annotations of {_found(fn)} cannot be resolved: {error}; "
            "models must be defined in the module, above the function"
        ) from error


def _wrong_annotation(hints: dict[str, Any], *, has_workspace: bool) -> str | None:
    if has_workspace and hints.get("workspace") is not Path:
        return "workspace is not annotated as Path"
    for name, what in (("params", "params is"), ("return", "the return value is")):
        model = hints.get(name)
        if not (inspect.isclass(model) and issubclass(model, BaseModel) and model is not BaseModel):
            return f"{what} not annotated as a pydantic model"
    return None


def _found(fn: Callable[..., Any]) -> str:
    signature = inspect.signature(fn)
    parameters = [
        parameter.replace(annotation=_written(parameter.annotation))
        for parameter in signature.parameters.values()
    ]
    returns = _written(signature.return_annotation)
    written = signature.replace(parameters=parameters, return_annotation=returns)
    return f"{fn.__qualname__}{written}".replace("'", "")


def _written(annotation: Any) -> Any:
    """Return an annotation as the author wrote it, or nearly: classes by their name alone."""
    if inspect.isclass(annotation) and annotation is not inspect.Parameter.empty:
        return annotation.__name__
    return annotation


def _root_models(schema: Any) -> Iterator[type[BaseModel]]:
    """Walk a core schema: unlike annotations, it shows what aliases, generics and others hold."""
    if isinstance(schema, dict):
        if schema.get("type") == "model" and schema.get("root_model"):
            yield schema["cls"]
        for key, value in schema.items():
            if key not in {"default", "metadata"}:
                yield from _root_models(value)
    elif isinstance(schema, list | tuple):
        for item in schema:
            yield from _root_models(item)
