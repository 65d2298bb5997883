"""From a file and an environment to a `WorkerConfig`, or to everything that is wrong with them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from perago_worker.config.messages import dotted, shown, unknown_key, unknown_section, wrong_value
from perago_worker.config.schema import SECTION_NAMES, SECTIONS, fields_of, is_secret, nearest
from perago_worker.config.settings import Section, TaskSettings, WorkerConfig
from perago_worker.config.sources import Document, Override, read_file, read_overrides
from perago_worker.errors import ConfigError, ConfigProblem

S = TypeVar("S", bound=Section)


def load_config(path: Path, *, environ: Mapping[str, str] | None = None) -> WorkerConfig:
    """Read and validate a configuration.

    Relative paths in it are taken from the folder of the file, in environment variables too.

    Args:
        path: A TOML file.
        environ: Environment variables; those of the process unless given.

    Raises:
        ConfigError: It cannot be used; holds every problem that was found, in order of appearance.
    """
    problems: list[ConfigProblem] = []
    warnings: list[ConfigProblem] = []
    overrides = read_overrides(os.environ if environ is None else environ, problems, warnings)
    document = read_file(path, problems)
    if document is None:
        raise ConfigError(problems)
    loader = _Loader(document, problems, warnings)
    loader.apply(overrides)
    config = loader.load()
    if config is None:
        raise ConfigError(sorted(problems, key=_order))
    return config


def origins_of(path: Path, *, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return where the values of a configuration come from that are not defaults.

    Keys are dotted; an origin is `file:line`, or the name of an environment variable.
    """
    document = read_file(path, [])
    origins = {}
    if document is not None:
        for section, table in document.content.items():
            for key, value in table.items() if isinstance(table, dict) else ():
                below = value if section == "tasks" and isinstance(value, dict) else {"": value}
                for name in below:
                    parts = [section, key, *([name] if name else [])]
                    origins[dotted(parts)] = document.where(*parts)
    for override in read_overrides(os.environ if environ is None else environ, [], []):
        origins[f"{override.section}.{override.key}"] = override.variable
    return origins


def check_task_names(config: WorkerConfig, names: Iterable[str]) -> None:
    """Check that every `[tasks."NAME"]` is about a task that exists.

    Raises:
        ConfigError: Some are not; holds all of them.
    """
    known = sorted(names)
    unknown = [name for name in config.tasks if name not in known]
    if not unknown:
        return
    document = read_file(config.source, [])
    problems = []
    for name in unknown:
        match = nearest(name, known)
        hint = f"did you mean {match!r}?" if match else f"the tasks are {', '.join(known)}"
        where = document.where("tasks", name) if document else str(config.source)
        message = f"no module has a task of this name; {hint}"
        problems.append(ConfigProblem(where, f"tasks.{json.dumps(name)}", message))
    raise ConfigError(problems)


def _order(problem: ConfigProblem) -> tuple[str, int]:
    name, _, line = problem.where.rpartition(":")
    return (name, int(line)) if line.isdigit() else (problem.where, 0)


def _without_echoes(errors: list[ErrorDetails]) -> Iterator[ErrorDetails]:
    """Leave out that a list is too short when that is because an item of it is wrong."""
    in_lists = {details["loc"][0] for details in errors if len(details["loc"]) > 1}
    for details in errors:
        if details["type"] != "too_short" or details["loc"][0] not in in_lists:
            yield details


def _likely_kind(section: str, values: Mapping[str, Any]) -> str:
    """Return the kind a section is most like, to go on looking for other problems in it."""
    kinds = SECTIONS[section]
    written = nearest(str(values.get("kind", "")), kinds)
    return written or max(kinds, key=lambda kind: len(kinds[kind].model_fields.keys() & values))


