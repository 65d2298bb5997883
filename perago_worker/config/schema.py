"""What the settings models know about their own keys: names, expectations, nearest matches."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ByteSize
from pydantic.fields import FieldInfo

from perago_worker.config.settings import (
    ConductorQueueSettings,
    HttpSettings,
    LakeFSStoreSettings,
    LocalQueueSettings,
    LocalStoreSettings,
    LoggingSettings,
    PublishSettings,
    Section,
    WorkerSettings,
    WorkspaceSettings,
)
from perago_worker.config.values import Expected, Secret

SECTIONS: dict[str, dict[str, type[Section]]] = {
    "worker": {"": WorkerSettings},
    "queue": {"local": LocalQueueSettings, "conductor": ConductorQueueSettings},
    "store": {"local": LocalStoreSettings, "lakefs": LakeFSStoreSettings},
    "workspace": {"": WorkspaceSettings},
    "publish": {"": PublishSettings},
    "http": {"": HttpSettings},
    "logging": {"": LoggingSettings},
}
"""Section name to its models by kind; sections that come in one kind have it under the empty name.

`tasks` is not among them, since its keys are names of tasks.
"""

SECTION_NAMES = (*SECTIONS, "tasks")


def fields_of(section: str) -> dict[str, FieldInfo]:
    """Return the keys of a section, those of all its kinds together."""
    return {
        key: field
        for model in SECTIONS[section].values()
        for key, field in model.model_fields.items()
    }


def expectation(field: FieldInfo) -> str:
    """Return what a right value of the key looks like; ends the sentence "expected ..."."""
    for part in _parts(field):
        if isinstance(part, Expected):
            return part.phrase
    if choices := choices_of(field):
        *others, last = map(json.dumps, choices)
        return f"{', '.join(others)} or {last}" if others else last
    return "a string"


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """Return the words the key takes; nothing when it takes more than a few."""
    literals = [part for part in _parts(field) if get_origin(part) is Literal]
    return get_args(literals[0]) if literals else ()


def is_secret(field: FieldInfo) -> bool:
    """Tell whether the key names a file with a secret in it."""
    return any(isinstance(part, Secret) for part in _parts(field))


def is_optional(field: FieldInfo) -> bool:
    """Tell whether the key may be unset."""
    return type(None) in _parts(field)


def written_as(field: FieldInfo) -> Literal["list", "table", "number", "truth", "text"]:
    """Tell how an environment variable, which is always text, spells a value of the key."""
    for part in _parts(field):
        if get_origin(part) is tuple:
            return "list"
        if get_origin(part) is Mapping:
            return "table"
        if part is bool:
            return "truth"
        if part is int:
            return "number"
        if part is ByteSize:
            return "text"
    return "text"


def _parts(field: FieldInfo) -> Iterator[Any]:
    """Yield what a key's annotation is made of, from the outside in, lists not opened."""
    yield from field.metadata
    yield from _unfold(field.annotation)


def _unfold(annotation: Any) -> Iterator[Any]:
    yield annotation
    origin = get_origin(annotation)
    if origin in {Union, types.UnionType}:
        for arm in get_args(annotation):
            yield from _unfold(arm)
    elif hasattr(annotation, "__metadata__"):
        yield from annotation.__metadata__
        yield from _unfold(annotation.__origin__)


def nearest(name: str, among: Collection[str], *, cutoff: float = 0.6) -> str | None:
    """Return the name that somebody who wrote `name` most likely meant."""
    matches = difflib.get_close_matches(name, sorted(among), n=1, cutoff=cutoff)
    return matches[0] if matches else None
