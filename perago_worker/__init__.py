"""A worker that lets a workflow step change versioned data: at most once, whole or not at all.

This is all that authors of tasks need. Servers, processes and telemetry are elsewhere, and are not
imported from here, so that a module of tasks stays quick to import and easy to test.
"""

from perago_worker._version import __version__
from perago_worker.current import CurrentAttempt, current_attempt
from perago_worker.errors import (
    GuardrailViolation,
    PeragoError,
    PostGuardrailViolation,
    PreGuardrailViolation,
    TaskDefinitionError,
    TaskExecutionError,
    TaskFailed,
    TaskTerminalError,
)
from perago_worker.guards import (
    check_guardrails,
    forbid_glob,
    require_dir,
    require_file,
    require_glob,
)
from perago_worker.models import (
    ExecutionLimits,
    PublishBudget,
    RetryPolicy,
    TaskControls,
    TimeoutPolicy,
    WorkspaceInput,
    WorkspaceOutput,
    WorkspaceSpec,
)
from perago_worker.task import TaskDefinition, load_module_task, load_module_tasks, task
from perago_worker.taskdef import build_taskdef, write_taskdef

__all__ = [
    "__version__",
    # declaring a task
    "task",
    "ExecutionLimits",
    "PublishBudget",
    "RetryPolicy",
    "TaskControls",
    "TimeoutPolicy",
    "WorkspaceInput",
    "WorkspaceOutput",
    "WorkspaceSpec",
    # guards
    "check_guardrails",
    "forbid_glob",
    "require_dir",
    "require_file",
    "require_glob",
    # inside a body
    "CurrentAttempt",
    "current_attempt",
    "TaskFailed",
    "TaskTerminalError",
    # what can go wrong
    "GuardrailViolation",
    "PeragoError",
    "PostGuardrailViolation",
    "PreGuardrailViolation",
    "TaskDefinitionError",
    "TaskExecutionError",
    # using tasks
    "TaskDefinition",
    "build_taskdef",
    "load_module_task",
    "load_module_tasks",
    "write_taskdef",
]
