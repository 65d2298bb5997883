"""`perago-worker tasks`: what is in the embedded queue and what became of it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from perago_worker.cli.exits import Exit
from perago_worker.cli.options import ConfigOption, embedded_only, open_config, opened_local_queue
from perago_worker.config import LocalStoreSettings, WorkerConfig
from perago_worker.telemetry.summary import SHORT_ID, SHORT_REF
from perago_worker.telemetry.text import aligned, visible

if TYPE_CHECKING:
    from perago_worker.adapters.local.queue_records import TaskRecord

USE_CONDUCTOR = "with Conductor, look at the workflow in its UI (or GET /api/workflow/ID)"
ALL = 1_000_000_000
HEADINGS = ("SCHEDULED", "TASK", "TASK ID", "TRY", "STATUS", "SECONDS", "OUTPUT REF", "REASON")


def tasks(
    ctx: typer.Context,
    *,
    limit: Annotated[int, typer.Option(min=1, help="Show the latest so many tasks.")] = 20,
    as_json: Annotated[
        bool, typer.Option("--json", help="Everything that is known of them, as JSON.")
    ] = False,
    log: Annotated[
        str | None,
        typer.Option(
            metavar="TASK_ID",
            help="Show the log of one task; the beginning of its id is enough.",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Show what is in the embedded queue and what became of it.

    Needs queue.kind = "local". The latest tasks come first.
    """
    loaded = open_config(ctx, config)
    embedded_only(loaded, "queue", instead=USE_CONDUCTOR)

    with opened_local_queue(loaded) as queue:
        records = queue.tasks(limit=limit if log is None else ALL)
    if log is not None:
        records = [_the_one(records, log)]
    if as_json:
        typer.echo(json.dumps([record.model_dump(mode="json") for record in records], indent=2))
    elif log is not None:
        _show_log(records[0])
    else:
        _show_table(loaded, records)


def _the_one(records: Sequence[TaskRecord], start: str) -> TaskRecord:
    found = [record for record in records if record.task_id.startswith(start)]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} tasks have ids that begin with" if found else "there is no task"
    typer.echo(f"{what} {start}", err=True)
    raise typer.Exit(Exit.UNEXPECTED)


def _show_log(record: TaskRecord) -> None:
    reason = f": {record.reason}" if record.reason else ""
    typer.echo(visible(f"{record.task_type} {record.task_id} {record.status}{reason}"))
    for line in record.log:
        typer.echo(visible(f"  {line}"))
    if not record.log:
        typer.echo("  (nothing in its log)")


def _show_table(config: WorkerConfig, records: Sequence[TaskRecord]) -> None:
    if not records:
        typer.echo("The queue is empty. Put a task in with: perago-worker submit --help")
        return
    rows = [tuple(map(visible, _cells(record))) for record in records]
    if sys.stdout.isatty():
        _print_for_people(rows)
    else:
        typer.echo(aligned([HEADINGS, *rows]), nl=False)
    if hints := _git_hints(config, records):
        typer.echo("\nWhat was published:")
        for hint in hints:
            typer.echo(f"  {hint}")


def _print_for_people(rows: Sequence[tuple[str, ...]]) -> None:
    """Print lines short enough for a terminal, and below them why tasks failed."""
    short = [(*row[:2], row[2][:SHORT_ID], *row[3:6], row[6][:SHORT_REF]) for row in rows]
    typer.echo(aligned([HEADINGS[:-1], *short]))
    for row in rows:
        if row[-1] != "-":
            typer.echo(f"{row[2][:SHORT_ID]}  {row[-1]}")


def _cells(record: TaskRecord) -> tuple[str, ...]:
    scheduled = datetime.fromtimestamp(record.scheduled_time_ms / 1000).astimezone()
    return (
        scheduled.strftime("%Y-%m-%d %H:%M:%S"),
        record.task_type,
        record.task_id,
        str(record.retry_count),
        record.status,
        _seconds(record),
        (_published(record) or ("", "", "-"))[2],
        record.reason or "-",
    )


def _seconds(record: TaskRecord) -> str:
    if not record.start_time_ms or not record.end_time_ms:
        return "-"
    return f"{(record.end_time_ms - record.start_time_ms) / 1000:.1f}"


def _published(record: TaskRecord) -> tuple[str, str, str] | None:
    """Return repository, branch and commit of a task's output."""
    workspace = record.output.get("workspace")
    if not isinstance(workspace, dict):
        return None
    repository, branch, ref = (
        str(workspace.get(key, "")) for key in ("repository", "branch", "ref")
    )
    return (repository, branch, ref) if repository and ref else None


def _git_hints(config: WorkerConfig, records: Sequence[TaskRecord]) -> list[str]:
    if not isinstance(config.store, LocalStoreSettings):
        return []
    places = dict.fromkeys(place[:2] for record in records if (place := _published(record)))
    return [
        shlex.join(
            [
                "git",
                f"--git-dir={config.store.path / f'{repository}.git'}",
                "log",
                "--stat",
                "--first-parent",
                branch,
            ]
        )
        for repository, branch in places
    ]
