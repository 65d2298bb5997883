"""What one attempt says to the queue and the store, judged while it says it.

The store forgives much: a merge decided on a head that has moved is refused, and nobody sees that
it should never have been sent. Here it counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from perago_worker.models import CommitInfo, Held, Lease, Publication, Token


class Conduct:
    """Follows the calls of one attempt, heartbeats included.

    Args:
        lease: Returns the newest delivery the attempt stands for.
        is_holder: Tells whether the queue's record shows a lease as the one that holds its task.
        complain: Takes what the attempt did wrong.
    """

    def __init__(
        self,
        *,
        lease: Callable[[], Lease],
        is_holder: Callable[[Lease], bool],
        complain: Callable[[str], None],
    ) -> None:
        self._lease = lease
        self._is_holder = is_holder
        self._complain = complain
        self._asked_of: Lease | None = None
        self._chain: Sequence[CommitInfo] = ()
        self._observed = self._confirmed = self._lost = self._reported = False

    def sent(self, call: str, given: Sequence[Any], named: Mapping[str, Any]) -> None:
        """Judge a call that is about to be carried out, now or later."""
        match call:
            case "publish":
                self._judge_merge(**named)
            case "observe":
                self._asked_of = given[0]
            case "extend" if self._reported:
                self._complain("a lease was extended after its task was reported")
            case "complete" if self._lost:
                self._complain("a report was sent for a lease that was known to be lost")

    def answered(self, call: str, answer: object) -> None:
        """Take note of an answer the attempt has had."""
        match call:
            case "history":
                assert isinstance(answer, list)
                self._chain = answer
                self._observed = self._confirmed = False
            case "observe":
                assert self._asked_of is not None
                self._observed = isinstance(answer, Held)
                # The attempt may stand for a newer delivery than the one it asked about.
                self._lost = not self._observed and self._asked_of == self._lease()
                if self._observed and not self._is_holder(self._asked_of):
                    self._complain("a lease was said to be held that another delivery holds")
            case "extend":
                self._confirmed = self._observed
            case "complete":
                self._reported = True

    def _judge_merge(
        self, *, source: CommitInfo, expected_head: str, metadata: Mapping[str, str], **_: object
    ) -> None:
        if not self._confirmed:
            self._complain("a merge was sent without a lease confirmed after the decision")
        if not self._chain or self._chain[0].id != expected_head:
            self._complain("a merge was sent for another head than was read last")
        if source.parents[:1] != (expected_head,) and source.id != expected_head:
            self._complain("a merge was sent of content that was not made on the expected head")
        ours = Publication.from_metadata(metadata)
        if ours is None:
            self._complain("a merge was sent that does not say who made it")
        else:
            self._judge_above(ours)

    def _judge_above(self, ours: Publication) -> None:
        ids = [commit.id for commit in self._chain]
        if ours.input_ref not in ids:
            self._complain("a merge was sent to a branch that does not lead to the input")
            return
        above = [Publication.from_metadata(c.metadata) for c in self._chain]
        for each in above[: ids.index(ours.input_ref)]:
            if each is None or each.workflow_id != ours.workflow_id:
                self._complain("a merge was sent that replaces somebody else's work")
            elif each.lineage == ours.lineage and not _age(each.token) < _age(ours.token):
                self._complain("a merge was sent that replaces a newer delivery's work")


def _age(token: Token) -> tuple[int, int, int]:
    return token.start_time_ms, token.retry_count, token.poll_count
