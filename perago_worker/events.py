"""What happens in a worker, told to whoever listens.

Listeners observe and never decide: logs, metrics and the end-of-run summary are equal listeners,
and one that fails is reported and left out of the way of the work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from perago_worker.models import Lease, Outcome
from perago_worker.ports import FenceLevel

PublishOutcome = Literal["merged", "replaced", "refused", "lost_race", "failed"]

WorkspaceSource = Literal["warm", "cold", "unfit"]

CacheLookup = Literal["hit", "miss", "corrupted"]


@dataclass(frozen=True)
class Event:
    """Base of all events.

    Attributes:
        at: When it happened, seconds since the epoch: listeners may be told later.
    """

    at: float = field(default_factory=time.time, kw_only=True, repr=False, compare=False)


@dataclass(frozen=True)
class PollFinished(Event):
    """A poller asked for work.

    Attributes:
        outcome: Whether tasks came, none came, or nothing was learnt.
        count: Number of tasks.
        seconds: How long the poll took.
        error: What went wrong; empty unless `outcome` is `error`.
        retry_in_s: When the poller asks again after an error.
    """

    task_type: str
    outcome: Literal["tasks", "empty", "error"]
    count: int = 0
    seconds: float = 0.0
    error: str = ""
    retry_in_s: float = 0.0


@dataclass(frozen=True)
class AttemptStarted(Event):
    """A slot took up an attempt."""

    lease: Lease


@dataclass(frozen=True)
class StepStarted(Event):
    """An attempt went on to its next step."""

    lease: Lease
    step: str


@dataclass(frozen=True)
class StepFinished(Event):
    """One step of an attempt ended, well or not.

    Attributes:
        step: The step's stable name, such as `download`.
        error: Class name of the exception that ended it; empty when it went well.
    """

    lease: Lease
    step: str
    seconds: float
    error: str = ""


@dataclass(frozen=True)
class AttemptFinished(Event):
    """An attempt is over.

    Attributes:
        reported: Whether the queue has taken the outcome; False too for what is never reported.
        error: Traceback or other long text for the log.
    """

    lease: Lease
    outcome: Outcome
    seconds: float
    reported: bool
    error: str = ""


@dataclass(frozen=True)
class BodyOutput(Event):
    """A body printed or logged a line, or reported progress."""

    lease: Lease
    stream: Literal["stdout", "stderr", "log", "progress"]
    line: str


@dataclass(frozen=True)
class TransferProgress(Event):
    """A transfer goes on; told a few times a second at most, and not at all of short ones.

    Attributes:
        objects: Objects that are complete.
        bytes: Bytes that were moved so far; those moved again count again.
        seconds: Time since it began.
        of_objects: How many objects there are; None while they are still being listed.
        of_bytes: How many bytes those have.
    """

    lease: Lease
    direction: Literal["download", "upload"]
    objects: int
    bytes: int
    seconds: float
    of_objects: int | None = None
    of_bytes: int | None = None


@dataclass(frozen=True)
class Transferred(Event):
    """Bytes of a workspace were moved, or found not to need moving."""

    lease: Lease
    direction: Literal["download", "upload"]
    objects: int
    bytes: int
    seconds: float
    skipped_bytes: int = 0


@dataclass(frozen=True)
class WorkspaceBrought(Event):
    """It was decided how an attempt gets its files.

    Attributes:
        source: `warm`: a workspace that was kept is brought up to date; `cold`: there is none;
            `unfit`: there is one that cannot be used. In both of these everything is downloaded.
        detail: Why it cannot be used.
    """

    lease: Lease
    source: WorkspaceSource
    detail: str = ""


@dataclass(frozen=True)
class WorkspaceNotKept(Event):
    """The workspace of an attempt that went well was removed, although some are kept."""

    lease: Lease
    reason: str


@dataclass(frozen=True)
class CacheUsed(Event):
    """The objects of a workspace were looked for in the cache, before they were read.

    Attributes:
        lookups: How many were there (`hit`), were not (`miss`), or were there and not what they
            should have been (`corrupted`): then they were removed, and read.
        hit_bytes: Bytes that need not be read.
    """

    lease: Lease
    lookups: Mapping[CacheLookup, int]
    hit_bytes: int


@dataclass(frozen=True)
class CacheTrimmed(Event):
    """Objects that were of use longest ago were removed from the cache."""

    objects: int
    bytes: int


@dataclass(frozen=True)
class CacheFailed(Event):
    """An object could not be kept in the cache or looked up, for the first time after others were.

    Work goes on as without a cache.
    """

    error: str


@dataclass(frozen=True)
class HeartbeatSent(Event):
    """A heartbeat was answered, or not.

    Attributes:
        outcome: `held`, `lost`, or `error` when nothing was learnt.
        delay_s: How long after it was due the heartbeat was sent; None for the one before a
            publication, which is sent whenever that is ready.
    """

    lease: Lease
    outcome: Literal["held", "lost", "error"]
    delay_s: float | None
    detail: str = ""


@dataclass(frozen=True)
class Published(Event):
    """A publication took effect, or was found not to be allowed.

    Attributes:
        outcome: `merged`; `replaced` when it took the place of an earlier attempt's; `refused`
            when the branch was elsewhere; `lost_race` when verification
            showed a commit that slipped in; `failed` when nothing could be published in time.
        fence: How well the publication was fenced.
        budget_used: Share of the publish budget that the merge took, 0 to 1 and beyond.
    """

    lease: Lease
    outcome: PublishOutcome
    commit: str
    budget_used: float
    fence: FenceLevel
    detail: str = ""


@dataclass(frozen=True)
class StageLeft(Event):
    """A hidden stage could not be dropped and stays until it is swept."""

    lease: Lease
    repository: str
    name: str


@dataclass(frozen=True)
class Swept(Event):
    """Something that a killed worker had left behind was removed.

    Attributes:
        kind: What it was: a hidden stage, or the directory of a worker.
        repository: Where the stage was; empty for a directory.
    """

    kind: Literal["stage", "directory"]
    repository: str
    name: str


@dataclass(frozen=True)
class GivenBack(Event):
    """A task was put back in the queue, or should have been.

    Attributes:
        error: Why it could not; empty when it was. The task then returns by its response timeout.
    """

    lease: Lease
    why: str
    error: str = ""


@dataclass(frozen=True)
class ChildStarted(Event):
    """A child process for bodies is ready.

    Attributes:
        cause: Why it was started: `start`, `recycled`, `ended` or `stopped`.
    """

    task_type: str
    pid: int
    cause: str


@dataclass(frozen=True)
class ServiceFailed(Event):
    """A part of the worker ended on an exception; it is started again, or the worker ends."""

    service: str
    error: str
    restart_in_s: float | None


@dataclass(frozen=True)
class StateChanged(Event):
    """The worker as a whole went into another state."""

    state: Literal["starting", "running", "draining", "stopped"]
    detail: str = ""


@dataclass(frozen=True)
class Stalled(Event):
    """A part of the worker has made no progress for too long.

    Attributes:
        stacks: What every thread of the process is doing.
    """

    service: str
    silent_s: float
    stacks: str


@dataclass(frozen=True)
class QueueSeen(Event):
    """The queue told how many tasks of a type wait in it."""

    task_type: str
    waiting: int


@dataclass(frozen=True)
class RequestFinished(Event):
    """A request to a server was answered, or not.

    Attributes:
        service: `conductor`, `lakefs`, or `storage`: the object store, by signed addresses.
        operation: What was asked for, one of a few words.
        route: Its path with placeholders, without values.
        status: Of the answer; 0 when none came.
        seconds: Until the answer, or until nothing more was waited for.
        date: The answer's Date header as it came, the server's clock; empty when there was none.
    """

    service: Literal["conductor", "lakefs", "storage"]
    operation: str
    method: str
    route: str
    status: int
    seconds: float
    date: str = ""


@dataclass(frozen=True)
class CallRepeated(Event):
    """A call to a port is made again, because it was not answered."""

    port: Literal["queue", "store"]


class Listener(Protocol):
    """Told of every event, from whichever thread it happens in or from one that tells of all."""

    def on_event(self, event: Event) -> None:
        """Take note of one event."""


class Fanout:
    """A listener that tells many, and survives each of them."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = tuple(listeners)

    def on_event(self, event: Event) -> None:
        """Tell every listener; one that raises does not keep the others from hearing."""
        for listener in self._listeners:
            try:
                listener.on_event(event)
            except Exception:
                logging.getLogger(__name__).exception("listener failed on %s", type(event).__name__)
