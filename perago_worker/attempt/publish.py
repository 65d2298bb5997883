"""Stage what changed, and make it the branch's head: at most once, whole or not at all.

The order of things is the promise: the lease is confirmed after the last decision and before the
merge is sent; a merge whose answer is lost is looked for before anything else is done; what was
merged is verified against what was staged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Literal

from perago_worker.attempt.backoff import Backoff, Retry
from perago_worker.attempt.budget import Budget
from perago_worker.attempt.codes import Code
from perago_worker.attempt.fence import (
    CHAIN_LIMIT,
    AlreadyPublished,
    PublishOn,
    Refuse,
    Replace,
    decide,
    short,
)
from perago_worker.attempt.lease_keeper import LeaseKeeper
from perago_worker.attempt.transfer import DigestingReader, for_each
from perago_worker.attempt.workspace import Changes, Workspace, open_regular
from perago_worker.errors import (
    AttemptError,
    HeadMoved,
    PublishUnknown,
    RetryableAttemptError,
    StoreRefused,
    StoreUnavailable,
    TerminalAttemptError,
)
from perago_worker.events import Listener, Published
from perago_worker.models import CommitInfo, Publication, WorkspaceInput
from perago_worker.ports import Clock, Stage, WorkspaceStore

FINAL_LOOKS = 4
"""How often the branch is asked about a merge of unknown outcome once the budget is used up."""

_PublishOutcome = Literal["merged", "refused", "lost_race", "failed"]


def upload(
    changes: Changes,
    workspace: Workspace,
    stage: Stage,
    *,
    store: WorkspaceStore,
    threads: int,
    retry: Retry,
    check: Callable[[], None],
) -> None:
    """Put every change on the stage and verify what the store says it stored.

    Raises:
        RetryableAttemptError: A file changed while it was read, or was stored as something else.
        StoreUnavailable: An object could not be stored in several tries.
    """

    def send(item: tuple[str, int]) -> None:
        path, size = item
        retry(_upload_file, path, size, workspace, stage, store)

    for_each(changes.written.items(), send, threads=threads, check=check)
    if changes.deleted:
        retry(stage.delete, [workspace.key(path) for path in changes.deleted])


def _upload_file(
    path: str, size: int, workspace: Workspace, stage: Stage, store: WorkspaceStore
) -> None:
    digest = store.new_digest(size)
    with open_regular(workspace.directory / path) as file:
        reader = DigestingReader(file, digest)
        stored = stage.write(workspace.key(path), reader.as_binary(), size)
        grown = bool(file.read(1))
    if grown or reader.bytes_read != size:
        raise RetryableAttemptError(
            Code.WORKSPACE_CHANGED,
            f"file {path!a} changed in size while it was being published. "
            "Nothing may write to the workspace once the body has returned.",
        )
    if (stored.size, stored.checksum) != (size, digest.hexdigest()):
        raise StoreUnavailable(f"file {path!a} was stored damaged")


class Publisher:
    """Publishes one staged commit within a budget."""

    def __init__(
        self,
        target: WorkspaceInput,
        publication: Publication,
        *,
        store: WorkspaceStore,
        keeper: LeaseKeeper,
        clock: Clock,
        listener: Listener,
        budget: Budget,
        shut_down: threading.Event,
    ) -> None:
        self._target = target
        self._publication = publication
        self._store = store
        self._keeper = keeper
        self._clock = clock
        self._listener = listener
        self._budget_s = budget.merge_s
        self._shut_down = shut_down

    def check_head(self) -> None:
        """Find out whether this attempt could publish at all, before it does any work.

        Raises:
            TerminalAttemptError: The branch was moved by somebody else.
        """
        self._allowed()

    def publish(self, source: CommitInfo) -> CommitInfo:
        """Merge `source` into the branch and return the verified merge commit.

        Raises:
            AttemptAbandoned: The lease was lost before the merge was sent.
            TerminalAttemptError: The branch was moved by somebody else.
            RetryableAttemptError: Nothing could be published within the budget.
        """
        started_at = self._clock.now()
        try:
            merged = self._publish_within(source, started_at + self._budget_s)
            self._verify(merged, source)
        except AttemptError as error:
            self._tell(_outcome_of(error), "", started_at, error.reason)
            raise
        self._tell("merged", merged.id, started_at, "")
        return merged

    def _publish_within(self, source: CommitInfo, deadline: float) -> CommitInfo:
        trouble = "the budget is used up"
        unknown = False
        for wait_s in Backoff(first_s=0.2, cap_s=5.0):
            try:
                allowed = self._allowed()
                if isinstance(allowed, AlreadyPublished):
                    return allowed.commit
                self._keeper.confirm()
                return self._merge(source, allowed, deadline)
            except RetryableAttemptError as unconfirmed:
                trouble = unconfirmed.reason  # the queue may be back before the budget is over
            except HeadMoved as moved:
                trouble = str(moved)  # ours, if an earlier merge had its effect: decide again
            except (PublishUnknown, StoreUnavailable) as error:
                trouble = str(error)
                unknown = unknown or isinstance(error, PublishUnknown)
            except StoreRefused as refused:
                raise TerminalAttemptError(
                    Code.STORE_REFUSED, f"the store refuses the publication: {refused}"
                ) from refused
            if self._clock.now() + wait_s > deadline or self._clock.wait(self._shut_down, wait_s):
                break
        if unknown and (ours := self._find_ours()):
            return ours
        raise RetryableAttemptError(
            Code.PUBLISH_FAILED, f"not published within {self._budget_s:g} s: {trouble}"
        )

    def _find_ours(self) -> CommitInfo | None:
        """Look for a merge whose answer was lost, when no time is left to send another.

        The usual reason to be here: the request for the merge took all of the budget.
        """
        for wait_s in islice(Backoff(first_s=0.2, cap_s=5.0), FINAL_LOOKS):
            with suppress(StoreUnavailable):
                allowed = self._allowed()
                return allowed.commit if isinstance(allowed, AlreadyPublished) else None
            if self._clock.wait(self._shut_down, wait_s):
                break
        return None

    def _allowed(self) -> PublishOn | AlreadyPublished:
        chain = self._store.history(self._target.repository, self._target.branch, limit=CHAIN_LIMIT)
        match decide(chain, self._publication):
            case PublishOn() | AlreadyPublished() as allowed:
                return allowed
            case Replace(head, replaced):
                raise self._refused(
                    f"an earlier attempt of this task ({replaced.task_id}) published "
                    f"{short(head.id)} and never reported it"
                )
            case Refuse(_, reason):
                raise self._refused(reason)

    def _refused(self, reason: str) -> TerminalAttemptError:
        target = self._target
        return TerminalAttemptError(
            Code.HEAD_MOVED,
            f"branch '{target.branch}' of '{target.repository}' has moved since the input commit "
            f"{short(self._publication.input_ref)}: {reason}. Nothing was published; start a new workflow from "
            "the branch's head.",
        )

    def _merge(self, source: CommitInfo, allowed: PublishOn, deadline: float) -> CommitInfo:
        timeout_s = min(deadline - self._clock.now(), self._keeper.remaining_s)
        if timeout_s <= 0:
            raise StoreUnavailable("no time is left in the publish budget or the lease")
        return self._store.publish(
            self._target.repository,
            self._target.branch,
            source=source,
            expected_head=allowed.head.id,
            metadata=self._publication.metadata(expected_head=allowed.head.id),
            message=f"Publish {self._publication.lineage}",
            timeout_s=timeout_s,
        )

    def _verify(self, merged: CommitInfo, source: CommitInfo) -> None:
        """Compare the merge with what it should be; a difference is a race that was lost."""
        if merged.parents[0] == self._publication.input_ref and merged.tree == source.tree:
            return
        raise TerminalAttemptError(
            Code.LOST_RACE,
            f"another commit reached branch '{self._target.branch}' while {short(merged.id)} was "
            f"being merged: its parent is {short(merged.parents[0])}, not "
            f"{short(self._publication.input_ref)}. Both are in the branch's history; check the result.",
        )

    def _tell(self, outcome: _PublishOutcome, commit: str, started_at: float, detail: str) -> None:
        used = (self._clock.now() - started_at) / self._budget_s
        lease = self._keeper.lease
        self._listener.on_event(Published(lease, outcome, commit, used, detail))


def _outcome_of(error: AttemptError) -> _PublishOutcome:
    if error.code == Code.HEAD_MOVED:
        return "refused"
    return "lost_race" if error.code == Code.LOST_RACE else "failed"
