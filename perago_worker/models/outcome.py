"""How an attempt ended, in the worker's own words; adapters translate it for their server."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

MAX_REASON_CHARS = 500
"""Conductor cuts reasons at this length, so the worker does it first and visibly."""

OutcomeKind = Literal["completed", "failed", "terminal", "superseded", "cancelled", "released"]


class Outcome(BaseModel):
    """How an attempt ended.

    Attributes:
        kind: `completed`, `failed` (may be retried) and `terminal` (must not be) are reported.
            `superseded` and `cancelled` attempts report nothing. `released` gives the task back.
        code: Stable word: for completed attempts what became of the workspace (`published`,
            `no_op`, `read_only`, `no_workspace`), else why it ended.
        reason: One line for people; empty when completed.
        output: The task's output, a JSON object; None unless completed.
        output_ref: Commit the output workspace points at; None without a workspace.
        log: Lines for the task's log on the server.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: OutcomeKind
    code: str
    reason: str = ""
    output: dict[str, Any] | None = None
    output_ref: str | None = None
    log: tuple[str, ...] = ()

    @property
    def full_reason(self) -> str:
        """`code: reason` on one line of at most 500 characters; empty when completed."""
        if self.kind == "completed":
            return ""
        line = " ".join(f"{self.code}: {self.reason}".split())
        return line if len(line) <= MAX_REASON_CHARS else line[: MAX_REASON_CHARS - 1] + "…"
