"""The right to one attempt, and who may claim it.

A task id with its retry count is not an identity: a rerun, a give-back and a duplicate delivery use
both again. What tells two deliveries apart is the poll count, the worker that polled and the start
time as well (`LeaseIdentity`), and what orders them is `Token`.
"""

from __future__ import annotations

from functools import total_ordering
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LeaseIdentity(_Frozen):
    """What two deliveries of a task must share to be the same delivery."""

    task_id: str
    retry_count: int
    poll_count: int
    worker_id: str
    start_time_ms: int


class Lineage(_Frozen):
    """A logical task: every retry, rerun and delivery of one place in one workflow shares it."""

    workflow_id: str
    reference_name: str
    iteration: int = 0

    def __str__(self) -> str:
        return f"{self.workflow_id}/{self.reference_name}/{self.iteration}"


@total_ordering
class Token(_Frozen):
    """Order of the deliveries within a lineage: a later delivery has the greater token.

    The start time leads, because a rerun or restart keeps or resets the retry count but starts
    later.
    """

    start_time_ms: int
    retry_count: int
    poll_count: int

    def _key(self) -> tuple[int, int, int]:
        return (self.start_time_ms, self.retry_count, self.poll_count)

    def __lt__(self, other: Token) -> bool:
        return self._key() < other._key()

    def __str__(self) -> str:
        return ".".join(str(part) for part in self._key())

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read what `str(token)` wrote; raises ValueError for anything else."""
        start, retry, poll = text.split(".")
        return cls(start_time_ms=int(start), retry_count=int(retry), poll_count=int(poll))


class Lease(_Frozen):
    """The exclusive right to one attempt, as a poll granted it.

    Attributes:
        task_type: Name of the task definition.
        domain: Conductor task domain the task was polled from; None is the default queue.
        reference_name: Name of the task within its workflow definition.
        iteration: Round of a loop in the workflow, 0 outside of loops.
        retry_count: Which retry of the task this is, from 0.
        poll_count: How many times this task id has been delivered.
        worker_id: Who polled; unique per process start.
        start_time_ms: Server's wall clock when the attempt first started, ms since the epoch.
        scheduled_time_ms: Server's wall clock when the task was scheduled, ms since the epoch.
        response_timeout_s: The server takes the task back when it hears nothing for this long.
        timeout_s: The server ends the attempt this long after its start; 0 is never.
        poll_timeout_s: The server ends the task when it waits in the queue for longer; 0 is never.
        input: The task's input, a JSON object, not validated.
        granted_at: Reading of the worker's clock from before the granting poll was sent, or the
            latest moment at which the server provably counted the lease from.
    """

    task_type: str
    domain: str | None = None
    workflow_id: str
    workflow_type: str = ""
    task_id: str
    reference_name: str
    iteration: int = 0
    retry_count: int
    poll_count: int
    worker_id: str
    start_time_ms: int
    scheduled_time_ms: int
    response_timeout_s: float = Field(gt=0)
    timeout_s: float = 0
    poll_timeout_s: float = 0
    input: dict[str, Any]
    granted_at: float

    @property
    def identity(self) -> LeaseIdentity:
        """What `observe` compares with the server's record."""
        return LeaseIdentity(
            task_id=self.task_id,
            retry_count=self.retry_count,
            poll_count=self.poll_count,
            worker_id=self.worker_id,
            start_time_ms=self.start_time_ms,
        )

    @property
    def lineage(self) -> Lineage:
        """The logical task this attempt belongs to."""
        return Lineage(
            workflow_id=self.workflow_id,
            reference_name=self.reference_name,
            iteration=self.iteration,
        )

    @property
    def token(self) -> Token:
        """Where this delivery stands among all deliveries of its lineage."""
        return Token(
            start_time_ms=self.start_time_ms,
            retry_count=self.retry_count,
            poll_count=self.poll_count,
        )


class Held(_Frozen):
    """The server's record shows the lease as ours at the moment it was read."""


class Lost(_Frozen):
    """The server's record shows that the lease is not ours any more. It never comes back.

    Attributes:
        why: `superseded`: another delivery, retry or worker has the task, or it waits in the queue
            again. `cancelled`: the task was cancelled or skipped, or its workflow ended.
            `reported`: the task is completed or failed. `gone`: the server knows no such task.
        detail: One line for the log.
    """

    why: Literal["superseded", "cancelled", "reported", "gone"]
    detail: str


Observation = Held | Lost
