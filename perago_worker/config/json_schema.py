"""The settings as JSON Schema, for editors and other checks of a configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from perago_worker.config.schema import SECTIONS, choices_of, expectation, written_as
from perago_worker.config.settings import Section, TaskSettings

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TYPES: dict[str, list[str]] = {
    "list": ["array"],
    "table": ["object"],
    "number": ["integer"],
    "truth": ["boolean"],
}


def json_schema() -> dict[str, Any]:
    """Return the schema of a whole file.

    It knows names, types and choices; what goes beyond, such as that a file exists, is found when
    the configuration is loaded.
    """
    sections = {name: _section(kinds) for name, kinds in SECTIONS.items()}
    return {
        "$schema": DIALECT,
        "title": "perago-worker configuration",
        "type": "object",
        "additionalProperties": False,
        "required": ["worker", "queue", "store"],
        "properties": {
            **sections,
            "tasks": {"type": "object", "additionalProperties": _model(TaskSettings)},
        },
    }


def _section(kinds: dict[str, type[Section]]) -> dict[str, Any]:
    models = [_model(model, kind) for kind, model in kinds.items()]
    return models[0] if len(models) == 1 else {"oneOf": models}


def _model(model: type[Section], kind: str = "") -> dict[str, Any]:
    fields = model.model_fields
    required = {key for key, field in fields.items() if field.is_required()}
    schema: dict[str, Any] = {
        "type": "object",
        "description": " ".join((model.__doc__ or "").split()),
        "additionalProperties": False,
        "properties": {key: _key(field) for key, field in fields.items()},
    }
    if kind:
        required.add("kind")
        schema["properties"]["kind"] = {"const": kind}
    return {**schema, "required": sorted(required)} if required else schema


def _key(field: FieldInfo) -> dict[str, Any]:
    text = " ".join((field.description or "").split())
    schema: dict[str, Any] = {"description": f"{text} Expected: {expectation(field)}."}
    if choices := choices_of(field):
        schema["enum"] = list(choices)
    else:
        schema["type"] = _TYPES.get(written_as(field), ["string", "number"])
    if field.default not in (None, PydanticUndefined):
        default = field.default
        plain = list(map(str, default)) if isinstance(default, tuple) else default
        schema["default"] = str(plain) if isinstance(plain, Path) else plain
    return schema
