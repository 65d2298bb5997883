"""Where values come from: the file, then environment variables over it. Nothing is judged here yet.

An environment variable is called `PERAGO_<SECTION>__<KEY>`. Its value is text as in the file, but
without quotes; lists are JSON; an empty value of a key that may be unset unsets it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from perago_worker.config.schema import (
    SECTIONS,
    expectation,
    fields_of,
    is_optional,
    nearest,
    written_as,
)
from perago_worker.config.toml_lines import TomlLines
from perago_worker.errors import ConfigProblem

PREFIX = "PERAGO_"


@dataclass
class Document:
    """The file as read.

    Attributes:
        content: What is in it, changed by overrides.
        variables: Which environment variable the value of a (section, key) came from.
    """

    path: Path
    text: str
    content: dict[str, Any]
    variables: dict[tuple[str, str], str] = field(default_factory=dict)

    @cached_property
    def _lines(self) -> TomlLines:
        return TomlLines(self.text)

    def where(self, *key: str) -> str:
        """Return where the value of a key, or what is nearest around it, was written."""
        variable = self.variables.get((key[0], key[1])) if len(key) >= 2 else None
        if variable:
            return variable
        line = self._lines.find(key)
        return f"{self.path}:{line}" if line else str(self.path)


def read_file(path: Path, problems: list[ConfigProblem]) -> Document | None:
    """Read a TOML file; on failure say why in `problems` and return None."""
    try:
        text = path.read_bytes().decode()
        return Document(path=path, text=text, content=tomllib.loads(text))
    except FileNotFoundError:
        message = "there is no such file; name another with --config or PERAGO_CONFIG"
        problems.append(ConfigProblem(str(path), "", message))
    except OSError as error:
        problems.append(ConfigProblem(str(path), "", f"cannot be read: {error.strerror}"))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        problems.append(ConfigProblem(f"{path}:{line}", "", "is not UTF-8 text"))
    except tomllib.TOMLDecodeError as error:
        problems.append(_syntax_problem(path, text, str(error)))
    return None


def _syntax_problem(path: Path, text: str, message: str) -> ConfigProblem:
    match = re.fullmatch(r"(?P<what>.*?) \(at (?:line (?P<line>\d+).*|end of document)\)", message)
    what = match["what"] if match else message
    line = int(match["line"]) if match and match["line"] else max(1, len(text.splitlines()))
    return ConfigProblem(f"{path}:{line}", "", f"is not valid TOML: {what[:1].lower()}{what[1:]}")


# --- environment ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Override:
    """One environment variable that stands for a key."""

    variable: str
    section: str
    key: str
    value: Any


def read_overrides(
    environ: Mapping[str, str], problems: list[ConfigProblem], warnings: list[ConfigProblem]
) -> list[Override]:
    """Read all `PERAGO_<SECTION>__<KEY>`; those that stand for no key become problems."""
    names = _override_names()
    overrides = []
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX):
            continue
        if variable in names:
            section, key = names[variable]
            override = _override(variable, section, key, text, problems)
            overrides += [override] if override else []
        elif "__" in variable:
            problems.append(ConfigProblem(variable, "", _unknown_message(variable, names)))
        elif meant := _meant_with_one_underscore(variable, names):
            warnings.append(ConfigProblem(variable, "", f"has no effect; did you mean {meant}?"))
    return overrides


def _override_names() -> dict[str, tuple[str, str]]:
    return {
        f"{PREFIX}{section}__{key}".upper(): (section, key)
        for section in SECTIONS
        for key in fields_of(section)
    }


def _unknown_message(variable: str, names: Mapping[str, tuple[str, str]]) -> str:
    section, _, key = variable.removeprefix(PREFIX).lower().partition("__")
    if section == "tasks":
        return "stands for no key; settings of single tasks are given in the file only"
    if section not in SECTIONS:
        match = nearest(variable, names, cutoff=0.75)
        hint = f"did you mean {match}?" if match else f"the sections are {', '.join(SECTIONS)}"
        return f"stands for no key; {hint}"
    meant = [f"{section}__{match}"] if (match := nearest(key, fields_of(section))) else []
    meant += [f"{other}__{key}" for other in SECTIONS if key in fields_of(other)]
    if meant:
        return f"stands for no key; did you mean {PREFIX}{meant[0].upper()}?"
    return f"stands for no key; [{section}] has {', '.join(fields_of(section))}"


def _meant_with_one_underscore(variable: str, names: Mapping[str, tuple[str, str]]) -> str | None:
    """Only exact names count: Kubernetes sets PERAGO_..._PORT and the like for its services."""
    return next((name for name in names if name.replace("__", "_") == variable), None)


def _override(
    variable: str, section: str, key: str, text: str, problems: list[ConfigProblem]
) -> Override | None:
    info = fields_of(section)[key]
    try:
        return Override(variable, section, key, _value(info, text))
    except ValueError:
        message = f"got {json.dumps(text)}; expected {expectation(info)}, as JSON"
        problems.append(ConfigProblem(variable, f"{section}.{key}", message))
        return None


def _value(info: FieldInfo, text: str) -> Any:
    if not text.strip() and is_optional(info):
        return None
    match written_as(info):
        case "list" | "table":
            return json.loads(text)
        case "number" if re.fullmatch(r"\s*[+-]?\d+\s*", text):
            return int(text)
        case "truth" if text.strip().lower() in {"true", "false"}:
            return text.strip().lower() == "true"
        case _:
            return text