class _Loader:
    """Validates section by section, so that one that is wrong hides nothing in the others."""

    def __init__(
        self, document: Document, problems: list[ConfigProblem], warnings: list[ConfigProblem]
    ) -> None:
        self._document = document
        self._problems = problems
        self._warnings = warnings
        self._misspelt: set[str | None] = set()
        self._context = {"base": Path(os.path.abspath(document.path)).parent}  # noqa: PTH100

    def apply(self, overrides: Iterable[Override]) -> None:
        """Put values from the environment over those of the file."""
        content = self._document.content
        for override in overrides:
            section = content.setdefault(override.section, {})
            if isinstance(section, dict):
                section[override.key] = override.value
                self._document.variables[override.section, override.key] = override.variable

    def load(self) -> WorkerConfig | None:
        """Return the configuration, or None when there are problems."""
        self._check_section_names()
        sections = {name: self._section(name) for name in SECTIONS}
        tasks = self._tasks()
        if self._problems:
            return None
        return WorkerConfig.model_validate(
            {
                **sections,
                "tasks": tasks,
                "source": self._document.path,
                "warnings": tuple(self._warnings),
            }
        )

    # --- sections ---

    def _check_section_names(self) -> None:
        for name, value in self._document.content.items():
            if name not in SECTION_NAMES:
                self._report(unknown_section(name, value), name)
                self._misspelt.add(nearest(name, SECTION_NAMES))

    def _section(self, name: str) -> Section | None:
        if name in self._misspelt and name not in self._document.content:
            return None  # that it is there under a wrong name is reported already
        values = self._table(self._document.content.get(name, {}), name)
        if values is None:
            return None
        kinds = SECTIONS[name]
        kind = "" if "" in kinds else self._kind(name, values)
        if kind not in kinds:
            kind = _likely_kind(name, values)
            values = values | {"kind": kind}
        return self._validate(kinds[kind], self._of_kind(name, kind, values), name)

    def _table(self, values: object, *path: str) -> dict[str, Any] | None:
        if isinstance(values, dict):
            return values
        self._report(f"got {shown(values)}; expected a table, [{dotted(path)}]", *path)
        return None

    def _kind(self, section: str, values: Mapping[str, Any]) -> str:
        """Return the kind that is written, or an empty string once it is reported as wrong."""
        kind = values.get("kind")
        if isinstance(kind, str) and kind in SECTIONS[section]:
            return kind
        found = f"got {shown(kind)}" if "kind" in values else "is missing"
        expected = " or ".join(json.dumps(kind) for kind in SECTIONS[section])
        self._report(f"{found}; expected {expected}", section, "kind")
        return ""

    def _of_kind(self, section: str, kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Leave out what the file says about another kind than the one the environment chose."""
        if (section, "kind") not in self._document.variables:
            return dict(values)
        own = SECTIONS[section][kind].model_fields
        kept = {}
        for key, value in values.items():
            from_file = (section, key) not in self._document.variables
            if from_file and key not in own and key in fields_of(section):
                message = f'has no effect, since {section}.kind is "{kind}"'
                self._warn(message, section, key)
            else:
                kept[key] = value
        return kept

    def _tasks(self) -> dict[str, TaskSettings]:
        tables = self._table(self._document.content.get("tasks", {}), "tasks") or {}
        tasks = {}
        for name, values in tables.items():
            if name in TaskSettings.model_fields and not isinstance(values, dict):
                self._report(
                    'stands in [tasks]; write it in [tasks."NAME"] or [worker]', "tasks", name
                )
                continue
            table = self._table(values, "tasks", name)
            task = None if table is None else self._validate(TaskSettings, table, "tasks", name)
            if task is not None:
                tasks[name] = task
        return tasks

    # --- keys ---

    def _validate(self, model: type[S], values: dict[str, Any], *path: str) -> S | None:
        try:
            section = model.model_validate(values, context=self._context)
        except ValidationError as error:
            for details in _without_echoes(error.errors(include_url=False)):
                self._report_error(model, values, path, details)
            return None
        self._warn_of_open_secrets(section, path)
        return section

    def _report_error(
        self,
        model: type[Section],
        values: Mapping[str, Any],
        path: tuple[str, ...],
        details: ErrorDetails,
    ) -> None:
        key = str(details["loc"][0])
        if key not in model.model_fields:
            self._report(unknown_key(model, values[key], path, key), *path, key)
            return
        if details["type"] == "missing" and key.removesuffix("_file") in values:
            return  # the secret itself was written, and that is reported
        info = model.model_fields[key]
        index = "".join(f"[{part}]" for part in details["loc"][1:] if isinstance(part, int))
        self._report(wrong_value(info, details), *path, key, index=index)

    def _warn_of_open_secrets(self, section: Section, path: tuple[str, ...]) -> None:
        for key, info in type(section).model_fields.items():
            file = getattr(section, key)
            if file is None or not is_secret(info):
                continue
            if Path(file).stat().st_mode & stat.S_IROTH:
                self._warn("every user of this machine can read the file; chmod o= it", *path, key)

    def _report(self, message: str, *path: str, index: str = "") -> None:
        where = self._document.where(*path)
        self._problems.append(ConfigProblem(where, dotted(path) + index, message))

    def _warn(self, message: str, *path: str) -> None:
        self._warnings.append(ConfigProblem(self._document.where(*path), dotted(path), message))
