"""What the model of `tests.rig.model` is made of."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Literal, NamedTuple

from perago_worker.models import LeaseIdentity

INPUT = 0

Content = frozenset[str]
"""What a commit shows beyond the input: `r<n>` for run n's changes, `f<n>` for a foreign commit."""


class At(Enum):
    """The step an attempt takes next."""

    PRECHECK = "precheck"
    LOOK = "look"
    CONFIRM = "confirm"
    MERGE = "merge"
    REQUIRE = "require"
    REPORT = "report"


class Delivery(NamedTuple):
    """One delivery of the task; `start` counts deliveries and stands for the start time."""

    task: int
    retry: int
    poll: int
    worker: str
    start: int

    def identity(self) -> LeaseIdentity:
        """Return what the product compares."""
        return LeaseIdentity(
            task_id=str(self.task),
            retry_count=self.retry,
            poll_count=self.poll,
            worker_id=self.worker,
            start_time_ms=self.start,
        )


class Commit(NamedTuple):
    """A commit above the input; `by` and `uuid` tell its publication, None somebody else's."""

    id: int
    by: Delivery | None
    uuid: int
    content: Content


class Merge(NamedTuple):
    """A merge as it is sent."""

    expected: int
    by: Delivery
    uuid: int
    content: Content


class Report(NamedTuple):
    """A report as it is sent: the commit put out and what it should show, or a failure."""

    task: int
    kind: Literal["completed", "failed", "terminal"]
    output: int = INPUT
    shows: Content = frozenset()


class Attempt(NamedTuple):
    """An attempt in progress.

    Attributes:
        shows: What the body made; None before the body.
        merge: What it decided to merge, until that is sent.
        unsure: Whether a merge was sent whose answer did not come.
        report: What it will report.
    """

    lease: Delivery
    uuid: int
    at: At
    shows: Content | None = None
    merge: Merge | None = None
    unsure: bool = False
    report: Report | None = None


class Record(NamedTuple):
    """The queue's record of the task's newest try, and how the tries before it ended."""

    task: int = 0
    retry: int = 0
    poll: int = 0
    start: int = 0
    worker: str = ""
    status: Literal["scheduled", "leased", "completed", "failed"] = "scheduled"
    queued: bool = True
    output: int = INPUT
    shows: Content = frozenset()


class State(NamedTuple):
    """Everything there is."""

    faults: int
    record: Record = Record()
    branch: tuple[Commit, ...] = ()
    workers: tuple[str, ...] = ("w0", "x0")
    attempts: tuple[Attempt | None, ...] = (None, None)
    merges: tuple[Merge, ...] = ()
    reports: tuple[Report, ...] = ()
    deliveries: int = 0
    commits: int = 0
    runs: int = 0
    reruns: int = 1

    @property
    def head(self) -> int:
        """Id of the branch's newest commit."""
        return self.branch[-1].id if self.branch else INPUT

    @property
    def shown(self) -> Content:
        """What the head shows."""
        return self.branch[-1].content if self.branch else frozenset()


Moves = Iterator[tuple[str, State]]
"""What can happen next: its name, and what comes of it."""
