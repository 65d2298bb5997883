"""The words for what is wrong: what was found, and what is expected instead."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from perago_worker.config.schema import (
    SECTION_NAMES,
    SECTIONS,
    expectation,
    fields_of,
    is_secret,
    nearest,
)
from perago_worker.config.settings import Section


def wrong_value(info: FieldInfo, details: ErrorDetails) -> str:
    """Return the message for a key whose value pydantic refused."""
    if details["type"] == "missing":
        return f"is missing; expected {expectation(info)}"
    reason = str(details.get("ctx", {}).get("error", ""))
    if details["type"] == "value_error" and reason:
        return reason
    got = "something else" if is_secret(info) else shown(details["input"])
    return f"got {got}; expected {expectation(info)}"


def unknown_section(name: str, value: object) -> str:
    """Return the message for a name at the top of the file that is no section."""
    if not isinstance(value, dict):
        keys = {key: section for section in SECTIONS for key in fields_of(section)}
        if key := nearest(name, keys):
            return f"stands outside of all sections; did you mean {key} in [{keys[key]}]?"
    if match := nearest(name, SECTION_NAMES):
        return f"unknown section; did you mean [{match}]?"
    return f"unknown section; the sections are {', '.join(SECTION_NAMES)}"


def unknown_key(model: type[Section], value: object, path: Sequence[str], key: str) -> str:
    """Return the message for a key that its section, at `path`, does not have.

    The value is never repeated: it may be a secret.
    """
    return next(_guesses(model, value, path, key))


def _guesses(model: type[Section], value: object, path: Sequence[str], key: str) -> Iterator[str]:
    """Yield what may be meant, the surest guess first."""
    own = model.model_fields
    if f"{key}_file" in own:
        yield f"secrets stay out of here: write it to a file and name it with {key}_file"
    if path[0] == "tasks" and isinstance(value, dict):
        yield f'unknown key; a name with dots needs quotes: [tasks."{path[-1]}.{key}"]'
    for kind, other in SECTIONS.get(path[0], {}).items():
        for name in (key, f"{key}_file"):
            if name in other.model_fields:
                yield f'{name} is a key of kind = "{kind}", and this is another kind'
    if match := nearest(key, own):
        yield f"unknown key; did you mean {match}?"
    holders = [f"[{section}]" for section in SECTIONS if key in fields_of(section)]
    if holders:
        yield f"unknown key; it belongs in {' or '.join(holders)}"
    yield f"unknown key; [{dotted(path)}] has {', '.join(own)}"


def shown(value: object) -> str:
    """Return a value as TOML would spell it, short, and without what looks like a password."""
    if isinstance(value, dict):
        return "a table"
    if value is None:
        return "nothing"
    text = json.dumps(value, default=str, ensure_ascii=False)
    if "@" in text:
        return "a value with an @ in it"
    return text if len(text) <= 80 else f"{text[:79]}…"


def dotted(path: Iterable[str]) -> str:
    """Return a key as TOML spells it, quoted where it has to be."""
    return ".".join(
        part if part.replace("_", "").replace("-", "").isalnum() else json.dumps(part)
        for part in path
    )
