"""The command itself: without a subcommand it is the daemon."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from perago_worker._version import __version__
from perago_worker.cli.check import check
from perago_worker.cli.config import config_app
from perago_worker.cli.doctor import doctor
from perago_worker.cli.exits import Commands, UsageError
from perago_worker.cli.fence import fence_app
from perago_worker.cli.gc import gc
from perago_worker.cli.options import Invocation, open_config
from perago_worker.cli.status import stacks, status
from perago_worker.cli.submit import submit
from perago_worker.cli.taskdef import taskdef_app
from perago_worker.cli.tasks import tasks

EXIT_CODES = (
    "Exit codes: 0 done, 1 unexpected error, 2 wrong configuration or arguments, 3 queue or store "
    "unreachable, 4 not authorised there, 5 a task module cannot be used, 130 or 143 stopped by a "
    "second signal."
)

app = typer.Typer(
    cls=Commands,
    name="perago-worker",
    epilog=EXIT_CODES,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.command()(check)
app.command()(doctor)
app.add_typer(taskdef_app, name="taskdef")
app.add_typer(fence_app, name="fence")
app.command()(submit)
app.command()(tasks)
app.command()(gc)
app.command()(status)
app.command()(stacks)
app.add_typer(config_app, name="config")


class LogLevel(StrEnum):
    """Values of `--log-level`."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"perago-worker {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def run(
    ctx: typer.Context,
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            envvar="PERAGO_CONFIG",
            metavar="FILE",
            help="The configuration.  [default: worker.toml]",
            show_default=False,
        ),
    ] = None,
    until_idle: Annotated[
        bool,
        typer.Option(
            "--until-idle", help="Work on what is in the queue, show what was done, and end."
        ),
    ] = False,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            help="Replaces logging.level; with debug, errors come with their traceback.",
            show_default=False,
            case_sensitive=False,
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001 -- handled by its callback
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and end."
        ),
    ] = False,
) -> None:
    """Run tasks on versioned data, each at most once, whole or not at all.

    Without a command the worker runs until SIGTERM or SIGINT, then finishes what it has begun.

    Start with: perago-worker check --config worker.toml
    """
    ctx.obj = Invocation(config=config, log_level=log_level.value if log_level else None)
    if ctx.invoked_subcommand is not None:
        if until_idle:
            raise UsageError("--until-idle is for running the worker, not for a command")
        return
    loaded = open_config(ctx, None)
    from perago_worker.bootstrap.run import run_worker

    raise typer.Exit(run_worker(loaded, until_idle=until_idle, log_level=ctx.obj.log_level))


def main() -> None:
    """Run the command with the arguments of the process; ends the process."""
    app(prog_name="perago-worker")
