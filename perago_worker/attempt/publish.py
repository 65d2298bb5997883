"""Make what was staged the branch's head: at most once, whole or not at all.

The order of things is the promise: the lease is confirmed after the last decision and before the
merge is sent; a merge whose answer is lost is looked for before anything else is done; what was
merged is verified against what was staged.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice

from perago_worker.attempt.backoff import Backoff
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
from perago_worker.errors import (
    AttemptError,
    HeadMoved,
    PublishUnknown,
    RetryableAttemptError,
    StoreRefused,
    StoreUnavailable,
    TerminalAttemptError,
)
from perago_worker.events import Listener, Published, PublishOutcome
from perago_worker.models import CommitInfo, Publication, WorkspaceInput
from perago_worker.models.publication import EXPECTED_HEAD
from perago_worker.ports import Clock, FenceLevel, WorkspaceStore

FINAL_LOOKS = 4
"""How often the branch is asked about a merge of unknown outcome once the budget is used up."""

Allowed = PublishOn | Replace | AlreadyPublished
"""What a branch may allow; everything else is refused."""


class Publisher:
    """Makes one content the branch's, within a budget and at most once."""

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
        fence: FenceLevel,
        new_stage_name: Callable[[], str],
        shut_down: threading.Event,
    ) -> None:
        """Prepare.

        Args:
            fence: How well the publication is fenced, for the record.
            new_stage_name: Makes a name for a stage, which the caller drops.
        """
        self._target = target
        self._publication = publication
        self._store = store
        self._keeper = keeper
        self._clock = clock
        self._listener = listener
        self._budget_s = budget.merge_s
        self._fence = fence
        self._new_stage_name = new_stage_name
        self._shut_down = shut_down
        self._replacements: dict[str, CommitInfo] = {}

    @property
    def replaced(self) -> bool:
        """Whether what was published took the place of an earlier attempt's publication."""
        return any(head != self._publication.input_ref for head in self._replacements)

    def look(self) -> Allowed:
        """Read the branch and decide what it allows this attempt to publish.

        Raises:
            TerminalAttemptError: The branch was moved by somebody else.
        """
        return self.decide(
            self._store.history(
                self._target.repository,
                self._target.branch,
                limit=CHAIN_LIMIT,
                until=self._publication.input_ref,
            )
        )

    def decide(self, chain: Sequence[CommitInfo]) -> Allowed:
        """Decide what the branch allows this attempt to publish, from its history.

        Raises:
            TerminalAttemptError: The branch was moved by somebody else.
        """
        decision = decide(chain, self._publication)
        if isinstance(decision, Refuse):
            raise self._refused(decision.reason)
        return decision

    def publish(self, content: CommitInfo) -> CommitInfo | None:
        """Make the content of a commit the branch's and return the verified merge commit.

        Args:
            content: The staged commit, or the input commit when nothing has changed.

        Returns:
            None when the branch is at `content` already and nothing can be late: nothing was
            published.

        Raises:
            AttemptAbandoned: The lease was lost before the merge was sent.
            TerminalAttemptError: The branch was moved by somebody else.
            RetryableAttemptError: Nothing could be published within the budget.
        """
        started_at = self._clock.now()
        try:
            merged = self._publish_within(content, started_at + self._budget_s)
            if merged is None:
                return None
            self._verify(merged, content)
        except AttemptError as error:
            self._tell(_outcome_of(error), "", started_at, error.reason)
            raise
        self._tell("replaced" if self.replaced else "merged", merged.id, started_at, "")
        return merged

    def _publish_within(self, content: CommitInfo, deadline: float) -> CommitInfo | None:
        trouble = "the budget is used up"
        unknown = False
        for wait_s in Backoff(first_s=0.2, cap_s=5.0):
            try:
                allowed = self.look()
                if isinstance(allowed, AlreadyPublished):
                    return allowed.commit
                if allowed.head.id == content.id and not self._something_may_be_late:
                    return None
                source = self._source(allowed, content)
                self._keeper.confirm()
                return self._merge(source, allowed.head, deadline)
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

    @property
    def _something_may_be_late(self) -> bool:
        """Whether a merge of an earlier delivery may be on its way, and a fence would refuse it.

        The branch is moved on then although nothing has changed: otherwise that merge would still
        find the head it expects, after this attempt was told to have changed nothing.
        """
        token = self._publication.token
        return self._fence != "verify" and (token.retry_count > 0 or token.poll_count > 1)

    def _find_ours(self) -> CommitInfo | None:
        """Look for a merge whose answer was lost, when no time is left to send another.

        The usual reason to be here: the request for the merge took all of the budget.
        """
        for wait_s in islice(Backoff(first_s=0.2, cap_s=5.0), FINAL_LOOKS):
            with suppress(StoreUnavailable):
                allowed = self.look()
                return allowed.commit if isinstance(allowed, AlreadyPublished) else None
            if self._clock.wait(self._shut_down, wait_s):
                break
        return None

    def _source(self, allowed: PublishOn | Replace, content: CommitInfo) -> CommitInfo:
        """Return the commit to merge: the content itself, or a new one of it on what is there."""
        head = allowed.head
        if isinstance(allowed, PublishOn) and head.id != content.id:
            return content
        if head.id not in self._replacements:
            # Made once for each head: sent again, the same commit cannot be merged twice.
            self._replacements[head.id] = self._store.replacement(
                self._target.repository,
                on=head,
                content=content,
                name=self._new_stage_name(),
                message=f"{'Keep' if head.id == content.id else 'Replace'} {short(head.id)} "
                f"for {self._title}",
                metadata=self._publication.metadata(expected_head=head.id),
            )
        return self._replacements[head.id]

    @property
    def _title(self) -> str:
        lease = self._keeper.lease
        return f"{lease.task_type} of workflow {lease.workflow_id}"

    def _refused(self, reason: str) -> TerminalAttemptError:
        target = self._target
        return TerminalAttemptError(
            Code.HEAD_MOVED,
            f"branch '{target.branch}' of '{target.repository}' has moved since the input commit "
            f"{short(self._publication.input_ref)}: {reason}. Nothing was published; start a new "
            "workflow from the branch's head.",
        )

    def _merge(self, source: CommitInfo, head: CommitInfo, deadline: float) -> CommitInfo:
        timeout_s = min(deadline - self._clock.now(), self._keeper.remaining_s)
        if timeout_s <= 0:
            raise StoreUnavailable("no time is left in the publish budget or the lease")
        return self._store.publish(
            self._target.repository,
            self._target.branch,
            source=source,
            expected_head=head.id,
            metadata=self._publication.metadata(expected_head=head.id),
            message=f"Publish {self._title}",
            timeout_s=timeout_s,
            # Only where it is needed: otherwise a second merge of the same commit changes nothing.
            allow_unchanged=source.tree == head.tree,
        )

    def _verify(self, merged: CommitInfo, content: CommitInfo) -> None:
        """Compare the merge with what it should be; a difference is a race that was lost."""
        expected = merged.metadata.get(EXPECTED_HEAD, self._publication.input_ref)
        if merged.parents[0] == expected and merged.tree == content.tree:
            return
        raise TerminalAttemptError(
            Code.LOST_RACE,
            f"another commit reached branch '{self._target.branch}' while {short(merged.id)} was "
            f"being merged: its parent is {short(merged.parents[0])}, not {short(expected)}. Both "
            "are in the branch's history; check the result.",
        )

    def _tell(self, outcome: PublishOutcome, commit: str, started_at: float, detail: str) -> None:
        used = (self._clock.now() - started_at) / self._budget_s
        lease = self._keeper.lease
        self._listener.on_event(Published(lease, outcome, commit, used, self._fence, detail))


def _outcome_of(error: AttemptError) -> PublishOutcome:
    if error.code == Code.HEAD_MOVED:
        return "refused"
    return "lost_race" if error.code == Code.LOST_RACE else "failed"
