"""`perago-worker submit`: put a task into the embedded queue."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from perago_worker.cli.exits import UsageError
from perago_worker.cli.options import (
    ConfigOption,
    config_path,
    embedded_only,
    find_tasks,
    open_config,
    opened_local_queue,
    refusals_of,
    warnings_on_stderr,
)
from perago_worker.config import WorkerConfig
from perago_worker.errors import NotFound
from perago_worker.models import CommitInfo, WorkspaceInput
from perago_worker.task import TaskDefinition
from perago_worker.taskdef import build_taskdef

USE_CONDUCTOR = (
    "with Conductor, start a workflow that has the task in it (POST /api/workflow/NAME, or its UI)"
)
USE_LAKEFS = "with lakeFS, upload the files to a branch and commit them (lakectl fs upload, commit)"


def submit(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(help="Name of the task.")],
    *,
    params: Annotated[
        str,
        typer.Option(metavar="JSON", help="The task's params, as JSON, or @FILE with JSON in it."),
    ] = "{}",
    workspace: Annotated[
        str | None,
        typer.Option(
            metavar="REPO[@BRANCH]",
            help="Repository and branch the task works on; the branch is main unless given.",
            show_default=False,
        ),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--import",
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="First commit the files of this folder to the branch; both are made if missing.",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Put a task into the embedded queue.

    Needs queue.kind = "local". The params are checked first; nothing is queued that the task
    would refuse.
    """
    loaded = open_config(ctx, config)
    embedded_only(loaded, "queue", instead=USE_CONDUCTOR)
    if directory is not None:
        embedded_only(loaded, "store", instead=USE_LAKEFS)
    (definition,) = find_tasks(loaded, [task])
    task_input: dict[str, Any] = {"params": _read_params(definition, params)}
    place = _place(definition, workspace, directory)
    if place is not None:
        commit = _commit(loaded, *place, directory)
        task_input = {"workspace": _workspace_input(*place, commit), **task_input}
    task_id, workflow_id = _queue_up(loaded, definition, task_input)
    command = f"perago-worker --config {config_path(ctx, config)}"
    typer.echo(f"task {task_id} of {task} waits in the queue, in workflow {workflow_id}")
    typer.echo(f"  run it:   {command} --until-idle")
    typer.echo(f"  look:     {command} tasks")


def _read_params(definition: TaskDefinition, text: str) -> dict[str, Any]:
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--params: cannot read {text[1:]}: {error}") from None
    try:
        params = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--params: is not JSON: {error}") from None
    if not isinstance(params, dict):
        raise UsageError(
            f'--params: got {text}; expected a JSON object, such as {{"name": "value"}}'
        )
    try:
        definition.validate_params(params)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, details['loc'])) or 'params'}: {details['msg']}"
            for details in error.errors(include_url=False, include_context=False)
        )
        raise UsageError(f"--params: not what {definition.name} takes: {problems}") from None
    return params


def _place(
    definition: TaskDefinition, workspace: str | None, directory: Path | None
) -> tuple[str, str] | None:
    """Return repository and branch; None for a task without a workspace."""
    if not definition.has_workspace:
        if workspace is not None or directory is not None:
            raise UsageError(
                f"--workspace: {definition.name} works without a workspace; leave it out"
            )
        return None
    if workspace is None:
        raise UsageError(f"--workspace: is missing; {definition.name} works on REPO[@BRANCH]")
    repository, _, branch = workspace.partition("@")
    if not repository:
        raise UsageError(f"--workspace: got {workspace!r}; expected REPO[@BRANCH]")
    return repository, branch or "main"


def _commit(
    config: WorkerConfig, repository: str, branch: str, directory: Path | None
) -> CommitInfo:
    """Return the commit to start from: the head of the branch, after importing."""
    from perago_worker.bootstrap.adapters import open_local_store, open_store

    if directory is None:
        with closing(open_store(config)) as store:
            with refusals_of(config, "store"):
                store.ping()
            try:
                return store.head(repository, branch)
            except NotFound as error:
                raise UsageError(f"--workspace: {error}{_hint(config)}") from None
    with closing(open_local_store(config)) as local:
        commit = local.import_directory(
            repository, branch, directory, f"Import {directory.resolve().name}"
        )
    typer.echo(f"imported {directory} into {repository}@{branch}, commit {commit.id}")
    return commit


def _hint(config: WorkerConfig) -> str:
    return "; --import DIR makes it" if config.store.kind == "local" else ""


def _workspace_input(repository: str, branch: str, commit: CommitInfo) -> dict[str, Any]:
    return WorkspaceInput(
        repository=repository, branch=branch, ref_type="commit", ref=commit.id
    ).model_dump(mode="json")


def _queue_up(
    config: WorkerConfig, definition: TaskDefinition, task_input: dict[str, Any]
) -> tuple[str, str]:
    """Register the task as it is declared now, and queue it; return task id and workflow id."""
    with warnings_on_stderr():
        taskdef = build_taskdef(definition)
    with opened_local_queue(config) as queue:
        queue.register_taskdef(taskdef)
        submitted = queue.submit(
            definition.name, task_input, domain=config.task(definition.name).domain
        )
    return submitted.task_id, submitted.workflow_id
