"""Log lines: for people on a terminal, for machines everywhere else, without secrets in both.

structlog renders on top of the standard library, so that the lines of libraries look the same as
ours and pass the same redaction. What happens in the worker becomes lines in `event_log`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from perago_worker.config import Redactor
from perago_worker.telemetry.event_log import EventLog
from perago_worker.telemetry.lines import LineRecord
from perago_worker.telemetry.text import visible

__all__ = ["configure_logging", "wants_bars", "EventLog"]

NOISY_LIBRARIES = ("httpx", "httpcore", "urllib3", "conductor", "lakefs_sdk", "asyncio")
"""Loggers that tell of every request at INFO; nothing below WARNING is taken from them."""

BARS_LEVELS = frozenset({"debug", "info"})
"""Those who ask for less than these want to see less."""

_ENCODER = json.JSONEncoder()

_FIRST = ("timestamp", "level", "event")


def configure_logging(
    format: Literal["auto", "console", "json"],  # noqa: A002 -- as in the configuration
    level: str,
    *,
    stream: TextIO | None = None,
    secrets: Collection[str] = (),
    redactor: Redactor | None = None,
    levels: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Send all log lines of this process to one stream, replacing what was set up before.

    Args:
        format: `console`, `json`, or `auto`: console when `stream` is a terminal.
        level: `debug`, `info`, `warning` or `error`.
        stream: Standard output unless given. Colours need a terminal and no NO_COLOR.
        secrets: Values that never appear in a line.
        redactor: Hides secrets in place of one made of `secrets`; it may learn of more later.
        levels: Levels of single loggers, by name.
    """
    stream = stream or sys.stdout
    terminal = stream.isatty()
    console = format == "console" or (format == "auto" and terminal)
    redactor = redactor or Redactor(secrets)
    shared = _shared_processors()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # so that a second call takes effect everywhere
    )
    rendering = [
        _redact_with(redactor),
        *(_console_processors(colours=terminal) if console else _json_processors()),
    ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter(shared, rendering))
    _install(handler, level, levels)


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Renders lines of ours without the detours that those of libraries need."""

    def __init__(self, shared: Sequence[Processor], rendering: Sequence[Processor]) -> None:
        super().__init__(
            foreign_pre_chain=[
                *shared,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *rendering,
            ],
        )
        self._rendering = rendering

    def format(self, record: logging.LogRecord) -> str:
        if not isinstance(record, LineRecord):
            return super().format(record)
        line: Any = dict(record.fields)  # other handlers may have the same record
        for processor in self._rendering:
            line = processor(None, record.levelname, line)
        return str(line)


def wants_bars(stream: TextIO, *, log_format: str, level: str, environ: Mapping[str, str]) -> bool:
    """Tell whether somebody looks at `stream` who can see bars, and has not asked for quiet."""
    return (
        log_format != "json"
        and level in BARS_LEVELS
        and stream.isatty()
        and not environ.get("NO_COLOR")
        and environ.get("TERM", "dumb") not in {"dumb", "unknown", ""}
    )


def _install(handler: logging.Handler, level: str, levels: Mapping[str, str]) -> None:
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in NOISY_LIBRARIES:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    for name, own in levels.items():
        logging.getLogger(name).setLevel(own.upper())
    logging.captureWarnings(capture=True)


def _shared_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        # plain tracebacks: those with local variables would tell secrets that no pattern knows
        structlog.processors.format_exc_info,
    ]


def _json_processors() -> list[Processor]:
    return [_lead_with_the_event, _render_json]


def _console_processors(*, colours: bool) -> list[Processor]:
    return [
        _escape_control_characters,
        structlog.dev.ConsoleRenderer(
            colors=colours and not os.environ.get("NO_COLOR"),
            exception_formatter=structlog.dev.plain_traceback,
            sort_keys=False,
        ),
    ]


def _lead_with_the_event(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Order a line for those who read it raw."""
    return {key: event[key] for key in _FIRST if key in event} | dict(event)


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    return _ENCODER.encode(event)  # redaction has left plain types only


def _redact_with(redactor: Redactor) -> Processor:
    def redact(_: WrappedLogger, __: str, event: EventDict) -> Mapping[str, Any]:
        # Ours in every line, and full of colons, which would look like something to hide.
        timestamp = event.pop("timestamp")
        return {**redactor.fields(event), "timestamp": timestamp}

    return redact


def _escape_control_characters(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Show what would move the cursor or forge a line; tracebacks keep their line breaks."""
    return {
        key: visible(value, keep_lines=key in {"exception", "stack"})
        if isinstance(value, str)
        else value
        for key, value in event.items()
    }
