"""Declaring tasks, finding them in modules, and what a definition does with data."""

# Bodies that are declared and never called are empty.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

import datetime as dt
import importlib
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import FrozenInstanceError
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    computed_field,
    field_serializer,
    field_validator,
)

from perago_worker.definition import TaskDefinition
from perago_worker.errors import TaskDefinitionError
from perago_worker.models import PublishBudget, TaskControls, WorkspaceSpec
from perago_worker.task import load_module_task, load_module_tasks, task

OWNER = "data@example.com"
BUDGET = PublishBudget(
    observed_merge_p99_seconds=1,
    safety_margin_seconds=1,
    lakefs_merge_timeout_seconds=5,
    conductor_completion_timeout_seconds=5,
    worker_shutdown_grace_seconds=5,
    heartbeat_interval_seconds=5,
)


class Params(BaseModel):
    source: str


class Result(BaseModel):
    rows: int


def build(workspace: Path, params: Params) -> Result:
    return Result(rows=len(list(workspace.glob(params.source))))


def check(params: Params) -> Result:
    return Result(rows=len(params.source))


def definition_of(fn: Any, **arguments: Any) -> TaskDefinition:
    decorate: Any = task(**{"name": "t", "owner_email": OWNER, **arguments})
    return TaskDefinition.of(decorate(fn))


def refusal_of(fn: Any, **arguments: Any) -> str:
    with pytest.raises(TaskDefinitionError) as caught:
        definition_of(fn, **arguments)
    return str(caught.value)


# --- declaring ------------------------------------------------------------------------------------


def test_a_workspace_task() -> None:
    spec, controls = WorkspaceSpec(prefix="features"), TaskControls(publish_budget=BUDGET)
    decorated = task(
        name="features.build",
        owner_email=OWNER,
        description="Build features.",
        workspace=spec,
        controls=controls,
        strict_params=True,
    )(build)
    assert decorated is build
    definition = TaskDefinition.of(build)
    assert definition == TaskDefinition(
        name="features.build",
        owner_email=OWNER,
        fn=build,
        params_model=Params,
        output_model=Result,
        strict_params=True,
        description="Build features.",
        workspace=spec,
        controls=controls,
    )
    assert (definition.has_workspace, definition.read_only) == (True, False)


def test_a_workspace_free_task() -> None:
    definition = definition_of(check)
    assert (definition.description, definition.workspace) == (None, None)
    assert definition.strict_params is False
    assert definition.controls == TaskControls()
    assert (definition.has_workspace, definition.read_only) == (False, False)


def test_a_read_only_task() -> None:
    definition = definition_of(build, workspace=WorkspaceSpec(read_only=True))
    assert (definition.has_workspace, definition.read_only) == (True, True)


def test_the_function_stays_callable(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    decorated = task(name="t", owner_email=OWNER, workspace=WorkspaceSpec())(build)
    assert decorated(tmp_path, Params(source="*.csv")) == Result(rows=1)


def test_the_function_carries_its_definition() -> None:
    definition_of(check)
    assert check.__perago_task__.fn is check  # type: ignore[attr-defined]  # set by the decorator


def test_a_definition_is_frozen() -> None:
    definition = definition_of(check)
    with pytest.raises(FrozenInstanceError):
        definition.name = "other"  # type: ignore[misc]  # that is the test


def test_a_plain_function_has_no_definition() -> None:
    def plain(params: Params) -> Result:
        return check(params)

    with pytest.raises(TaskDefinitionError, match="plain"):
        TaskDefinition.of(plain)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": ""}, "name"),
        ({"name": " \t"}, "name"),
        ({"name": None}, "name"),
        ({"name": "a/b"}, "'a/b'"),
        ({"name": "a\\b"}, "slash"),
        ({"owner_email": ""}, "owner_email"),
        ({"owner_email": "  "}, "owner_email"),
        ({"owner_email": 3}, "owner_email"),
        ({"description": 3}, "description"),
        ({"workspace": "features"}, "workspace cannot be 'features'"),
        ({"controls": {}}, "controls"),
        ({"strict_params": "yes"}, "strict_params"),
        ({"retries": 3, "a": 1}, "'a', 'retries'"),
    ],
)
def test_arguments_are_refused_by_name(arguments: dict[str, Any], named: str) -> None:
    assert named in refusal_of(check, **arguments)


# --- the shape of a body --------------------------------------------------------------------------


