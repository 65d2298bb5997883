"""What the worker and a body's child process say to each other: one JSON object a line.

JSON and no pickle: the parent holds credentials, and unpickling what a child sends would run the
child's code with them. The parent reads whatever comes as untrusted input.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""Longest line either side accepts; well above the largest output a queue takes."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def line(self) -> bytes:
        """Render as one line."""
        return self.model_dump_json().encode() + b"\n"


class Call(_Message):
    """Run the body once.

    Attributes:
        params: The task's `params`, validated by the child, which has the author's module.
        workspace: Directory of the workspace; None for a task without one.
        scratch: Directory the body runs in, for its temporary files.
        remaining_s: Seconds until the attempt is stopped; None is no deadline.
    """

    type: Literal["call"] = "call"
    workflow_id: str
    task_id: str
    retry_count: int
    params: dict[str, Any]
    workspace: str | None
    scratch: str
    remaining_s: float | None = None


class Ready(_Message):
    """The child has loaded its task and waits for calls."""

    type: Literal["ready"] = "ready"


class Progress(_Message):
    """The body reported progress."""

    type: Literal["progress"] = "progress"
    done: float
    total: float | None = None
    note: str = ""


class Log(_Message):
    """The body logged a line."""

    type: Literal["log"] = "log"
    text: str


class Returned(_Message):
    """The body returned a valid result.

    Attributes:
        threads_left: Threads that the body started and that still run.
    """

    type: Literal["returned"] = "returned"
    result: dict[str, Any]
    threads_left: int = 0


class Raised(_Message):
    """The body did not return a valid result.

    Attributes:
        kind: `failed` and `terminal` are what authors raise on purpose; `exception` is anything
            else; `params` and `result` did not validate; `broken`: the module could not be loaded.
    """

    type: Literal["raised"] = "raised"
    kind: Literal["failed", "terminal", "exception", "params", "result", "broken"]
    reason: str
    traceback: str = ""


FromChild = TypeAdapter[Ready | Progress | Log | Returned | Raised](
    Annotated[Ready | Progress | Log | Returned | Raised, Field(discriminator="type")]
)
