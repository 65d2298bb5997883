"""Task definitions as JSON, and the schemas in them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import warnings
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, computed_field
from typing_extensions import TypedDict

from perago_worker.definition import TaskDefinition
from perago_worker.errors import TaskDefinitionError
from perago_worker.guards import require_file
from perago_worker.models import (
    ExecutionLimits,
    PublishBudget,
    RetryPolicy,
    TaskControls,
    TimeoutPolicy,
    WorkspaceSpec,
)
from perago_worker.taskdef import build_taskdef, write_taskdef

BUDGET = PublishBudget(
    observed_merge_p99_seconds=20,
    safety_margin_seconds=10,
    lakefs_merge_timeout_seconds=45,
    conductor_completion_timeout_seconds=15,
    worker_shutdown_grace_seconds=30,
    heartbeat_interval_seconds=10,
)


class Plain(BaseModel):
    """A docstring for readers of the code."""

    source: str


def definition(
    params: type[BaseModel] = Plain, result: type[BaseModel] = Plain, **fields: Any
) -> TaskDefinition:
    return TaskDefinition(
        name="features.build",
        owner_email="data@example.com",
        fn=params,
        params_model=params,
        output_model=result,
        **fields,
    )


def schema_of(model: type[BaseModel], **fields: Any) -> dict[str, Any]:
    data = build_taskdef(definition(params=model, **fields))["inputSchema"]["data"]
    params: dict[str, Any] = data["properties"]["params"]
    return params


def result_schema_of(model: type[BaseModel]) -> dict[str, Any]:
    data = build_taskdef(definition(result=model))["outputSchema"]["data"]
    result: dict[str, Any] = data["properties"]["result"]
    return result


WORKSPACE_SCHEMA = {
    "type": "object",
    "properties": {
        "repository": {"type": "string", "minLength": 1},
        "branch": {"type": "string", "minLength": 1},
        "ref_type": {"type": "string", "const": "commit"},
        "ref": {"type": "string", "minLength": 1},
    },
    "required": ["repository", "branch", "ref_type", "ref"],
    "additionalProperties": False,
}


def plain_schema(*, extra: bool) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"source": {"type": "string"}},
        "required": ["source"],
        "additionalProperties": extra,
    }


# --- the whole ------------------------------------------------------------------------------------


def test_a_workspace_task_in_full() -> None:
    """Guards, prefix and budget are nobody else's business."""
    task = definition(
        description="Build features.",
        workspace=WorkspaceSpec(prefix="features", pre=[require_file("raw/a.csv")]),
        controls=TaskControls(
            retry=RetryPolicy(
                count=4,
                logic="LINEAR_BACKOFF",
                delay_seconds=5,
                max_delay_seconds=50,
                jitter_ms=100,
            ),
            timeout=TimeoutPolicy(
                policy="RETRY",
                seconds=3600,
                response_seconds=100,
                poll_seconds=20,
                total_seconds=7200,
            ),
            limits=ExecutionLimits(
                concurrent_exec_limit=2,
                rate_limit_frequency_in_seconds=60,
                rate_limit_per_frequency=10,
            ),
            publish_budget=BUDGET,
        ),
    )
    assert build_taskdef(task) == {
        "name": "features.build",
        "ownerEmail": "data@example.com",
        "description": "Build features.",
        "retryCount": 4,
        "retryLogic": "LINEAR_BACKOFF",
        "retryDelaySeconds": 5,
        "maxRetryDelaySeconds": 50,
        "backoffJitterMs": 100,
        "timeoutPolicy": "RETRY",
        "timeoutSeconds": 3600,
        "responseTimeoutSeconds": 100,
        "pollTimeoutSeconds": 20,
        "totalTimeoutSeconds": 7200,
        "concurrentExecLimit": 2,
        "rateLimitFrequencyInSeconds": 60,
        "rateLimitPerFrequency": 10,
        "inputKeys": ["workspace", "params"],
        "outputKeys": ["workspace", "result"],
        "inputSchema": {
            "name": "features.build.input",
            "version": 1,
            "type": "JSON",
            "data": {
                "type": "object",
                "properties": {"workspace": WORKSPACE_SCHEMA, "params": plain_schema(extra=True)},
                "required": ["workspace", "params"],
                "additionalProperties": True,
            },
        },
        "outputSchema": {
            "name": "features.build.output",
            "version": 1,
            "type": "JSON",
            "data": {
                "type": "object",
                "properties": {"workspace": WORKSPACE_SCHEMA, "result": plain_schema(extra=False)},
                "required": ["workspace", "result"],
                "additionalProperties": False,
            },
        },
    }