def swapped(params: Params, workspace: Path) -> Result: ...
def renamed(directory: Path, params: Params) -> Result: ...
def text_path(workspace: str, params: Params) -> Result: ...
def bare_path(workspace, params: Params) -> Result: ...  # type: ignore[no-untyped-def]
def no_params(workspace: Path) -> Result: ...
def three(workspace: Path, params: Params, more: int) -> Result: ...
def defaulted(workspace: Path, params: Params = Params(source="a")) -> Result: ...  # noqa: B008
def positional_only(workspace: Path, params: Params, /) -> Result: ...
def keyword_only(workspace: Path, *, params: Params) -> Result: ...
def starred(workspace: Path, *params: Params) -> Result: ...
def double_starred(workspace: Path, params: Params, **more: int) -> Result: ...
def dict_params(workspace: Path, params: dict[str, str]) -> Result: ...
def optional_params(workspace: Path, params: Params | None) -> Result: ...
def base_params(workspace: Path, params: BaseModel) -> Result: ...
def no_result(workspace: Path, params: Params) -> None: ...
def bare_result(workspace: Path, params: Params): ...  # type: ignore[no-untyped-def]
def text_result(workspace: Path, params: Params) -> str: ...
def unresolved(workspace: Path, params: Nowhere) -> Result: ...  # type: ignore[name-defined]  # noqa: F821
async def coroutine(workspace: Path, params: Params) -> Result: ...
async def async_generator(workspace: Path, params: Params) -> AsyncIterator[Result]:
    yield Result(rows=1)


def generator(workspace: Path, params: Params) -> Iterator[Result]:
    yield Result(rows=1)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (swapped, "called params, workspace"),
        (renamed, "called directory, params"),
        (text_path, "workspace is not annotated as Path"),
        (bare_path, "workspace is not annotated as Path"),
        (no_params, "called workspace;"),
        (three, "called workspace, params, more"),
        (defaulted, "params has a default"),
        (positional_only, "positional-only"),
        (keyword_only, "keyword-only"),
        (starred, "variadic positional"),
        (double_starred, "variadic keyword"),
        (dict_params, "params is not annotated as a pydantic model"),
        (optional_params, "params is not annotated as a pydantic model"),
        (base_params, "params is not annotated as a pydantic model"),
        (no_result, "the return value is not annotated as a pydantic model"),
        (bare_result, "the return value is not annotated as a pydantic model"),
        (text_result, "the return value is not annotated as a pydantic model"),
        (check, "called params;"),
        (unresolved, "Nowhere"),
        (coroutine, "a coroutine function"),
        (async_generator, "an asynchronous generator function"),
        (generator, "a generator function"),
        (Result, "@task decorates functions"),
        (print, "@task decorates functions"),
    ],
)
def test_other_bodies_are_refused(body: Callable[..., Any], said: str) -> None:
    message = refusal_of(body, workspace=WorkspaceSpec())
    assert said in message
    assert message.startswith("task 't': ")


def test_a_refusal_shows_what_was_expected_and_what_was_found() -> None:
    message = refusal_of(renamed, workspace=WorkspaceSpec())
    assert "with workspace=WorkspaceSpec(...)" in message
    assert "(workspace: Path, params: Model) -> Model" in message
    assert "found renamed(directory: Path, params: Params) -> Result" in message


def test_a_workspace_body_needs_a_workspace() -> None:
    message = refusal_of(build)
    assert "without workspace=WorkspaceSpec(...) must be (params: Model) -> Model" in message


class Roots(RootModel[list[int]]):
    pass


class DeepRoots(BaseModel):
    by_name: dict[str, list[Roots | None]] = {}


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    content: T


@pytest.mark.parametrize("model", [Roots, DeepRoots, Box[Roots], Box[Box[DeepRoots]]])
def test_root_models_are_refused_at_any_depth(model: type[BaseModel]) -> None:
    def takes(params: Params) -> Result: ...
    def gives(params: Params) -> Result: ...

    takes.__annotations__["params"] = model
    gives.__annotations__["return"] = model
    assert "RootModel (Roots)" in refusal_of(takes)
    assert "RootModel (Roots)" in refusal_of(gives)


def test_generic_models_are_models() -> None:
    def takes(params: Params) -> Result: ...

    takes.__annotations__["params"] = Box[int]
    assert definition_of(takes).params_model is Box[int]


# --- publish budgets ------------------------------------------------------------------------------


def test_a_budget_without_a_workspace_is_refused() -> None:
    message = refusal_of(check, controls=TaskControls(publish_budget=BUDGET))
    assert "publish_budget" in message
    assert "workspace=WorkspaceSpec(...)" in message


