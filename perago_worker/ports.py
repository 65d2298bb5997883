"""What the worker needs from a task queue, a workspace store and a clock.

The docstrings are the contract; `tests/contract/` runs it over every adapter. A port promises no
more than the weakest real server does: of all queue calls only `observe` tells whether a lease is
held, and a store may publish on a head that moved within the call, so the caller verifies.

Every method is safe to call from any thread. Every method blocks for at most the adapter's request
timeout unless it says otherwise. None of them retries what it sent: the caller knows the deadline.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Literal, Protocol, runtime_checkable

from perago_worker.models import Change, CommitInfo, Lease, ObjectInfo, Observation, Outcome

TaskEnd = Literal["running", "completed", "failed", "gone"]
"""Whether and how a task has ended. `running` is every state from which it may still complete, one
that waits in the queue included; `failed` every other end than completion; `gone`: no such task."""

FenceLevel = Literal["swap", "hook", "verify"]
"""How well a publication is fenced; see `WorkspaceStore.fence_level`."""

MAX_POLL_WAIT_S = 5.0
"""Longest time a queue holds a poll open. Source: Conductor 3.32.1 refuses more than 5000 ms."""


class Clock(Protocol):
    """Time, passed in so that tests can move it."""

    def now(self) -> float:
        """Return seconds on a clock that never goes back and counts time spent suspended.

        Leases and deadlines are measured with it, never with `time`.
        """

    def time(self) -> float:
        """Return wall-clock seconds since the epoch, for records people read."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Block until `event` is set or `seconds` have passed; return whether it is set."""


class TaskQueue(Protocol):
    """Where attempts come from and outcomes go to.

    Raises, from every method: `QueueUnavailable` when nothing was learnt (the call may have had its
    effect all the same) and `QueueRefused` when the queue understood and refuses.
    """

    def ping(self) -> None:
        """Ask the queue whether it is there and knows us. Idempotent."""

    def poll(
        self, task_type: str, *, count: int, wait_s: float, domain: str | None = None
    ) -> list[Lease]:
        """Take up to `count` tasks; the server may return more, and the same task twice.

        Not idempotent: an answer that is lost leaves its tasks leased to nobody until their
        response timeout. Never abort one in flight.

        Args:
            count: At least 1. Ask for no more than can start now.
            wait_s: How long the server may hold the poll open while nothing is queued, 0 to
                `MAX_POLL_WAIT_S`. The call blocks for at most that and the request timeout. With
                `count` above 1 some servers hold back tasks they have for the whole wait.
            domain: Conductor task domain; None is the default queue.
        """

    def observe(self, lease: Lease) -> Observation:
        """Read the server's record and tell whether `lease` is still ours. Idempotent.

        The answer is about the past as soon as it is given: it narrows a race, never closes it.
        """

    def extend(self, lease: Lease) -> None:
        """Restart the response timeout. Says nothing about whether the lease is held.

        Must not overlap `complete` or `give_back` of the same task: on Conductor a late extension
        undoes a completion. The caller holds one lock per attempt around all three.
        """

    def complete(self, lease: Lease, outcome: Outcome, *, timeout_s: float | None = None) -> None:
        """Report an outcome of kind completed, failed or terminal. The first report wins.

        Idempotent. Says nothing about acceptance: a report for a task that has ended is ignored in
        silence, so that repeating it is safe. One for a task that was delivered again under the
        same id is taken, whoever sends it: look with `observe` before.

        Args:
            outcome: Its log lines are recorded with the task, its reason is `full_reason`.
            timeout_s: Request timeout; None is the adapter's own.

        Raises:
            QueueRefused: The queue will never take this report, for example because of its size.
        """

    def give_back(self, lease: Lease, *, after_s: float = 0.0) -> None:
        """Put the task back in the queue for anyone, after `after_s` seconds, using no retry.

        The task keeps its id and retry count and gets a new poll count. When the task's poll
        timeout has nearly passed, a queue would end it instead: the adapter then delays the task by
        as much as keeps it alive. Nothing is known of the lease afterwards but that it is not ours.
        """

    def append_log(self, lease: Lease, lines: Sequence[str]) -> None:
        """Add lines to the task's log, in order. A task that has ended or is gone is no error."""

    def ended(self, task_id: str) -> TaskEnd:
        """Tell whether and how a task has ended, whoever held it. Idempotent.

        For deciding what a publication of another attempt is worth, and whether a stage has an
        owner; never for deciding about a lease of our own, which is `observe`'s.
        """

    def depth(self, task_type: str, *, domain: str | None = None) -> int:
        """Count the tasks that wait in the queue, delayed ones included, running ones not."""

    def taskdef(self, name: str) -> dict[str, Any] | None:
        """Return the registered task definition as JSON, or None when there is none. Idempotent."""

    def register_taskdef(self, taskdef: Mapping[str, Any]) -> None:
        """Register a task definition; fields it does not name keep their registered values.

        Idempotent. Workflows that run keep the definition they started with.
        """

    def close(self) -> None:
        """Release connections. Idempotent; calls in flight may fail."""


