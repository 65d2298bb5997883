"""How long each part of publishing may take."""

from __future__ import annotations

from dataclasses import dataclass

from perago_worker.models import PublishBudget


@dataclass(frozen=True)
class Budget:
    """The times of one task, in seconds: its own `PublishBudget`, or the configured defaults.

    Attributes:
        merge_s: For getting the staged commit onto the branch, tries included.
        completion_s: Request timeout of the report.
        heartbeat_s: Longest time between two heartbeats.
    """

    merge_s: float
    completion_s: float
    heartbeat_s: float

    @classmethod
    def of(cls, budget: PublishBudget) -> Budget:
        """Take the times from what the author declared."""
        return cls(
            merge_s=float(budget.lakefs_merge_timeout_seconds),
            completion_s=float(budget.conductor_completion_timeout_seconds),
            heartbeat_s=float(budget.heartbeat_interval_seconds),
        )
