"""Whether the times that are registered for tasks leave the worker the time it needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perago_worker.attempt.lease_keeper import BEATS_PER_LEASE
from perago_worker.cli.diagnosis import Diagnosis
from perago_worker.config import WorkerConfig

SHORT_LEASE_S = 3 * BEATS_PER_LEASE
"""With less, a request that takes seconds already costs the lease."""


def examine_times(
    diagnosis: Diagnosis,
    config: WorkerConfig,
    registered: Mapping[str, Mapping[str, Any] | None],
) -> None:
    """Compare registered timeouts with the worker's own; those of unknown tasks are left out."""
    from perago_worker.bootstrap.attempts import budget_of
    from perago_worker.bootstrap.tasks import load_tasks

    known = {name: taskdef for name, taskdef in registered.items() if taskdef}
    if not known:
        return
    tight = False
    for definition in load_tasks(config):
        taskdef = known.get(definition.name)
        if taskdef is None:
            continue
        response_s = float(taskdef.get("responseTimeoutSeconds") or 0)
        total_s = float(taskdef.get("timeoutSeconds") or 0)
        body_s = config.task(definition.name).body_timeout
        if 0 < response_s < SHORT_LEASE_S:
            tight = True
            diagnosis.warn(
                "timeouts",
                f"{definition.name}: responseTimeoutSeconds is {response_s:g}",
                why=f"A heartbeat is sent every {response_s / BEATS_PER_LEASE:g} s, and one slow "
                "answer loses the lease.",
                todo="give TimeoutPolicy(response_seconds=...) a minute or more, and register it",
            )
        if definition.has_workspace and not definition.read_only:
            budget = budget_of(config, definition)
            needed_s = budget.merge_s + budget.completion_s
            if 0 < response_s < needed_s:
                tight = True
                diagnosis.warn(
                    "timeouts",
                    f"{definition.name}: publishing may take {needed_s:g} s, and "
                    f"responseTimeoutSeconds is {response_s:g}",
                    why="Should heartbeats fail meanwhile, what is left of the lease cuts the "
                    "merge short.",
                    todo="raise response_seconds, or lower publish.merge_timeout and "
                    "publish.completion_timeout, or the task's PublishBudget",
                )
        if body_s is not None and 0 < total_s < body_s:
            tight = True
            diagnosis.warn(
                "timeouts",
                f"{definition.name}: body_timeout is {body_s:g} s, and timeoutSeconds {total_s:g}",
                why="The server ends the attempt before the body's own time is over.",
                todo=f'lower tasks."{definition.name}".body_timeout, or raise the timeout',
            )
    if not tight:
        diagnosis.ok("timeouts", "leave the worker the time it needs")
