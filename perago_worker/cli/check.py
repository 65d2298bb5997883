"""`perago-worker check`: everything that can be known to be wrong before a task is lost to it."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from perago_worker.cli.drift import changes
from perago_worker.cli.exits import Exit, exit_code
from perago_worker.cli.options import ConfigOption, config_path, opened_queue, refusals_of
from perago_worker.config import WorkerConfig, load_config
from perago_worker.errors import ConfigError, ConfigProblem, PeragoError
from perago_worker.events import Listener
from perago_worker.taskdef import build_taskdef

T = TypeVar("T")

_ORDER = (Exit.CONFIG, Exit.TASK_MODULE, Exit.UNAUTHORISED, Exit.UNREACHABLE, Exit.UNEXPECTED)


class Format(StrEnum):
    """Values of `--format`."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or better changed.

    Attributes:
        check: What was looked at: `config`, `tasks`, `folders`, `queue` or `store`.
        level: `error` or `warning`.
    """

    check: str
    level: str
    message: str
    where: str = ""
    key: str = ""

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.where, self.key, self.message) if part)
        return text if self.level == "error" else f"warning: {text}"


@dataclass
class Report:
    """What a check found.

    Attributes:
        passed: What is right, by what was looked at.
    """

    passed: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    codes: set[Exit] = field(default_factory=set)

    def run(self, name: str, look: Callable[[], tuple[T, str]]) -> T | None:
        """Look at something; note what is right with it, or the error that was raised."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            try:
                result, summary = look()
            except PeragoError as error:
                self._failed(name, error)
                return None
            finally:
                for message in dict.fromkeys(str(warning.message) for warning in caught):
                    self.warn(name, message)
        self.passed[name] = summary
        return result

    def warn(self, name: str, message: str, *, where: str = "", key: str = "") -> None:
        """Note something that works but is better changed."""
        self.findings.append(Finding(name, "warning", message, where, key))

    @property
    def code(self) -> Exit:
        """The exit code of the most basic thing that is wrong."""
        return next((code for code in _ORDER if code in self.codes), Exit.DONE)

    def _failed(self, name: str, error: PeragoError) -> None:
        self.codes.add(exit_code(error))
        if isinstance(error, ConfigError):
            self.findings += [
                Finding(name, "error", problem.message, problem.where, problem.key)
                for problem in error.problems
            ]
        else:
            self.findings.append(Finding(name, "error", str(error), key=name))


def check(
    ctx: typer.Context,
    *,
    connect: Annotated[
        bool,
        typer.Option(
            "--connect",
            help="Ask queue and store too, and compare task definitions.",
        ),
    ] = False,
    format_: Annotated[
        Format, typer.Option("--format", help="How to show what was found.", case_sensitive=False)
    ] = Format.TEXT,
    config: ConfigOption = None,
) -> None:
    """Check configuration, task modules and folders.

    The exit code tells what is wrong: 2 configuration or folders, 5 task modules, 4 not authorised,
    3 unreachable. Warnings do not count. Nothing is changed.
    """
    report = Report()
    path = config_path(ctx, config)
    loaded = report.run("config", lambda: look_at_config(path))
    if loaded is not None:
        _check_loaded(report, loaded, connect=connect)
    if format_ is Format.JSON:
        typer.echo(json.dumps(_as_json(report, path), indent=2, ensure_ascii=False))
    else:
        _show(report)
    raise typer.Exit(report.code)


def _check_loaded(report: Report, config: WorkerConfig, *, connect: bool) -> None:
    for problem in config.warnings:
        report.warn("config", problem.message, where=problem.where, key=problem.key)
    definitions = report.run("tasks", lambda: look_at_tasks(config))
    report.run("folders", lambda: look_at_folders(config))
    if connect:
        registered = report.run("queue", lambda: look_at_queue(config, definitions or {}))
        if config.queue.kind != "local":  # the embedded queue learns definitions from its worker
            warn_of_drift(report, registered or {}, definitions or {})
        report.run("store", lambda: look_at_store(config))


# --- one function for each thing that is looked at: its result, and a line about it ---------------


def look_at_config(path: Path) -> tuple[WorkerConfig, str]:
    """Load the configuration."""
    return load_config(path), str(path)


def look_at_tasks(config: WorkerConfig) -> tuple[dict[str, dict[str, Any]], str]:
    """Import the modules; return the definitions of their tasks by name."""
    from perago_worker.bootstrap.tasks import load_tasks

    tasks = load_tasks(config)
    return {task.name: build_taskdef(task) for task in tasks}, ", ".join(t.name for t in tasks)


def look_at_folders(config: WorkerConfig) -> tuple[None, str]:
    """Look whether the folders that are needed are there, or can be made."""
    problems = [
        ConfigProblem(str(config.source), key, message)
        for key, path in _folders_of(config)
        if (message := _unwritable(path))
    ]
    if problems:
        raise ConfigError(problems)
    return None, "can be written to"


def look_at_queue(
    config: WorkerConfig, names: Iterable[str], *, listener: Listener | None = None
) -> tuple[dict[str, dict[str, Any] | None], str]:
    """Ask the queue; return what definitions are registered under names."""
    with opened_queue(config, listener=listener) as queue:
        return {name: queue.taskdef(name) for name in names}, f"{config.queue.kind}, answers"


def look_at_store(config: WorkerConfig, *, listener: Listener | None = None) -> tuple[None, str]:
    """Ask the store who we are."""
    from perago_worker.bootstrap.adapters import open_store

    with (
        refusals_of(config, "store"),
        closing(open_store(config, listener=listener)) as store,
    ):
        store.ping()
    return None, f"{config.store.kind}, answers"


# --------------------------------------------------------------------------------------------------


def _folders_of(config: WorkerConfig) -> Iterable[tuple[str, Path]]:
    yield "workspace.root", config.workspace.root
    if config.queue.kind == "local":
        yield "queue.path", config.queue.path.parent
    if config.store.kind == "local":
        yield "store.path", config.store.path


def nearest_that_is_there(path: Path) -> Path:
    """Return a path, or the nearest of the folders above it that exists.

    Raises:
        OSError: One of them cannot be entered.
    """
    for place in (path, *path.parents):
        try:
            place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        return place
    return path


def _unwritable(path: Path) -> str | None:
    """Tell why nothing can be written to a folder, which may have to be made first."""
    try:
        nearest = nearest_that_is_there(path)
    except OSError as error:
        return f"{path} cannot be looked at by this user: {error.strerror}"
    if not nearest.is_dir():
        return f"{nearest} is a file; expected a folder"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"{nearest} cannot be written to by this user"
    return None


def warn_of_drift(
    report: Report,
    registered: dict[str, dict[str, Any] | None],
    definitions: dict[str, dict[str, Any]],
) -> None:
    """Note definitions that are not registered, or registered otherwise."""
    for name, known in registered.items():
        if known is None:
            report.warn("queue", f"{name} is not registered; see perago-worker taskdef register")
        elif count := len(changes(known, definitions[name])):
            fields = f"{count} field{'s' if count > 1 else ''}"
            report.warn(
                "queue", f"{name} differs from what is registered in {fields}; see taskdef diff"
            )


def _show(report: Report) -> None:
    for name, summary in report.passed.items():
        typer.echo(f"ok: {name}: {summary}")
    for finding in report.findings:
        typer.echo(str(finding), err=True)


def _as_json(report: Report, path: Path) -> dict[str, Any]:
    return {
        "ok": report.code is Exit.DONE,
        "exit_code": int(report.code),
        "config": str(path),
        "passed": report.passed,
        "findings": [asdict(finding) for finding in report.findings],
    }
