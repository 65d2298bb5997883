"""How the command ends: its exit codes, and errors told in a line or two instead of a traceback."""

from __future__ import annotations

import traceback
from enum import IntEnum
from typing import Any

import typer
from typer.core import TyperGroup

from perago_worker.errors import (
    ConfigError,
    PeragoError,
    QueueUnavailable,
    StoreUnavailable,
    TaskDefinitionError,
)


class Exit(IntEnum):
    """What the exit code says; 130 and 143 are a second SIGINT and a second SIGTERM."""

    DONE = 0
    UNEXPECTED = 1
    CONFIG = 2
    UNREACHABLE = 3
    UNAUTHORISED = 4
    TASK_MODULE = 5
    INTERRUPTED = 130


class UsageError(PeragoError):
    """What was asked for makes no sense, as it is or with this configuration."""


class ServiceRefusedError(PeragoError):
    """A queue or store was reached and does not let us in."""


def exit_code(error: PeragoError) -> Exit:
    """Return the exit code that tells a script what kind of thing went wrong."""
    match error:
        case ConfigError() | UsageError():
            return Exit.CONFIG
        case TaskDefinitionError():
            return Exit.TASK_MODULE
        case QueueUnavailable() | StoreUnavailable():
            return Exit.UNREACHABLE
        case ServiceRefusedError():
            return Exit.UNAUTHORISED
        case _:
            return Exit.UNEXPECTED


class Commands(TyperGroup):
    """The command group; reports the errors this package raises on purpose."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; a known error becomes its message and its exit code."""
        try:
            return super().invoke(ctx)
        except PeragoError as error:
            if getattr(ctx.obj, "debug", False):
                traceback.print_exc()
            typer.echo(str(error) or type(error).__name__, err=True)
            raise typer.Exit(exit_code(error)) from None
        except KeyboardInterrupt:
            raise typer.Exit(Exit.INTERRUPTED) from None