class Digest(Protocol):
    """A running checksum, shaped like those of `hashlib`."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """Return the checksum of all bytes added."""

    def copy(self) -> Digest:
        """Return another one over the same bytes."""


@runtime_checkable
class Digested(Protocol):
    """A file to be stored that computes the checksum of what is read of it, from its beginning.

    Attributes:
        digest: Of all that was read so far, made by `WorkspaceStore.new_digest`.
    """

    digest: Digest


@runtime_checkable
class Rewindable(Digested, Protocol):
    """A file to be stored of which a part can be read again, when it was not stored."""

    def mark(self) -> None:
        """Begin a part here."""

    def rewind(self) -> bool:
        """Wait, and go back to where the part began; `digest` is then as it was there.

        Raises what the caller of `Stage.write` is to be told when it is to stop.

        Returns:
            False when the part has been tried often enough; nothing has changed then.
        """


class Stage(Protocol):
    """A private place that starts as a commit's content; nobody else sees what is done there.

    Used by one attempt, which drops it in the end, whatever happens. `write` and `delete` may be
    called from several threads at once; `commit` is called once they are done.
    """

    @property
    def name(self) -> str:
        """Name of the hidden branch."""

    def write(self, key: str, source: BinaryIO, size: int) -> ObjectInfo:
        """Store `size` bytes of `source` under `key` and return what the store says it stored.

        Streams: memory does not grow with `size`. Not repeated by the adapter, since `source` is
        used up; the caller may open it anew and write again. An adapter that stores it in parts
        repeats one that fails, if `source` is `Rewindable`. The caller compares the returned size
        and checksum with what it read. Where `source` is `Digested`, an adapter that needs the
        checksum need not compute it again.

        Raises:
            StoreUnavailable: Nothing was learnt; or `source` had fewer bytes than `size`.
        """

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, any number in one call. Idempotent; a missing key is no error."""

    def commit(self, message: str, metadata: Mapping[str, str]) -> CommitInfo:
        """Freeze the stage's content as a commit whose parent is the stage's base.

        Idempotent: called again after an answer was lost, it returns the commit that was made.

        Raises:
            NothingToCommit: The content equals the base commit's.
        """


