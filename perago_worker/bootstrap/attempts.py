"""What attempts of a task work with: a runner for its body, and times and limits as configured."""

from __future__ import annotations

import os
import threading

from perago_worker.attempt.body.child_process import ChildSpec
from perago_worker.attempt.body.process import ProcessBody, child_environment
from perago_worker.attempt.body.runner import BodyRunner
from perago_worker.attempt.body.thread import ThreadBody
from perago_worker.attempt.budget import Budget
from perago_worker.attempt.context import AttemptSettings, Tools
from perago_worker.attempt.directories import AttemptDirectories
from perago_worker.attempt.lease_keeper import BEATS_PER_LEASE
from perago_worker.attempt.workspace import Limits
from perago_worker.config import Redactor, WorkerConfig
from perago_worker.events import ChildStarted, Listener
from perago_worker.ports import Clock, TaskQueue, WorkspaceStore
from perago_worker.task import TaskDefinition


def tools_of(
    config: WorkerConfig,
    definition: TaskDefinition,
    *,
    queue: TaskQueue,
    store: WorkspaceStore,
    clock: Clock,
    listener: Listener,
    directories: AttemptDirectories,
    redactor: Redactor,
    shut_down: threading.Event,
    draining: threading.Event | None = None,
) -> Tools:
    """Return what attempts of one slot work with, as the configuration has it."""
    return Tools(
        queue=queue,
        store=store,
        clock=clock,
        listener=listener,
        directories=directories,
        body=_make_body(config, definition, listener),
        settings=_attempt_settings(config, definition),
        redact=redactor.text,
        shut_down=shut_down,
        draining=draining or threading.Event(),
    )


def budget_of(config: WorkerConfig, definition: TaskDefinition) -> Budget:
    """Return the times of a task: its own, or those of the configuration."""
    declared = definition.controls.publish_budget
    if declared is not None:
        return Budget.of(declared)
    defaults = config.publish
    return Budget(
        merge_s=defaults.merge_timeout,
        completion_s=defaults.completion_timeout,
        heartbeat_s=defaults.heartbeat_interval,
    )


def _attempt_settings(config: WorkerConfig, definition: TaskDefinition) -> AttemptSettings:
    defaults = config.publish
    return AttemptSettings(
        budget=budget_of(config, definition),
        limits=Limits(objects=config.workspace.max_objects, bytes=config.workspace.max_bytes),
        transfer_threads=config.workspace.transfer_connections,
        body_timeout_s=config.task(definition.name).body_timeout,
        record_result=defaults.record_result,
        adopt=defaults.on_abandoned == "adopt",
        require_fence=defaults.require_fence == "hook",
        sentinel=defaults.sentinel,
    )


def _make_body(config: WorkerConfig, definition: TaskDefinition, listener: Listener) -> BodyRunner:
    if config.task(definition.name).isolation == "thread":
        return ThreadBody(definition)
    worker = config.worker
    spec = ChildSpec(
        module=definition.fn.__module__,
        task_name=definition.name,
        environment=child_environment(
            os.environ, allowed=worker.body_env, python_path=worker.python_path
        ),
        memory_limit=worker.child_memory_limit or 0,
        cancel_grace_s=_cancel_grace(config, definition),
        kill_grace_s=worker.kill_grace,
        max_calls=worker.attempts_per_child,
    )

    def on_started(pid: int, cause: str) -> None:
        listener.on_event(ChildStarted(definition.name, pid, cause))

    return ProcessBody(spec, on_started=on_started)


def _cancel_grace(config: WorkerConfig, definition: TaskDefinition) -> float:
    """Return how long a body has to return by itself: well within one heartbeat interval."""
    heartbeat_s = _attempt_settings(config, definition).budget.heartbeat_s
    interval_s = min(heartbeat_s, definition.controls.timeout.response_seconds / BEATS_PER_LEASE)
    return min(config.worker.kill_grace, interval_s) / 2
