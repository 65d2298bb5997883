"""What authors import, and what that import does not drag along."""

from __future__ import annotations

import subprocess
import sys

import perago_worker
from perago_worker import errors, guards, models
from perago_worker.definition import TaskDefinition
from perago_worker.task import load_module_task, load_module_tasks, task
from perago_worker.taskdef import build_taskdef, write_taskdef


def test_the_names_authors_use() -> None:
    assert set(perago_worker.__all__) == {
        "CurrentAttempt",
        "ExecutionLimits",
        "GuardrailViolation",
        "PeragoError",
        "PostGuardrailViolation",
        "PreGuardrailViolation",
        "PublishBudget",
        "RetryPolicy",
        "TaskControls",
        "TaskDefinition",
        "TaskDefinitionError",
        "TaskExecutionError",
        "TaskFailed",
        "TaskTerminalError",
        "TimeoutPolicy",
        "WorkspaceInput",
        "WorkspaceOutput",
        "WorkspaceSpec",
        "__version__",
        "build_taskdef",
        "check_guardrails",
        "current_attempt",
        "forbid_glob",
        "load_module_task",
        "load_module_tasks",
        "require_dir",
        "require_file",
        "require_glob",
        "task",
        "write_taskdef",
    }
    for name in perago_worker.__all__:
        assert getattr(perago_worker, name) is not None


def test_the_names_mean_the_same_in_their_modules() -> None:
    assert perago_worker.task is task
    assert perago_worker.load_module_task is load_module_task
    assert perago_worker.load_module_tasks is load_module_tasks
    assert perago_worker.TaskDefinition is TaskDefinition
    assert perago_worker.build_taskdef is build_taskdef
    assert perago_worker.write_taskdef is write_taskdef
    assert perago_worker.WorkspaceSpec is models.WorkspaceSpec
    assert perago_worker.require_glob is guards.require_glob
    assert perago_worker.TaskFailed is errors.TaskFailed


def test_importing_it_imports_no_server_or_telemetry() -> None:
    """A module of tasks has to be quick to import, in tests and in every child process."""
    heavy = "conductor lakefs_sdk pygit2 prometheus_client structlog typer urllib3 rich stamina"
    heavy += " pydantic_settings sqlite3 asyncio multiprocessing"
    program = f"import sys, perago_worker; print(*sys.modules.keys() & set({heavy.split()!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == []
