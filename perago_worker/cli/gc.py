"""`perago-worker gc`: what killed workers left behind, and its removal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Annotated, Literal

import typer

from perago_worker.adapters.system import SystemClock
from perago_worker.attempt.directories import remove_if_dead, worker_directories
from perago_worker.cli.exits import Exit, UsageError
from perago_worker.cli.options import ConfigOption, open_config, opened_queue, refusals_of
from perago_worker.config import LocalStoreSettings, WorkerConfig
from perago_worker.config.values import parse_duration
from perago_worker.errors import NotFound, QueueUnavailable, StoreError
from perago_worker.ports import TaskEnd, TaskQueue, WorkspaceStore
from perago_worker.runtime.janitor import FoundStage, StageSurvey
from perago_worker.telemetry.text import aligned, visible

HEADINGS = ("WHAT", "REPOSITORY", "NAME", "AGE", "TASK ID", "TASK", "ACTION")
_SENTENCES = {
    "removed": "{} removed.",
    "failed": "{} could not be removed.",
    "remove": "{} can be removed: say so with --apply.",
    "keep": "{} kept.",
}
_AGE_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


class Format(StrEnum):
    """Values of `--format`."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True)
class Item:
    """Something that was found.

    Attributes:
        repository: Where a stage is; None for a directory.
        name: Of the branch or folder.
        age_seconds: Since a stage was made; since an attempt last began or ended in a directory.
        task_id: The task that made a stage; None when there is none or its name does not tell.
        task_end: What became of that task.
        action: What was done, or is to be done with `--apply`.
        reason: Why it is kept, or could not be removed.
    """

    kind: Literal["stage", "directory"]
    repository: str | None
    name: str
    age_seconds: float | None
    task_id: str | None
    task_end: TaskEnd | None
    action: Literal["keep", "remove", "removed", "failed"]
    reason: str | None


def gc(
    ctx: typer.Context,
    repositories: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REPOSITORY",
            help="Look for stages there.  [default with the embedded store: all]",
            show_default=False,
        ),
    ] = None,
    *,
    older_than: Annotated[
        str, typer.Option(metavar="DURATION", help="Keep stages that are younger than this.")
    ] = "1h",
    apply: Annotated[
        bool,
        typer.Option("--apply", help="Remove what can be removed, instead of only showing it."),
    ] = False,
    output: Annotated[
        Format, typer.Option("--format", help="How to show what was found.", case_sensitive=False)
    ] = Format.TEXT,
    config: ConfigOption = None,
) -> None:
    """Find what killed workers left behind, and remove it with --apply.

    That is hidden stages in the store whose task has ended, and directories below workspace.root
    whose worker is gone. Stages of tasks the queue does not know are kept for a day; branches on
    which a fence was tried go once they are an hour old.
    """
    loaded = open_config(ctx, config)
    names = _repositories(loaded, repositories or ())
    min_age_s = _duration(older_than)
    with _opened(loaded) as (queue, store):
        items = [*_find_stages(names, queue, store, min_age_s), *_find_directories(loaded)]
        if apply:
            items = [_remove(item, loaded, store) for item in items]
    if output is Format.JSON:
        typer.echo(json.dumps([asdict(item) for item in items], indent=2))
    else:
        _show(items)
    if failed := [item.kind for item in items if item.action == "failed"]:
        raise typer.Exit(Exit.UNREACHABLE if "stage" in failed else Exit.UNEXPECTED)


def _repositories(config: WorkerConfig, named: Sequence[str]) -> list[str]:
    if named:
        return list(dict.fromkeys(named))
    if isinstance(config.store, LocalStoreSettings):
        return sorted(path.stem for path in config.store.path.glob("*.git"))
    raise UsageError(
        f'store.kind is "{config.store.kind}": name the repositories to look at; '
        "only the embedded store is looked at as a whole"
    )


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError:
        raise UsageError(
            f"--older-than {text!r} is no duration; write it like 30m, 1h or 7d"
        ) from None


@contextmanager
def _opened(config: WorkerConfig) -> Iterator[tuple[TaskQueue, WorkspaceStore]]:
    from perago_worker.bootstrap.adapters import open_store

    try:
        with (
            opened_queue(config) as queue,
            refusals_of(config, "store"),
            closing(open_store(config)) as store,
        ):
            yield queue, store
    except QueueUnavailable as error:
        raise QueueUnavailable(
            f"nothing was removed, since the queue does not tell which tasks have ended: {error}"
        ) from error


def _find_stages(
    names: Sequence[str], queue: TaskQueue, store: WorkspaceStore, min_age_s: float
) -> list[Item]:
    """Look at everything before anything is removed: a queue that fails us keeps all of it."""
    survey = StageSurvey(queue=queue, store=store, clock=SystemClock(), min_age_s=min_age_s)
    return [_item(stage) for name in names for stage in _stages_of(name, survey)]


def _stages_of(name: str, survey: StageSurvey) -> list[FoundStage]:
    try:
        return list(survey.of(name))
    except NotFound as error:
        raise UsageError(str(error)) from error


def _item(stage: FoundStage) -> Item:
    return Item(
        kind="stage",
        repository=stage.repository,
        name=stage.name,
        age_seconds=stage.age_s,
        task_id=stage.task_id,
        task_end=stage.end,
        action="remove" if stage.keep is None else "keep",
        reason=stage.keep,
    )


def _find_directories(config: WorkerConfig) -> list[Item]:
    now = SystemClock().time()
    return [
        Item(
            kind="directory",
            repository=None,
            name=directory.path.name,
            age_seconds=now - directory.changed_at,
            task_id=None,
            task_end=None,
            action="remove" if directory.dead else "keep",
            reason=None if directory.dead else "its worker is running",
        )
        for directory in worker_directories(config.workspace.root)
    ]


def _remove(item: Item, config: WorkerConfig, store: WorkspaceStore) -> Item:
    if item.action != "remove":
        return item
    try:
        if item.repository is not None:
            store.drop_stage(item.repository, item.name)
        else:
            remove_if_dead(config.workspace.root / item.name)
    except (StoreError, OSError) as error:
        return replace(item, action="failed", reason=str(error))
    return replace(item, action="removed")


# --- for people -----------------------------------------------------------------------------------


def _show(items: Sequence[Item]) -> None:
    if not items:
        typer.echo("Nothing was found: no stages, no directories of workers.")
        return
    rows = [tuple(map(visible, _cells(item))) for item in items]
    typer.echo(aligned([HEADINGS, *rows]), nl=False)
    said = [
        sentence.format(count)
        for action, sentence in _SENTENCES.items()
        if (count := sum(item.action == action for item in items))
    ]
    typer.echo("\n" + " ".join(said))


def _cells(item: Item) -> tuple[str, ...]:
    return (
        item.kind,
        item.repository or "-",
        item.name,
        _age(item.age_seconds),
        item.task_id or "-",
        item.task_end or "-",
        f"{item.action}: {item.reason}" if item.reason else item.action,
    )


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for size, unit in _AGE_UNITS:
        if seconds >= size:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds:.0f}s"