def test_a_workspace_free_task_with_defaults() -> None:
    """Without a description and limits, none are set."""
    taskdef = build_taskdef(definition())
    assert (taskdef["inputKeys"], taskdef["outputKeys"]) == (["params"], ["result"])
    assert taskdef["inputSchema"]["data"]["required"] == ["params"]
    assert taskdef["outputSchema"]["data"]["required"] == ["result"]
    assert taskdef.keys() == {
        "name",
        "ownerEmail",
        "retryCount",
        "retryLogic",
        "retryDelaySeconds",
        "maxRetryDelaySeconds",
        "backoffJitterMs",
        "timeoutPolicy",
        "timeoutSeconds",
        "responseTimeoutSeconds",
        "pollTimeoutSeconds",
        "totalTimeoutSeconds",
        "inputKeys",
        "outputKeys",
        "inputSchema",
        "outputSchema",
    }


def test_limits_of_zero_are_set() -> None:
    controls = TaskControls(limits=ExecutionLimits(concurrent_exec_limit=0))
    assert build_taskdef(definition(controls=controls))["concurrentExecLimit"] == 0


@pytest.mark.parametrize(("strict", "extra"), [(False, True), (True, False)])
def test_strict_params_are_closed(strict: bool, extra: bool) -> None:
    assert schema_of(Plain, strict_params=strict) == plain_schema(extra=extra)


# --- budget and lease -----------------------------------------------------------------------------


def budgeted(response_seconds: int, **spec: Any) -> TaskDefinition:
    return definition(
        workspace=WorkspaceSpec(**spec),
        controls=TaskControls(
            timeout=TimeoutPolicy(response_seconds=response_seconds), publish_budget=BUDGET
        ),
    )


def test_a_budget_larger_than_the_lease_warns_and_changes_nothing() -> None:
    with pytest.warns(UserWarning, match=r"response_seconds is 99.*100 seconds") as caught:
        taskdef = build_taskdef(budgeted(99))
    assert taskdef["responseTimeoutSeconds"] == 99
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("task", [budgeted(100), budgeted(1, read_only=True)])
def test_other_budgets_do_not_warn(task: TaskDefinition) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_taskdef(task)


# --- schemas --------------------------------------------------------------------------------------


class Color(enum.Enum):
    """For readers of the code."""

    RED = "red"
    GREEN = "green"


class Cat(BaseModel):
    """For readers of the code."""

    kind: Literal["cat"]
    lives: int = Field(default=9, ge=0)


class Dog(BaseModel):
    kind: Literal["dog"]


CAT = {
    "type": "object",
    "properties": {
        "kind": {"type": "string", "const": "cat"},
        "lives": {"type": "integer", "default": 9, "minimum": 0},
    },
    "required": ["kind"],
    "additionalProperties": True,
}
DOG = {
    "type": "object",
    "properties": {"kind": {"type": "string", "const": "dog"}},
    "required": ["kind"],
    "additionalProperties": True,
}


class Point(NamedTuple):
    x: int


class Row(TypedDict):
    """For readers of the code."""

    cell: int


@dataclasses.dataclass
class Record:
    """For readers of the code."""

    cell: int


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    """For readers of the code."""

    content: T


CELL = {
    "type": "object",
    "properties": {"cell": {"type": "integer"}},
    "required": ["cell"],
    "additionalProperties": True,
}


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (Color, {"type": "string", "enum": ["red", "green"]}),
        (list[Color], {"type": "array", "items": {"type": "string", "enum": ["red", "green"]}}),
        (Cat, CAT),
        (Cat | None, {"anyOf": [CAT, {"type": "null"}]}),
        (Cat | Dog, {"anyOf": [CAT, DOG]}),
        (
            Annotated[Cat | Dog, Field(discriminator="kind")],
            {"oneOf": [CAT, DOG], "discriminator": {"propertyName": "kind"}},
        ),
        (dict[str, Cat], {"type": "object", "additionalProperties": CAT}),
        (dict[str, Any], {"type": "object", "additionalProperties": True}),
        (list[list[Cat]], {"type": "array", "items": {"type": "array", "items": CAT}}),
        (
            tuple[int, Cat],
            {
                "type": "array",
                "prefixItems": [{"type": "integer"}, CAT],
                "minItems": 2,
                "maxItems": 2,
            },
        ),
        (
            Point,
            {"type": "array", "prefixItems": [{"type": "integer"}], "minItems": 1, "maxItems": 1},
        ),
        (Row, CELL),
        (Record, CELL),
        (
            Box[Box[int]],
            {
                "type": "object",
                "properties": {
                    "content": {
                        "type": "object",
                        "properties": {"content": {"type": "integer"}},
                        "required": ["content"],
                        "additionalProperties": True,
                    }
                },
                "required": ["content"],
                "additionalProperties": True,
            },
        ),
        (dt.datetime, {"type": "string", "format": "date-time"}),
        (Any, {}),
    ],
)
def test_schemas_are_in_one_piece(annotation: Any, schema: dict[str, Any]) -> None:
    class Holder(BaseModel):
        field: annotation

    assert schema_of(Holder)["properties"] == {"field": schema}