class WorkspaceStore(Protocol):
    """Versioned objects in repositories, on branches that move from commit to commit.

    Raises, from every method: `StoreUnavailable` when nothing was learnt (the call may have had its
    effect all the same), `StoreRefused` when the store understood and refuses, and `NotFound` for a
    repository, branch, commit or object that does not exist.
    """

    def ping(self) -> None:
        """Ask the store whether it is there and knows us. Idempotent."""

    def resolve(self, repository: str, ref: str) -> CommitInfo:
        """Return the commit whose id is `ref`, or begins with it and no other's does. Idempotent.

        Raises:
            NotFound: No such repository or commit; names of branches and tags are not found.
        """

    def head(self, repository: str, branch: str) -> CommitInfo:
        """Return the commit a branch is at. Idempotent; never answered from a cache."""

    def history(
        self, repository: str, branch: str, *, limit: int, until: str | None = None
    ) -> list[CommitInfo]:
        """Return the first-parent chain of a branch, newest first, at most `limit` commits.

        Idempotent; never answered from a cache.

        Args:
            until: Id of the commit with which the chain may end, where it comes that far. A commit
                that is near the head is found without reading much of what is below it.
        """

    def list(self, repository: str, commit: str, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix` (a plain string), in key order.

        Blocks while pages are fetched, during iteration. Keys come as stored, hostile ones too.
        """

    def changes(self, repository: str, base: str, commit: str, prefix: str) -> Iterator[Change]:
        """Yield how the objects under a prefix differ at `commit` from those at `base`.

        In key order. The two may be any commits of the repository, in any relation: `commit` may be
        the older one. What becomes of the objects of `base` when every change is applied is exactly
        what `list` shows of `commit`. The cost follows the number of changes. An object may be
        named although its bytes are the same, when something else about it differs.

        Blocks while pages are fetched, during iteration.
        """

    def read(
        self,
        repository: str,
        commit: str,
        key: str,
        into: BinaryIO,
        *,
        start: int = 0,
        size: int | None = None,
        listed_size: int | None = None,
    ) -> int:
        """Write an object's bytes to `into`, streaming, and return their number. Idempotent.

        The caller compares size and checksum with the listing, and starts over with an empty file
        when the call fails half-way. What `into` raises, such as the OSError of a full disk, is
        passed on as it is.

        Args:
            start: The first byte wanted.
            size: How many bytes are wanted at most, from 1; None is all that follow. Fewer are
                written where the object ends before, none where it ends at or before `start`.
            listed_size: The object's size, where the caller knows it: small ones may be read in
                another way than large ones, to the same effect.
        """

    @property
    def seeks(self) -> bool:
        """Whether reading a range costs what it holds, rather than what precedes it as well."""

    def new_digest(self, size: int) -> Digest:
        """Return a digest that, fed an object's `size` bytes, yields the checksum listings show."""

    def stage(self, repository: str, base: str, name: str) -> Stage:
        """Open a new hidden stage that starts as the content of commit `base`.

        Raises:
            StoreRefused: A stage of that name exists.
        """

    def replacement(
        self,
        repository: str,
        *,
        on: CommitInfo,
        content: CommitInfo,
        name: str,
        message: str,
        metadata: Mapping[str, str],
    ) -> CommitInfo:
        """Commit exactly the content of one commit on top of another, on a new hidden stage.

        What `publish` then makes of it has the tree of `content`, whatever was between.

        Args:
            on: The parent.
            content: A commit of the same repository; its tree may equal that of `on`.
            name: Name of the stage, which the caller drops.

        Raises:
            StoreRefused: A stage of that name exists.
        """

    def fence_level(self, repository: str, commit: str) -> FenceLevel:
        """Tell how well publications that start from `commit` are fenced. Idempotent; cached.

        `swap`: the store compares and swaps by itself. `hook`: the store runs our hook within the
        merge, which makes it a compare-and-swap; `commit` holds it and it was seen to refuse.
        `verify`: neither; a commit made during the merge is noticed afterwards.
        """

    def drop_stage(self, repository: str, name: str) -> None:
        """Remove a stage. Idempotent; one that does not exist is no error.

        Commits made from it can still be published afterwards.
        """

    def stages(self, repository: str) -> Sequence[str]:
        """Return the names of the hidden stages that exist, dropped ones not. Idempotent."""

    def publish(
        self,
        repository: str,
        branch: str,
        *,
        source: CommitInfo,
        expected_head: str,
        metadata: Mapping[str, str],
        message: str,
        timeout_s: float,
        allow_unchanged: bool = False,
    ) -> CommitInfo:
        """Merge a staged commit into a branch that is at `expected_head` and return the merge.

        The merge commit's parents are the head it replaced and `source`; its tree is the source's
        when that head is the source's base. Stores that can compare and swap do so with
        `expected_head`; on others a commit made during the call becomes the first parent, nothing
        of it is lost, and the caller sees it in `parents`. The branch is never reset. Safe to
        repeat with the same source after `PublishUnknown`: a second merge changes nothing.

        Args:
            metadata: Recorded on the merge commit.
            timeout_s: Request timeout of the merge call.
            allow_unchanged: Merge also when the branch holds the same content already.

        Raises:
            HeadMoved: The branch is elsewhere, or the content conflicts with what is there;
                nothing was published.
            PublishUnknown: The merge was sent and no answer came. Read the head before anything.
            StoreUnavailable: The merge was certainly not carried out (connection refused,
                throttled, or others hold uncommitted changes on the branch). It may be tried again.
        """

    def close(self) -> None:
        """Release connections. Idempotent; calls in flight may fail."""
