"""What a machine can go on from: the tasks and attempts there are after a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from perago_worker.adapters.local.queue_records import UNFINISHED, TaskRecord
from tests.rig.crew import Running

MAX_TASKS = 5
MAX_UNFINISHED = 2


@dataclass(frozen=True)
class Situation:
    """What is there.

    Attributes:
        tasks: Every task, the first scheduled first.
        running: The attempts that have not ended.
        kept: The workspaces that workers keep for later attempts.
    """

    tasks: Sequence[TaskRecord]
    running: Sequence[Running]
    kept: Sequence[Path]

    @cached_property
    def unfinished(self) -> list[TaskRecord]:
        """The tasks that have not ended."""
        return [task for task in self.tasks if task.status in UNFINISHED]

    @cached_property
    def waiting(self) -> list[TaskRecord]:
        """The tasks that are in the queue, to be delivered now or later."""
        return [task for task in self.unfinished if task.status == "SCHEDULED"]

    @property
    def room(self) -> bool:
        """Whether a task more is few enough."""
        return len(self.tasks) < MAX_TASKS and len(self.unfinished) < MAX_UNFINISHED

    @cached_property
    def ended(self) -> list[TaskRecord]:
        """The tasks that can be run again: the last try of each, ended."""
        waiting = {task.workflow_id for task in self.unfinished}
        retried = {task.retried_task_id for task in self.tasks}
        return [
            task
            for task in self.tasks
            if task.task_id not in retried and task.workflow_id not in waiting
        ]

    @cached_property
    def followable(self) -> list[TaskRecord]:
        """The completed tasks whose output nobody takes over yet."""
        if len(self.tasks) >= MAX_TASKS:
            return []
        taken = {_place(task) for task in self.tasks}
        waiting = {(task.workflow_id, task.reference_name) for task in self.unfinished}
        return [
            task
            for task in self.tasks
            if task.status == "COMPLETED"
            and (task.workflow_id, after(task)) not in waiting
            and (task.workflow_id, after(task), task.output["workspace"]["ref"]) not in taken
        ]


def after(task: TaskRecord) -> str:
    """Return the reference name of the task that takes over a task's output."""
    return f"{task.reference_name}+"


def _place(task: TaskRecord) -> tuple[str, str, str]:
    return task.workflow_id, task.reference_name, task.input["workspace"]["ref"]