def test_a_budget_on_a_read_only_workspace_is_ignored_with_one_warning() -> None:
    controls = TaskControls(publish_budget=BUDGET)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        definition = definition_of(
            build, workspace=WorkspaceSpec(read_only=True), controls=controls
        )
    assert [warning.category for warning in caught] == [UserWarning]
    assert "publish_budget" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert definition.controls == TaskControls()
    assert controls.publish_budget == BUDGET, "what the author passed is left alone"


# --- finding --------------------------------------------------------------------------------------

HEAD = """
from __future__ import annotations
from pydantic import BaseModel
from perago_worker.task import task
class Params(BaseModel):
    x: int = 0
class Result(BaseModel):
    y: int = 0
"""
ONE = """
@task(name="{name}", owner_email="a@b.c")
def {function}(params: Params) -> Result:
    return Result(y=params.x)
"""


def source(*names: str) -> str:
    return HEAD + "".join(
        ONE.format(name=name, function=f"body_{index}") for index, name in enumerate(names)
    )


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Path]]:
    """Return a function that writes a module which can be imported until the test ends."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a module is written twice per second
    before = set(sys.modules)

    def write_module(name: str, text: str) -> Path:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()
        return path

    yield write_module
    for name in set(sys.modules) - before:
        del sys.modules[name]


def load_refusal(target: str, load: Callable[[str], object] = load_module_tasks) -> str:
    with pytest.raises(TaskDefinitionError) as caught:
        load(target)
    return str(caught.value)


def test_one_task_is_found(write: Callable[[str, str], Path]) -> None:
    write("flow.one", source("a.b"))
    definition = load_module_task("flow.one")
    assert (definition.name, definition.fn.__module__) == ("a.b", "flow.one")
    assert load_module_tasks("flow.one") == [definition]


def test_tasks_are_found_in_order(write: Callable[[str, str], Path]) -> None:
    write("several", source("z", "a", "m"))
    assert [definition.name for definition in load_module_tasks("several")] == ["z", "a", "m"]


def test_one_is_wanted_and_there_are_several(write: Callable[[str, str], Path]) -> None:
    write("several", source("z", "a"))
    message = load_refusal("several", load_module_task)
    assert "several declares 2 tasks" in message
    assert "'z' (several.body_0, line 10), 'a' (several.body_1, line 14)" in message


def test_a_module_without_tasks(write: Callable[[str, str], Path]) -> None:
    write("none", HEAD)
    assert load_refusal("none") == "none declares no task"


def test_imported_tasks_are_not_the_importers(write: Callable[[str, str], Path]) -> None:
    write("original", source("a"))
    write("importer", "from original import body_0, Params\nimport os\n")
    message = load_refusal("importer")
    assert "importer declares no task" in message
    assert "it imports 'a' (original.body_0" in message


def test_two_tasks_of_one_name_are_refused(write: Callable[[str, str], Path]) -> None:
    write("twice", source("a", "b", "a"))
    message = load_refusal("twice")
    assert "body_0" in message
    assert "body_2" in message
    assert "body_1" not in message


def test_a_task_hidden_by_a_function_of_the_same_name_is_not_lost(
    write: Callable[[str, str], Path],
) -> None:
    write("hidden", source("a") + ONE.format(name="b", function="body_0"))
    assert [definition.name for definition in load_module_tasks("hidden")] == ["a", "b"]


def test_a_reloaded_module_has_its_tasks_once(write: Callable[[str, str], Path]) -> None:
    path = write("reloaded", source("a", "b"))
    before = load_module_tasks("reloaded")
    path.write_text(source("a", "c", "d"))
    importlib.reload(sys.modules["reloaded"])
    after = load_module_tasks("reloaded")
    assert [definition.name for definition in after] == ["a", "c", "d"]
    assert after[0].fn is not before[0].fn


def test_a_module_imported_anew_has_its_tasks_once(write: Callable[[str, str], Path]) -> None:
    path = write("anew", source("a"))
    load_module_tasks("anew")
    del sys.modules["anew"]
    assert [definition.name for definition in load_module_tasks("anew")] == ["a"]
    del sys.modules["anew"]
    path.write_text(HEAD)
    assert "declares no task" in load_refusal("anew")


def test_a_model_may_refer_to_one_further_down(write: Callable[[str, str], Path]) -> None:
    ahead = HEAD.replace("x: int = 0", "x: Later | None = None") + ONE
    text = ahead.format(name="a", function="body").replace("y=params.x", "y=1")
    write("ahead", text + "class Later(BaseModel):\n    z: int\n")
    definition = load_module_task("ahead")
    assert definition.validate_params({"x": {"z": "3"}}).model_dump() == {"x": {"z": 3}}


def test_a_model_that_refers_to_nothing_is_refused(write: Callable[[str, str], Path]) -> None:
    text = HEAD.replace("x: int = 0", "x: Never") + ONE.format(name="a", function="body")
    write("never", text)
    assert "Params refers to Never" in load_refusal("never")


def test_a_root_model_further_down_is_refused(write: Callable[[str, str], Path]) -> None:
    text = HEAD.replace("x: int = 0", "x: Later") + ONE.format(name="a", function="body")
    write("late", text + "from pydantic import RootModel\nclass Later(RootModel[int]): pass\n")
    assert "RootModel (Later)" in load_refusal("late")


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("", ""),
        ("app/tasks.py", "perhaps 'app.tasks'"),
        ("./app/tasks.py", "perhaps 'app.tasks'"),
        ("app\\tasks.py", "perhaps 'app.tasks'"),
        ("tasks.py", "perhaps 'tasks'"),
        ("app.tasks:build", "perhaps 'app.tasks'"),
        ("app..tasks", ""),
        (".tasks", ""),
        ("app.tasks.", ""),
        ("my-app.tasks", ""),
        ("app tasks", ""),
    ],
)
def test_a_target_is_an_import_path(target: str, hint: str) -> None:
    message = load_refusal(target)
    assert f"{target!r} is not the import path of a module" in message
    assert hint in message


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("raise RuntimeError('no luck')", RuntimeError, "RuntimeError: no luck"),
        ("import not_there.at_all", ModuleNotFoundError, "No module named 'not_there'"),
        ("from os import nothing_of_that", ImportError, "nothing_of_that"),
        ("1 +", SyntaxError, "SyntaxError"),
        ("raise SystemExit('usage: tasks')", SystemExit, "SystemExit: usage: tasks"),
        (
            HEAD + "task(name='x', owner_email='')(lambda: None)",
            TaskDefinitionError,
            "owner_email",
        ),
    ],
)
def test_a_module_that_fails_to_import(
    write: Callable[[str, str], Path], text: str, kind: type[BaseException], said: str
) -> None:
    write("broken", text)
    with pytest.raises(TaskDefinitionError) as caught:
        load_module_tasks("broken")
    assert str(caught.value).startswith("cannot import broken: ")
    assert said in str(caught.value)
    assert "looked in" not in str(caught.value)
    assert isinstance(caught.value.__cause__, kind)


def test_a_module_can_be_loaded_once_it_is_mended(write: Callable[[str, str], Path]) -> None:
    path = write("mended", source("a") + "raise RuntimeError")
    load_refusal("mended")
    path.write_text(source("a"))
    importlib.invalidate_caches()
    assert load_module_task("mended").name == "a"


@pytest.mark.parametrize("target", ["not_there", "not_there.at_all", "present.but_not_this"])
def test_a_module_that_does_not_exist(
    write: Callable[[str, str], Path], tmp_path: Path, target: str
) -> None:
    """The message says where was looked for it."""
    write("present.__init__", "")
    message = load_refusal(target)
    assert "ModuleNotFoundError: No module named" in message
    assert f"looked in {tmp_path}" in message


# --- params ---------------------------------------------------------------------------------------


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int


class Outer(BaseModel):
    model_config = ConfigDict(extra="allow")
    inner: Inner
    many: list[Inner] = []
    named: dict[str, Inner] = {}


def takes_outer(params: Outer) -> Result: ...


NESTED = {
    "inner": {"a": 1, "x": 0},
    "many": [{"a": 2, "x": 0}],
    "named": {"k": {"a": 3, "x": 0}},
    "x": 0,
}


def test_params_ignore_unknown_fields_at_every_depth() -> None:
    """Whatever the models themselves say about extra fields."""
    params = definition_of(takes_outer).validate_params(NESTED)
    assert params == Outer(inner=Inner(a=1), many=[Inner(a=2)], named={"k": Inner(a=3)})
    assert params.model_extra in ({}, None)


def test_strict_params_refuse_unknown_fields_at_every_depth() -> None:
    definition = definition_of(takes_outer, strict_params=True)
    with pytest.raises(ValidationError) as caught:
        definition.validate_params(NESTED)
    refused = {".".join(map(str, error["loc"])) for error in caught.value.errors()}
    assert refused == {"inner.x", "many.0.x", "named.k.x", "x"}


@pytest.mark.parametrize("raw", [None, [], "x", 3, {}, {"source": None}])
def test_params_that_are_not_valid(raw: object) -> None:
    with pytest.raises(ValidationError):
        definition_of(check).validate_params(raw)


class Temperamental(BaseModel):
    value: int

    @field_validator("value")
    @classmethod
    def look_up(cls, value: int) -> int:
        return {1: 1}[value]

    @field_serializer("value")
    def show(self, value: int) -> int:
        raise LookupError("nothing to show")


def is_temperamental(params: Temperamental) -> Temperamental: ...


def test_whatever_a_models_own_code_raises_is_a_value_error() -> None:
    definition = definition_of(is_temperamental)
    with pytest.raises(ValueError, match="Temperamental: KeyError: 7"):
        definition.validate_params({"value": 7})
    with pytest.raises(ValueError, match="nothing to show"):
        definition.validate_result(Temperamental(value=1))
    with pytest.raises(ValueError, match="Temperamental: KeyError: 7"):
        definition.validate_result({"value": 7})


# --- results --------------------------------------------------------------------------------------


class Circle(BaseModel):
    kind: Literal["circle"] = "circle"
    radius: float


class Square(BaseModel):
    kind: Literal["square"] = "square"
    side: float


class Report(BaseModel):
    row_count: int = Field(alias="rowCount", ge=0)
    at: dt.datetime = dt.datetime(2024, 1, 2, tzinfo=dt.UTC)
    shape: Annotated[Circle | Square, Field(discriminator="kind")] | None = None
    shapes: list[Circle] = []
    anything: Any = None
    hidden: str = Field(default="h", exclude=True)

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way
    @property
    def twice(self) -> int:
        return 2 * self.row_count

    @cached_property
    def costly(self) -> int:
        return 3


def reports(params: Params) -> Report: ...


def result_of(value: object) -> dict[str, Any]:
    return definition_of(reports).validate_result(value)


def test_a_result_becomes_json() -> None:
    report = Report(rowCount=3, shape=Square(side=1), shapes=[Circle(radius=2)])
    assert report.costly == 3
    assert result_of(report) == {
        "rowCount": 3,
        "at": "2024-01-02T00:00:00Z",
        "shape": {"kind": "square", "side": 1.0},
        "shapes": [{"kind": "circle", "radius": 2.0}],
        "anything": None,
        "twice": 6,
    }


def test_data_for_the_model_is_a_result_too() -> None:
    assert result_of({"rowCount": 1})["rowCount"] == 1


def unchecked(model: Any, **fields: Any) -> Any:
    return model.model_construct(**fields)


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        "x",
        {},
        {"rowCount": -1},
        {"rowCount": 1, "more": 1},
        Result(rows=1),
        unchecked(Report),
        unchecked(Report, row_count=-1),
        unchecked(Report, row_count="many"),
        unchecked(Report, row_count=1, shapes=[unchecked(Circle, radius="x")]),
        unchecked(Report, row_count=1, shape=unchecked(Square, kind="circle", side=1)),
    ],
)
def test_results_that_are_not_valid(value: object) -> None:
    with pytest.raises(ValidationError):
        result_of(value)


def test_what_was_assigned_later_is_validated() -> None:
    report = Report(rowCount=1)
    report.row_count = -5
    with pytest.raises(ValidationError, match="row_count"):
        result_of(report)


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (Report(rowCount=1, shape=Square(side=NAN)), "Report.shape.side is nan"),
        (Report(rowCount=1, shapes=[Circle(radius=-INFINITY)]), "Report.shapes[0].radius is -inf"),
        (Report(rowCount=1, anything={"q": [1, INFINITY]}), "Report.anything.q[1] is inf"),
        (Report(rowCount=1, anything=NAN), "Report.anything is nan"),
    ],
)
def test_numbers_that_json_has_not(report: Report, said: str) -> None:
    with pytest.raises(ValueError, match="JSON") as caught:
        result_of(report)
    assert said in str(caught.value)


def test_a_result_that_contains_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="contains itself"):
        result_of(Report(rowCount=1, anything=loop))


def test_a_result_that_has_no_form_in_json() -> None:
    with pytest.raises(ValueError, match="serialize"):
        result_of(Report(rowCount=1, anything=object()))


class Tag(BaseModel):
    model_config = ConfigDict(frozen=True)
    weight: float


class Tags(BaseModel):
    tags: set[Tag]


def tags(params: Params) -> Tags: ...


def test_a_set_of_models_is_a_result() -> None:
    definition = definition_of(tags)
    assert definition.validate_result(Tags(tags={Tag(weight=1)})) == {"tags": [{"weight": 1.0}]}
    with pytest.raises(ValueError, match=r"tags\[0\].weight is nan"):
        definition.validate_result(Tags(tags={Tag(weight=NAN)}))
