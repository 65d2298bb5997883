"""JSON schemas of an author's models, in one piece and without what only the code needs.

Left out: titles that pydantic makes up from names, and docstrings, which speak to readers of the
code. Kept: every `Field(title=..., description=...)`, since somebody wrote it for the reader of the
schema. There is no `$ref`, because tools that show task definitions do not follow it.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Literal

from pydantic import BaseModel
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonRef, JsonSchemaValue
from pydantic_core import core_schema

from perago_worker.errors import TaskDefinitionError

SchemaMode = Literal["validation", "serialization"]

_REFERENCE = "#/$defs/"

# Where a schema holds schemas. Everything else, such as a default, is data and stays as it is.
_ONE_SCHEMA = {"items", "additionalProperties", "contains", "not", "if", "then", "else"} | {
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
}
_SCHEMA_LIST = {"anyOf", "oneOf", "allOf", "prefixItems"}
_SCHEMA_BY_NAME = {"properties", "patternProperties", "dependentSchemas"}


def object_schema(
    model: type[BaseModel], *, extra_allowed: bool, mode: SchemaMode
) -> dict[str, Any]:
    """Return the JSON schema of a model.

    Args:
        model: Anything but recursive.
        extra_allowed: What `additionalProperties` says for every object with declared fields. The
            models' own `extra` does not count, as it does not when a worker validates.
        mode: Whether the schema is of what is read or of what is written.

    Raises:
        TaskDefinitionError: The model is recursive, unfinished, or holds a type that has no schema.
    """
    try:
        schema = model.model_json_schema(
            mode=mode, schema_generator=_Open if extra_allowed else _Closed
        )
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        raise TaskDefinitionError(
            f"{model.__name__} has no JSON schema: {error.message}"
        ) from error
    definitions = schema.pop("$defs", {})
    inlined: dict[str, Any] = _inline(schema, definitions, (model.__name__,))
    return inlined


class _Generator(GenerateJsonSchema):
    extra_allowed: ClassVar[bool]

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 -- pydantic's name
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        return self._object(super().model_schema(schema), schema["cls"])

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        return self._object(super().dataclass_schema(schema), schema["cls"])

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        return self._object(super().typed_dict_schema(schema), schema.get("cls"))

    def generate_inner(self, schema: Any) -> JsonSchemaValue:
        json_schema = super().generate_inner(schema)
        if schema["type"] == "enum":  # pydantic adds the name and docstring after enum_schema()
            reference = json_schema.get("$ref")
            own = self.get_schema_from_definitions(JsonRef(reference)) if reference else json_schema
            _without_generated(own or {}, schema["cls"])
        return json_schema

    def _object(self, json_schema: JsonSchemaValue, cls: type | None) -> JsonSchemaValue:
        json_schema["additionalProperties"] = self.extra_allowed
        return json_schema if cls is None else _without_generated(json_schema, cls)


class _Open(_Generator):
    extra_allowed = True


class _Closed(_Generator):
    extra_allowed = False


def _without_generated(json_schema: JsonSchemaValue, cls: type) -> JsonSchemaValue:
    if json_schema.get("title") == cls.__name__:
        del json_schema["title"]
    if cls.__doc__ and json_schema.get("description") == inspect.cleandoc(cls.__doc__):
        del json_schema["description"]
    return json_schema


def _inline(schema: Any, definitions: dict[str, Any], within: tuple[str, ...]) -> Any:
    if not isinstance(schema, dict):
        return schema  # `true` and `false` are schemas
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith(_REFERENCE):
        name = reference.removeprefix(_REFERENCE)
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return _resolve(name, definitions, within) | _inline(beside, definitions, within)
    return {key: _inline_at(key, value, definitions, within) for key, value in schema.items()}


def _resolve(name: str, definitions: dict[str, Any], within: tuple[str, ...]) -> dict[str, Any]:
    if name in within[1:]:
        raise TaskDefinitionError(
            f"{within[0]} is recursive ({' > '.join((*within[within.index(name, 1) :], name))}); "
            "the schema of a task is written in one piece, which a recursive model does not have"
        )
    resolved: dict[str, Any] = _inline(definitions[name], definitions, (*within, name))
    return resolved


def _inline_at(key: str, value: Any, definitions: dict[str, Any], within: tuple[str, ...]) -> Any:
    if key in _ONE_SCHEMA:
        return _inline(value, definitions, within)
    if key in _SCHEMA_LIST:
        return [_inline(item, definitions, within) for item in value]
    if key in _SCHEMA_BY_NAME:
        return {name: _inline(item, definitions, within) for name, item in value.items()}
    if key == "discriminator":
        # Its mapping would point at definitions that are not there any more.
        return {name: item for name, item in value.items() if name != "mapping"}
    return value
