"""What an author asks of the queue for a task: retries, timeouts, limits, and time to publish.

Everything but the publish budget ends up in the task definition that is registered with the queue,
whose meaning of each number applies. The defaults and bounds are those of the perago contract, so
that tasks written for it keep their behaviour.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from perago_worker.errors import TaskDefinitionError

RetryLogic = Literal["FIXED", "EXPONENTIAL_BACKOFF", "LINEAR_BACKOFF"]
TimeoutAction = Literal["RETRY", "TIME_OUT_WF", "ALERT_ONLY"]

DEFAULT_RETRY_COUNT = 3
MAX_RETRY_COUNT = 10
"""Part of the contract for task authors; a task that needs more is better restarted by hand."""
DEFAULT_RETRY_LOGIC: RetryLogic = "FIXED"
DEFAULT_RETRY_DELAY_SECONDS = 60
DEFAULT_RETRY_MAX_DELAY_SECONDS = 0
DEFAULT_RETRY_JITTER_MS = 0
DEFAULT_TIMEOUT_POLICY: TimeoutAction = "TIME_OUT_WF"
DEFAULT_TIMEOUT_SECONDS = 0
DEFAULT_TIMEOUT_RESPONSE_SECONDS = 600
DEFAULT_TIMEOUT_POLL_SECONDS = 0
DEFAULT_TIMEOUT_TOTAL_SECONDS = 0


class RetryPolicy(BaseModel):
    """How often, and how long after a failure, a failed attempt is followed by another.

    Attributes:
        count: Attempts after the first, at most `MAX_RETRY_COUNT`.
        logic: How the wait grows from one retry to the next.
        delay_seconds: The wait before the first retry.
        max_delay_seconds: Longest wait that a growing delay reaches; 0 is no bound.
        jitter_ms: Greatest random addition to each wait, in milliseconds.
    """

    model_config = ConfigDict(extra="forbid")

    count: int = Field(default=DEFAULT_RETRY_COUNT, ge=0, le=MAX_RETRY_COUNT)
    logic: RetryLogic = DEFAULT_RETRY_LOGIC
    delay_seconds: NonNegativeInt = DEFAULT_RETRY_DELAY_SECONDS
    max_delay_seconds: NonNegativeInt = DEFAULT_RETRY_MAX_DELAY_SECONDS
    jitter_ms: NonNegativeInt = DEFAULT_RETRY_JITTER_MS


class TimeoutPolicy(BaseModel):
    """How long the queue waits for each thing a worker does, in seconds; 0 is for ever.

    Attributes:
        policy: What happens to a task that ran out of time.
        seconds: From the start of an attempt to its end.
        response_seconds: Between two signs of life of an attempt: the length of its lease.
            Conductor takes no 0 here, and wants it below `seconds` where that is set.
        poll_seconds: In the queue, until a worker takes the task.
        total_seconds: From the first scheduling to the end, retries included.
    """

    model_config = ConfigDict(extra="forbid")

    policy: TimeoutAction = DEFAULT_TIMEOUT_POLICY
    seconds: NonNegativeInt = DEFAULT_TIMEOUT_SECONDS
    response_seconds: NonNegativeInt = DEFAULT_TIMEOUT_RESPONSE_SECONDS
    poll_seconds: NonNegativeInt = DEFAULT_TIMEOUT_POLL_SECONDS
    total_seconds: NonNegativeInt = DEFAULT_TIMEOUT_TOTAL_SECONDS


class ExecutionLimits(BaseModel):
    """How much of a task the queue hands out at once; None leaves a limit to the queue.

    Attributes:
        concurrent_exec_limit: Attempts in progress at the same time, over all workers.
        rate_limit_frequency_in_seconds: Length of the window that starts are counted in.
        rate_limit_per_frequency: Starts per window; set together with its length or not at all.
    """

    model_config = ConfigDict(extra="forbid")

    concurrent_exec_limit: NonNegativeInt | None = None
    rate_limit_frequency_in_seconds: NonNegativeInt | None = None
    rate_limit_per_frequency: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _check_rate_limit_is_whole(self) -> ExecutionLimits:
        window, starts = self.rate_limit_frequency_in_seconds, self.rate_limit_per_frequency
        if (window is None) != (starts is None):
            raise TaskDefinitionError(
                "a rate limit needs both of its fields, but "
                f"rate_limit_frequency_in_seconds is {window} "
                f"and rate_limit_per_frequency is {starts}"
            )
        return self


class PublishBudget(BaseModel):
    """Time reserved for publishing a workspace, in seconds, from measurements of the store.

    A budget bounds requests and plans the lease; it proves nothing about who may publish.

    Attributes:
        observed_merge_p99_seconds: How long 99 of 100 merges take on the store in question.
        safety_margin_seconds: What to allow on top of it.
        lakefs_merge_timeout_seconds: Request timeout of the merge; no less than the two together.
        conductor_completion_timeout_seconds: Time to report the result to the queue.
        worker_shutdown_grace_seconds: Time a worker that is stopped gets after publishing.
        heartbeat_interval_seconds: Greatest age of the last heartbeat when publishing begins.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    observed_merge_p99_seconds: NonNegativeInt
    safety_margin_seconds: NonNegativeInt
    lakefs_merge_timeout_seconds: int = Field(ge=1)
    conductor_completion_timeout_seconds: int = Field(ge=1)
    worker_shutdown_grace_seconds: int = Field(ge=1)
    heartbeat_interval_seconds: int = Field(ge=1)

    @model_validator(mode="after")
    def _check_merge_timeout_covers_observation(self) -> PublishBudget:
        needed = self.observed_merge_p99_seconds + self.safety_margin_seconds
        if self.lakefs_merge_timeout_seconds < needed:
            raise TaskDefinitionError(
                f"lakefs_merge_timeout_seconds is {self.lakefs_merge_timeout_seconds}, but "
                f"observed_merge_p99_seconds ({self.observed_merge_p99_seconds}) and "
                f"safety_margin_seconds ({self.safety_margin_seconds}) need at least {needed}"
            )
        return self

    @property
    def response_timeout_seconds(self) -> int:
        """The whole budget: a lease shorter than this may run out while publishing."""
        return (
            self.lakefs_merge_timeout_seconds
            + self.conductor_completion_timeout_seconds
            + self.worker_shutdown_grace_seconds
            + self.heartbeat_interval_seconds
        )


class TaskControls(BaseModel):
    """Everything about how a task is run, as opposed to what it does.

    Attributes:
        publish_budget: For tasks that publish a workspace; None leaves it to the configuration.
    """

    model_config = ConfigDict(extra="forbid")

    retry: RetryPolicy = Field(default_factory=RetryPolicy)
    timeout: TimeoutPolicy = Field(default_factory=TimeoutPolicy)
    limits: ExecutionLimits = Field(default_factory=ExecutionLimits)
    publish_budget: PublishBudget | None = None

    @property
    def response_timeout_seconds(self) -> int:
        """Length of the lease, `timeout.response_seconds`; a publish budget does not change it."""
        return self.timeout.response_seconds
