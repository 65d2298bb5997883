"""Call the author's function once; whatever it does becomes a value."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from perago_worker.attempt.body.protocol import Raised, Returned
from perago_worker.attempt.complaints import complaints
from perago_worker.errors import TaskFailed, TaskTerminalError
from perago_worker.task import TaskDefinition

MAX_TRACEBACK_CHARS = 20_000


def call_body(
    definition: TaskDefinition, params: dict[str, Any], workspace: Path | None
) -> Returned | Raised:
    """Validate the parameters, call the function, validate what it returned.

    Nothing the function raises escapes, `SystemExit` and `KeyboardInterrupt` included: how an
    attempt ends is a value, and the process goes on to the next one.
    """
    try:
        validated = definition.validate_params(params)
    except ValueError as error:
        return Raised(kind="params", reason=complaints(error))
    arguments = (validated,) if workspace is None else (workspace, validated)
    try:
        value = definition.fn(*arguments)
    except TaskFailed as failed:
        return Raised(kind="failed", reason=failed.reason, traceback=_traceback(failed))
    except TaskTerminalError as terminal:
        return Raised(kind="terminal", reason=terminal.reason, traceback=_traceback(terminal))
    except BaseException as error:  # noqa: BLE001 -- the author's code may raise anything
        return Raised(kind="exception", reason=_describe(error), traceback=_traceback(error))
    try:
        return Returned(result=definition.validate_result(value))
    except ValueError as error:
        return Raised(kind="result", reason=complaints(error))


def _describe(error: BaseException) -> str:
    """Return the exception's type and message: the message alone rarely says what happened."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 -- an author's __str__ may be broken
        message = "(no message: its __str__ raised)"
    name = type(error).__qualname__
    return f"{name}: {message}" if message else name


def _traceback(error: BaseException) -> str:
    """Return the traceback from the author's first frame on, cut at its beginning when long."""
    lines = traceback.format_exception(type(error), error, _skip_own_frame(error))
    return "".join(lines)[-MAX_TRACEBACK_CHARS:]


def _skip_own_frame(error: BaseException) -> Any:
    own = error.__traceback__
    return own.tb_next if own is not None and own.tb_next is not None else own
