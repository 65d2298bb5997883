"""What the embedded queue stores of a task, and what it shows of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from perago_worker.errors import QueueRefused

TaskStatus = Literal[
    "SCHEDULED",
    "IN_PROGRESS",
    "COMPLETED",
    "FAILED",
    "FAILED_WITH_TERMINAL_ERROR",
    "CANCELED",
    "TIMED_OUT",
]
WorkflowStatus = Literal["RUNNING", "COMPLETED", "FAILED", "TIMED_OUT", "TERMINATED"]

MAX_PAYLOAD_BYTES = 10240 * 1024
"""Largest input or output as JSON. Source: Conductor 3.32.1 ends tasks that are larger."""

UNFINISHED: tuple[TaskStatus, ...] = ("SCHEDULED", "IN_PROGRESS")
"""Statuses of tasks that wait, are leased or will be retried."""


class Rules(BaseModel):
    """The fields of a task definition that the queue acts on; the others it only stores.

    Source of the defaults: Conductor 3.32.1, a task definition that names none of them.
    """

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, allow_inf_nan=False
    )

    name: str = Field(min_length=1)
    retry_count: int = Field(default=3, ge=0)
    retry_logic: Literal["FIXED", "LINEAR_BACKOFF", "EXPONENTIAL_BACKOFF"] = "FIXED"
    retry_delay_seconds: int = Field(default=60, ge=0)
    backoff_scale_factor: int = Field(default=1, ge=1)
    max_retry_delay_seconds: int = Field(default=0, ge=0)
    backoff_jitter_ms: int = Field(default=0, ge=0)
    response_timeout_seconds: int = Field(default=3600, ge=1)
    timeout_seconds: int = Field(default=0, ge=0)
    poll_timeout_seconds: int = Field(default=0, ge=0)
    total_timeout_seconds: int = Field(default=0, ge=0)
    timeout_policy: Literal["RETRY", "TIME_OUT_WF", "ALERT_ONLY"] = "TIME_OUT_WF"
    concurrent_exec_limit: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            return {key: value for key, value in data.items() if value is not None}
        return data

    @model_validator(mode="after")
    def _each_timeout_within_the_next(self) -> Rules:
        if 0 < self.timeout_seconds < self.response_timeout_seconds:
            raise ValueError("responseTimeoutSeconds must not exceed timeoutSeconds")
        if 0 < self.total_timeout_seconds < self.timeout_seconds:
            raise ValueError("timeoutSeconds must not exceed totalTimeoutSeconds")
        return self

    @classmethod
    def check(cls, definition: Mapping[str, Any]) -> Rules:
        """Read a definition.

        Raises:
            QueueRefused: A field has a value that the queue cannot act on; it names all of them.
        """
        try:
            return cls.model_validate(definition)
        except ValidationError as error:
            problems = "; ".join(
                ": ".join([*map(str, problem["loc"]), problem["msg"]]) for problem in error.errors()
            )
            raise QueueRefused(
                f"task definition {definition.get('name')!r} is refused: {problems}"
            ) from error


@lru_cache(maxsize=256)
def stored_rules(definition: str) -> Rules:
    """Read the JSON of a definition that was checked when it was registered."""
    return Rules.model_validate_json(definition)


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One row of the table `task`, whose comments tell what the columns mean."""

    id: str
    workflow_id: str
    task_type: str
    domain: str
    reference_name: str
    retry_count: int
    retried_task_id: str | None
    scheduled_ms: int
    first_scheduled_ms: int
    input: str
    status: TaskStatus
    poll_count: int
    worker_id: str | None
    start_ms: int
    update_ms: int
    end_ms: int
    postponed_ms: int
    queued: int
    deliver_ms: int
    output: str
    reason: str

    @property
    def unfinished(self) -> bool:
        """Whether anything can still happen to the task."""
        return self.status in UNFINISHED


COLUMNS = tuple(column.name for column in fields(TaskRow))
"""The columns of the table `task` that a `TaskRow` is made of, in its order."""


class SubmittedTask(BaseModel):
    """A task that waits in the queue, in a workflow of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workflow_id: str
    task_id: str


class TaskRecord(BaseModel):
    """Everything the queue tells of one task.

    Attributes:
        domain: None is the default queue.
        retried_task_id: The task this one is a retry of; None for a first try.
        worker_id: Who polled it last; None when nobody has.
        reason: Why it failed, or why the try before it did; empty when there is nothing to say.
        scheduled_time_ms: Wall clock, ms since the epoch.
        start_time_ms: When it was first delivered; 0 before.
        end_time_ms: When it ended; 0 before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workflow_id: str
    workflow_status: WorkflowStatus
    task_id: str
    task_type: str
    domain: str | None
    reference_name: str
    status: TaskStatus
    retry_count: int
    retried_task_id: str | None
    poll_count: int
    worker_id: str | None
    reason: str
    input: dict[str, Any]
    output: dict[str, Any]
    log: tuple[str, ...]
    scheduled_time_ms: int
    start_time_ms: int
    end_time_ms: int


def clean(text: str) -> str:
    """Make text storable: a lone surrogate, which is no character, becomes `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


def to_json(value: Mapping[str, Any], what: str) -> str:
    """Encode a JSON object.

    Raises:
        QueueRefused: It is not one, holds NaN or infinity, or is too large; it says so of `what`.
    """
    try:
        text = clean(json.dumps(dict(value), allow_nan=False, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise QueueRefused(f"{what} is not a JSON object: {error}") from error
    size = len(text.encode())
    if size > MAX_PAYLOAD_BYTES:
        raise QueueRefused(f"{what} has {size} bytes as JSON, the limit is {MAX_PAYLOAD_BYTES}")
    return text
