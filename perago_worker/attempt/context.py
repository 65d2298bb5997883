"""One attempt in progress: what it was given, and what its steps have found so far."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

from perago_worker.attempt.backoff import Retry
from perago_worker.attempt.body.runner import BodyRunner
from perago_worker.attempt.budget import Budget
from perago_worker.attempt.codes import Code
from perago_worker.attempt.directories import AttemptDirectories, AttemptDirectory
from perago_worker.attempt.lease_keeper import LeaseKeeper
from perago_worker.attempt.manifest import Manifest
from perago_worker.attempt.publish import Publisher
from perago_worker.attempt.stop import StopToken
from perago_worker.attempt.task_log import TaskLog
from perago_worker.attempt.workspace import Changes, Limits, Workspace
from perago_worker.errors import StoreUnavailable
from perago_worker.events import CallRepeated, Listener
from perago_worker.models import CommitInfo, Lease, Publication, WorkspaceInput
from perago_worker.ports import Clock, FenceLevel, TaskQueue, WorkspaceStore
from perago_worker.task import TaskDefinition

STORE_TRIES = 5
"""How often a call to the store is tried while it does not answer: over about a minute, so that a
restart of the store costs no attempt, and no more, so that no storm meets it when it returns."""


@dataclass(frozen=True)
class AttemptSettings:
    """What the configuration says about attempts of one task.

    Attributes:
        budget: For publishing; the task's own, or the configured default.
        limits: For the workspace.
        transfer_threads: Connections for downloads and uploads.
        body_timeout_s: A body is stopped after this long; None is never.
        record_result: Whether small results are recorded with the publication.
        adopt: Whether a result that an earlier attempt published is taken over when it can be.
        require_fence: Whether to refuse inputs whose publication would only be verified.
        sentinel: Whether to write sentinels where there is no better fence.
    """

    budget: Budget
    limits: Limits
    transfer_threads: int
    body_timeout_s: float | None = None
    record_result: bool = True
    adopt: bool = True
    require_fence: bool = False
    sentinel: bool = False


@dataclass(frozen=True)
class Tools:
    """What the attempts of one slot share.

    Attributes:
        redact: Takes secrets out of text that leaves the worker.
        shut_down: Set when the worker must end at once.
        draining: Set when the worker is to end once its attempts have.
    """

    queue: TaskQueue
    store: WorkspaceStore
    clock: Clock
    listener: Listener
    directories: AttemptDirectories
    body: BodyRunner
    settings: AttemptSettings
    redact: Callable[[str], str]
    shut_down: threading.Event
    draining: threading.Event = field(default_factory=threading.Event)


@dataclass
class Attempt:
    """The value that the steps of an attempt work on, each filling in what it found.

    Attributes:
        leaving: Undone at the end of the attempt, last first, however it ends.
        params: The task's `params` as they came, validated.
        input: The task's `workspace`.
        chain: First-parent history of `input.branch` at the beginning, down to the input commit
            where it leads there; of a task that publishes nothing, empty.
        input_commit: The commit that `input.ref` names.
        directory: Local directories; made once the input is known to be valid.
        publication: Identity of the publication this attempt wants to make.
        leftover: Commit on the branch that an earlier attempt published and could not report.
        workspace: The downloaded files.
        result: What the body returned, as JSON.
        changes: What the body made of the workspace.
        uploaded: States of the files that were stored on a stage.
        staged: The commit that holds the changes; None when there are none.
        output_ref: Commit that the output's `workspace` points at.
        code: What became of the workspace, for a completed attempt.
        fence: How well the publication is fenced.
        done: Set by a step after which none is needed.
    """

    definition: TaskDefinition
    keeper: LeaseKeeper
    stop: StopToken
    tools: Tools
    log: TaskLog
    leaving: ExitStack = field(default_factory=ExitStack)
    params: dict[str, Any] = field(init=False)
    input: WorkspaceInput = field(init=False)
    chain: Sequence[CommitInfo] = ()
    input_commit: CommitInfo = field(init=False)
    directory: AttemptDirectory = field(init=False)
    publication: Publication = field(init=False)
    leftover: str | None = None
    workspace: Workspace = field(init=False)
    result: dict[str, Any] = field(init=False)
    changes: Changes | None = None
    uploaded: Manifest = field(default_factory=dict)
    staged: CommitInfo | None = None
    output_ref: str | None = None
    code: Code = Code.NO_WORKSPACE
    fence: FenceLevel = "verify"
    done: bool = False

    @classmethod
    def begin(cls, definition: TaskDefinition, lease: Lease, tools: Tools) -> Self:
        """Return an attempt for a fresh lease, ready to be carried out."""
        stop = StopToken()
        keeper = LeaseKeeper(
            lease,
            queue=tools.queue,
            clock=tools.clock,
            heartbeat_interval_s=tools.settings.budget.heartbeat_s,
            stop=stop,
            shut_down=tools.shut_down,
            listener=tools.listener,
        )
        log = TaskLog(
            queue=tools.queue,
            clock=tools.clock,
            listener=tools.listener,
            redact=tools.redact,
            lease=lease,
        )
        return cls(definition, keeper=keeper, stop=stop, tools=tools, log=log)

    @property
    def lease(self) -> Lease:
        """The newest delivery this attempt stands for."""
        return self.keeper.lease

    @property
    def retry(self) -> Retry:
        """Tries a call to the store again while it does not answer and the attempt goes on."""
        return Retry(
            StoreUnavailable,
            tries=STORE_TRIES,
            first_s=1.0,
            cap_s=30.0,
            factor=4.0,
            clock=self.tools.clock,
            stop=self.stop.event,
            check=self.stop.check,
            on_repeat=lambda: self.tools.listener.on_event(CallRepeated("store")),
        )

    def publisher(self, *, new_stage_name: Callable[[], str] = str) -> Publisher:
        """Return what publishes for this attempt.

        Args:
            new_stage_name: Needed for replacing a publication, not for looking.
        """
        return Publisher(
            self.input,
            self.publication,
            store=self.tools.store,
            keeper=self.keeper,
            clock=self.tools.clock,
            listener=self.tools.listener,
            budget=self.tools.settings.budget,
            fence=self.fence,
            new_stage_name=new_stage_name,
            shut_down=self.tools.shut_down,
        )
