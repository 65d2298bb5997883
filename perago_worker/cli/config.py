"""`perago-worker config`: what can be configured, what is, and where that comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from perago_worker.cli.exits import UsageError
from perago_worker.cli.options import ConfigOption, config_path
from perago_worker.config import load_config
from perago_worker.config.json_schema import json_schema
from perago_worker.config.loading import origins_of
from perago_worker.config.schema import SECTIONS, expectation, nearest
from perago_worker.config.settings import Section, TaskSettings, WorkerConfig
from perago_worker.telemetry.text import aligned, visible

config_app = typer.Typer(
    help="What can be configured, what is, and where that comes from.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@config_app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    typer.echo(json.dumps(json_schema(), indent=2))


@config_app.command()
def show(
    ctx: typer.Context,
    *,
    origins: Annotated[
        bool, typer.Option("--origins", help="Say where each value comes from.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Show every value that holds. Secrets are in files, whose names are shown."""
    path = config_path(ctx, config)
    loaded = load_config(path)
    where = origins_of(path)
    rows = [
        (f"{key} = {shown}", f"# {where.get(key, 'default')}" if origins else "")
        for key, shown in values_of(loaded).items()
    ]
    typer.echo(aligned([[visible(cell) for cell in row] for row in rows]), nl=False)


@config_app.command()
def explain(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Such as worker.drain_timeout.")],
) -> None:
    """Say what a key means, what it takes, and its default."""
    known = explanations()
    if key not in known:
        match = nearest(key, known)
        raise UsageError(
            f"there is no key {key!r}" + (f"; did you mean {match!r}?" if match else "")
        )
    typer.echo(known[key])


def values_of(config: WorkerConfig) -> dict[str, str]:
    """Return every key with its value, as it is spelled in a file or nearly so."""
    values = {
        f"{section}.{key}": _shown(value)
        for section in SECTIONS
        for key, value in getattr(config, section)
    }
    for name, task in config.tasks.items():
        for key in sorted(task.model_fields_set):
            values[f"tasks.{json.dumps(name)}.{key}"] = _shown(getattr(task, key))
    return values


def explanations() -> dict[str, str]:
    """Return what there is to say about each key; those of tasks are called `tasks.KEY`."""
    models: list[tuple[str, str, type[Section]]] = [
        (section, kind, model)
        for section, kinds in SECTIONS.items()
        for kind, model in kinds.items()
    ]
    texts: dict[str, str] = {}
    models.append(("tasks", "", TaskSettings))
    for section, kind, model in models:
        for name, field in model.model_fields.items():
            text = " ".join((field.description or "").split())
            only = f' (with {section}.kind = "{kind}")' if kind and name != "kind" else ""
            default = "required" if field.is_required() else _shown(field.default)
            texts.setdefault(
                f"{section}.{name}",
                f"{section}.{name}{only}\n{text}\nexpected: {expectation(field)}\n"
                f"default: {default}"
                + (
                    f"\nenvironment: PERAGO_{section.upper()}__{name.upper()}"
                    if section != "tasks"
                    else ""
                ),
            )
    return texts


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return json.dumps(str(value) if isinstance(value, Path) else value)
