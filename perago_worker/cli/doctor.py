"""`perago-worker doctor`: everything around a worker that can be in its way, in one look."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from perago_worker._version import __version__
from perago_worker.cli.check import (
    Report,
    look_at_config,
    look_at_folders,
    look_at_queue,
    look_at_store,
    look_at_tasks,
    warn_of_drift,
)
from perago_worker.cli.diagnosis import Diagnosis
from perago_worker.cli.doctor_files import examine_files
from perago_worker.cli.doctor_machine import examine_machine
from perago_worker.cli.doctor_servers import Clocks, Server, reach, servers_of
from perago_worker.cli.doctor_store import examine_repository
from perago_worker.cli.doctor_tasks import examine_times
from perago_worker.cli.options import ConfigOption, config_path
from perago_worker.config import WorkerConfig, secret_values

NOT_WITHOUT = "The worker does not start without it."


def doctor(
    ctx: typer.Context,
    repositories: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REPOSITORY[@BRANCH]",
            help="Places of the store whose permissions and fence to look at; main unless a branch "
            "is named.",
            show_default=False,
        ),
    ] = None,
    *,
    write: Annotated[
        bool,
        typer.Option(
            "--write", help="Try what a worker writes as well: a hidden branch, removed again."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Examine configuration, modules, machine and servers; say what to do about what is wrong.

    Each thing is OK, WARN or FAIL. The exit code is 0 without a FAIL; else 2 configuration or
    folders, 5 task modules, 4 not authorised, 3 unreachable, 1 anything else. Nothing is changed
    without --write. What is printed holds no secret.
    """
    path = config_path(ctx, config)
    diagnosis = examine(path, repositories or [], write=write)
    if as_json:
        typer.echo(json.dumps(diagnosis.as_json(str(path)), indent=2, ensure_ascii=False))
    else:
        for line in diagnosis.lines:
            typer.echo(str(line))
        typer.echo(f"\nperago-worker {__version__}: {diagnosis.summary()}")
    raise typer.Exit(diagnosis.code)


def examine(path: Path, repositories: Sequence[str], *, write: bool) -> Diagnosis:
    """Look at everything, from what all else rests on to what rests on it."""
    diagnosis = Diagnosis()
    config = diagnosis.check(
        "config",
        lambda: look_at_config(path),
        why=NOT_WITHOUT,
        todo="correct it; perago-worker config explain KEY tells of one key",
    )
    if config is None:
        return diagnosis
    for problem in config.warnings:
        diagnosis.warn(
            "config",
            str(problem),
            why="It works, but perhaps not as meant.",
            todo=f"change it; perago-worker config show --origins --config {path} tells what holds",
        )
    definitions = diagnosis.check(
        "tasks",
        lambda: look_at_tasks(config),
        why="A task that cannot be loaded is not polled for, and the worker does not start.",
        todo="correct the module, or worker.modules and worker.python_path",
    )
    diagnosis.check(
        "folders",
        lambda: look_at_folders(config),
        why=NOT_WITHOUT,
        todo="make the folder and give it to the worker's user, or name another",
    )
    slots = _slots(config, definitions or {})
    examine_files(diagnosis, config, slots=slots)
    examine_machine(diagnosis, config, slots=slots)
    _examine_servers(diagnosis, config, definitions or {}, repositories, write=write)
    diagnosis.without_secrets(secret_values(config))
    return diagnosis


def _slots(config: WorkerConfig, definitions: Mapping[str, Any]) -> int:
    return sum(config.task(name).concurrency for name in definitions) or 1


def _examine_servers(
    diagnosis: Diagnosis,
    config: WorkerConfig,
    definitions: dict[str, dict[str, Any]],
    repositories: Sequence[str],
    *,
    write: bool,
) -> None:
    clocks = Clocks()
    servers = servers_of(config)
    reached = {section: reach(diagnosis, server) for section, server in servers.items()}
    if reached.get("queue", True):
        registered = diagnosis.check(
            "queue",
            lambda: look_at_queue(config, definitions, listener=clocks),
            why="Without the queue there is no work.",
            todo=_todo(servers.get("queue")),
        )
        if registered is not None:
            if config.queue.kind != "local":
                _note_drift(diagnosis, registered, definitions)
            examine_times(diagnosis, config, registered)
    if reached.get("store", True):
        answers = diagnosis.check(
            "store",
            lambda: (True, look_at_store(config, listener=clocks)[1]),
            why="Without the store no workspace comes or goes.",
            todo=_todo(servers.get("store")),
        )
        if answers:
            for place in repositories:
                examine_repository(diagnosis, config, place, write=write)
            if not repositories and servers.get("store"):
                diagnosis.ok(
                    "repositories", "none was named; name some to look at permissions and fence"
                )
    clocks.tell(diagnosis)


def _todo(server: Server | None) -> str:
    if server is None:
        return "see the path that the configuration names"
    return (
        f"look at the server's log; if it refuses, at the keys that {server.keys} name, which are "
        "read anew when they change"
    )


def _note_drift(
    diagnosis: Diagnosis,
    registered: dict[str, dict[str, Any] | None],
    definitions: dict[str, dict[str, Any]],
) -> None:
    report = Report()
    warn_of_drift(report, registered, definitions)
    for finding in report.findings:
        diagnosis.warn(
            "definitions",
            finding.message,
            why="Timeouts, retries and schemas are those that are registered.",
            todo="perago-worker taskdef diff, then perago-worker taskdef register",
        )
    if definitions and not report.findings:
        diagnosis.ok("definitions", f"{len(definitions)} registered as declared")
