"""`perago-worker taskdef`: task definitions out of the code and into the queue."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from perago_worker.cli.drift import Change, changes
from perago_worker.cli.exits import Exit, UsageError
from perago_worker.cli.options import (
    ConfigOption,
    find_tasks,
    open_config,
    opened_queue,
    warnings_on_stderr,
)
from perago_worker.ports import TaskQueue
from perago_worker.task import TaskDefinition
from perago_worker.taskdef import build_taskdef

taskdef_app = typer.Typer(
    help="Export, compare and register task definitions.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Names = Annotated[
    list[str] | None,
    typer.Argument(help="Tasks; all unless given.", show_default=False),
]


@taskdef_app.command()
def export(
    ctx: typer.Context,
    names: Names = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            help="Write a file for each task into this folder.  [default: standard output]",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Write task definitions as JSON, in the form Conductor registers them in."""
    definitions = _build(find_tasks(open_config(ctx, config), names or ()))
    if output is None:
        typer.echo(_pretty(list(definitions.values())))
        return
    output.mkdir(parents=True, exist_ok=True)
    for name, definition in definitions.items():
        file = output / f"{name}.json"
        file.write_text(_pretty(definition) + "\n", encoding="utf-8")
        typer.echo(str(file))


@taskdef_app.command()
def diff(ctx: typer.Context, names: Names = None, config: ConfigOption = None) -> None:
    """Compare declared with registered task definitions; exit code 1 when they differ."""
    loaded = open_config(ctx, config)
    definitions = _build(find_tasks(loaded, names or ()))
    with opened_queue(loaded) as queue:
        found = _differences(queue, definitions)
    _show(found, total=len(definitions))
    if found:
        raise typer.Exit(Exit.UNEXPECTED)


@taskdef_app.command()
def register(
    ctx: typer.Context,
    names: Names = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Register task definitions, after showing what that changes.

    Fields that a declaration does not name keep their registered values. Running workflows keep
    the definitions they started with.
    """
    loaded = open_config(ctx, config)
    definitions = _build(find_tasks(loaded, names or ()))
    with opened_queue(loaded) as queue:
        found = _differences(queue, definitions)
        _show(found, total=len(definitions))
        if not found:
            return
        if not yes:
            _confirm(len(found))
        for name in found:
            queue.register_taskdef(definitions[name])
            typer.echo(f"registered {name}")


def _confirm(count: int) -> None:
    if not sys.stdin.isatty():
        raise UsageError("there is nobody to ask here; give --yes to register without asking")
    if not typer.confirm(f"Register {count} task definition{'s' if count > 1 else ''}?"):
        typer.echo("Nothing was changed.", err=True)
        raise typer.Exit(Exit.UNEXPECTED)


def _build(tasks: list[TaskDefinition]) -> dict[str, dict[str, Any]]:
    with warnings_on_stderr():
        return {task.name: build_taskdef(task) for task in tasks}


def _differences(
    queue: TaskQueue, definitions: dict[str, dict[str, Any]]
) -> dict[str, list[Change] | None]:
    """Return the changes by task; None stands for a task that is not registered at all."""
    found: dict[str, list[Change] | None] = {}
    for name, declared in definitions.items():
        registered = queue.taskdef(name)
        if registered is None:
            found[name] = None
        elif different := changes(registered, declared):
            found[name] = different
    return found


def _show(found: dict[str, list[Change] | None], *, total: int) -> None:
    for name, different in found.items():
        typer.echo(f"{name}: {'not registered' if different is None else 'differs'}")
        for change in different or ():
            typer.echo(f"  {change}")
    same = total - len(found)
    if same:
        typer.echo(f"{same} up to date" if found else f"all {total} up to date")


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
