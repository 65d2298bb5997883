"""Values: what authors declare tasks with, and what the worker passes between its parts."""

from perago_worker.models.guard import WorkspaceGuardrail
from perago_worker.models.lease import (
    Held,
    Lease,
    LeaseIdentity,
    Lineage,
    Lost,
    Observation,
    Token,
)
from perago_worker.models.outcome import Outcome
from perago_worker.models.policies import (
    DEFAULT_RETRY_COUNT,
    DEFAULT_RETRY_DELAY_SECONDS,
    DEFAULT_RETRY_JITTER_MS,
    DEFAULT_RETRY_LOGIC,
    DEFAULT_RETRY_MAX_DELAY_SECONDS,
    DEFAULT_TIMEOUT_POLICY,
    DEFAULT_TIMEOUT_POLL_SECONDS,
    DEFAULT_TIMEOUT_RESPONSE_SECONDS,
    DEFAULT_TIMEOUT_SECONDS,
    DEFAULT_TIMEOUT_TOTAL_SECONDS,
    MAX_RETRY_COUNT,
    ExecutionLimits,
    PublishBudget,
    RetryPolicy,
    TaskControls,
    TimeoutPolicy,
)
from perago_worker.models.publication import Publication
from perago_worker.models.store import Change, CommitInfo, ObjectInfo
from perago_worker.models.workspace import (
    WorkspaceInput,
    WorkspaceOutput,
    WorkspaceRef,
    WorkspaceSpec,
)

__all__ = [
    # what authors declare tasks with
    "ExecutionLimits",
    "PublishBudget",
    "RetryPolicy",
    "TaskControls",
    "TimeoutPolicy",
    "WorkspaceGuardrail",
    "WorkspaceInput",
    "WorkspaceOutput",
    "WorkspaceRef",
    "WorkspaceSpec",
    # their defaults and bounds
    "DEFAULT_RETRY_COUNT",
    "DEFAULT_RETRY_DELAY_SECONDS",
    "DEFAULT_RETRY_JITTER_MS",
    "DEFAULT_RETRY_LOGIC",
    "DEFAULT_RETRY_MAX_DELAY_SECONDS",
    "DEFAULT_TIMEOUT_POLICY",
    "DEFAULT_TIMEOUT_POLL_SECONDS",
    "DEFAULT_TIMEOUT_RESPONSE_SECONDS",
    "DEFAULT_TIMEOUT_SECONDS",
    "DEFAULT_TIMEOUT_TOTAL_SECONDS",
    "MAX_RETRY_COUNT",
    # what the worker passes between its parts
    "Change",
    "CommitInfo",
    "Held",
    "Lease",
    "LeaseIdentity",
    "Lineage",
    "Lost",
    "ObjectInfo",
    "Observation",
    "Outcome",
    "Publication",
    "Token",
]