class Descriptive(BaseModel):
    """For readers of the code."""

    title: str
    description: Cat
    explained: int = Field(title="Explained", description="For readers of the schema.")
    animal: Cat = Field(description="For readers of the schema.")
    chosen: Color = Field(default=Color.RED, description="For readers of the schema.")
    preset: dict[str, Any] = {"title": "kept", "description": "kept", "properties": {"title": 1}}


def test_what_is_kept_and_what_is_left_out() -> None:
    """Names and docstrings are left out; fields of such names, descriptions and data are kept."""
    schema = schema_of(Descriptive)
    assert schema.keys() == {"type", "properties", "required", "additionalProperties"}
    assert schema["properties"] == {
        "title": {"type": "string"},
        "description": CAT,
        "explained": {
            "type": "integer",
            "title": "Explained",
            "description": "For readers of the schema.",
        },
        "animal": {**CAT, "description": "For readers of the schema."},
        "chosen": {
            "type": "string",
            "enum": ["red", "green"],
            "default": "red",
            "description": "For readers of the schema.",
        },
        "preset": {
            "type": "object",
            "additionalProperties": True,
            "default": {
                "title": "kept",
                "description": "kept",
                "properties": {"title": 1},
            },
        },
    }


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: Plain


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    inner: Closed


class Empty(BaseModel):
    pass


@pytest.mark.parametrize("model", [Open, Closed, Empty])
def test_extra_properties_are_as_validated(model: type[BaseModel]) -> None:
    """What the models say about extra fields does not count when a worker validates."""
    assert '"additionalProperties": false' not in json.dumps(schema_of(model))
    assert '"additionalProperties": true' not in json.dumps(schema_of(model, strict_params=True))
    assert '"additionalProperties": true' not in json.dumps(result_schema_of(model))


class Counted(BaseModel):
    count: int = Field(default=0, alias="rowCount")

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way
    @property
    def twice(self) -> int:
        return 2 * self.count


def test_a_result_schema_is_of_what_is_written() -> None:
    """That is with computed fields, and under the aliases."""
    assert result_schema_of(Counted) == {
        "type": "object",
        "properties": {
            "rowCount": {"type": "integer", "default": 0},
            "twice": {"type": "integer", "readOnly": True},
        },
        "required": ["twice"],
        "additionalProperties": False,
    }


class Node(BaseModel):
    children: list[Node] = []


class Left(BaseModel):
    right: Right | None = None


class Right(BaseModel):
    left: Left | None = None


class Root(BaseModel):
    left: Left


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Node, "Node is recursive (Node > Node)"),
        (Left, "Left is recursive (Left > Right > Left)"),
        (Root, "Root is recursive (Left > Right > Left)"),
    ],
)
def test_recursive_models_are_refused(model: type[BaseModel], said: str) -> None:
    for task in (definition(params=model), definition(result=model)):
        with pytest.raises(TaskDefinitionError) as caught:
            build_taskdef(task)
        assert str(caught.value).startswith(f"task 'features.build': {said}")


class Twice(BaseModel):
    first: Cat
    second: Box[Cat]


def test_a_model_used_twice_is_not_recursive() -> None:
    properties = schema_of(Twice)["properties"]
    assert properties["first"] == properties["second"]["properties"]["content"] == CAT


class Strange(BaseModel):
    thing: nowhere  # type: ignore[name-defined]  # noqa: F821


class Opaque(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    decoder: json.JSONDecoder


class Roots(RootModel[int]):
    pass


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Opaque, "Opaque has no JSON schema"),
        (Strange, "Strange refers to nowhere, which is not defined"),
        (Roots, "RootModel (Roots)"),
    ],
)
def test_models_without_a_schema_are_refused(model: type[BaseModel], said: str) -> None:
    with pytest.raises(TaskDefinitionError) as caught:
        build_taskdef(definition(params=model))
    assert said in str(caught.value)
    assert "features.build" in str(caught.value)


# --- files ----------------------------------------------------------------------------------------


def test_a_taskdef_is_written_as_json(tmp_path: Path) -> None:
    path = tmp_path / "new" / "features.build.json"
    task = definition(description="Größe")
    assert write_taskdef(task, path) == path
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == build_taskdef(task)
    assert text.startswith('{\n  "name": "features.build",\n')
    assert text.endswith("}\n")
    assert "Größe" in text


def test_a_file_that_is_there_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("x" * 100_000)
    write_taskdef(definition(), str(path))
    assert json.loads(path.read_text())["name"] == "features.build"


def test_a_path_that_is_no_json_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not end in \.json"):
        write_taskdef(definition(), tmp_path / "a.yaml")
    (tmp_path / "b.json").mkdir()
    with pytest.raises(ValueError, match="is a directory"):
        write_taskdef(definition(), tmp_path / "b.json")


def test_nothing_is_written_when_the_task_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    with pytest.raises(TaskDefinitionError):
        write_taskdef(definition(params=Node), path)
    assert not path.parent.exists()
