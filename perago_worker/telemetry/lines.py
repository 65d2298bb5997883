"""Writes a line for an event, at a fraction of what a call of structlog's loggers takes.

Lines look the same and go the same way, through the formatters, levels and redaction of `logs`.
What is left out is what helps callers that are not known: finding out who called, formatting
arguments, rendering exceptions.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

_NAMES = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
}


class Lines:
    """Writes lines about what happened at one moment.

    Args:
        logger: Its level counts.
        at: The moment, seconds since the epoch.
    """

    __slots__ = ("_at", "_logger")

    def __init__(self, logger: logging.Logger, at: float) -> None:
        self._logger = logger
        self._at = at

    def wants(self, level: int) -> bool:
        """Whether lines of this level are written."""
        return self._logger.isEnabledFor(level)

    def debug(self, event: str, /, **fields: Any) -> None:
        """Write a line for those who look for a fault."""
        self.log(logging.DEBUG, event, **fields)

    def info(self, event: str, /, **fields: Any) -> None:
        """Write a line about what is as it should be."""
        self.log(logging.INFO, event, **fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        """Write a line about what somebody should look at some time."""
        self.log(logging.WARNING, event, **fields)

    def error(self, event: str, /, **fields: Any) -> None:
        """Write a line about what is not as it should be."""
        self.log(logging.ERROR, event, **fields)

    def log(self, level: int, event: str, /, **fields: Any) -> None:
        """Write a line of a level of the standard library's."""
        logger = self._logger
        if not logger.isEnabledFor(level):
            return
        name = _NAMES[level]
        at = datetime.fromtimestamp(self._at, UTC).isoformat().replace("+00:00", "Z")
        line = {**fields, "event": event, "level": name, "timestamp": at}
        logger.handle(LineRecord(logger, level, line))


class LineRecord(logging.LogRecord):
    """A line whose fields are complete: nothing is left to be found out about it."""

    def __init__(self, logger: logging.Logger, level: int, fields: dict[str, Any]) -> None:
        super().__init__(logger.name, level, "", 0, fields, None, None)
        self.fields = fields
        # For other formatters of structlog: how they know that the message holds fields.
        self._logger, self._name = logger, _NAMES[level]
