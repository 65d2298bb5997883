"""May this attempt publish, and on top of what: a pure decision over what was observed.

The chain is the branch's first-parent history, newest first. Every publication says in its metadata
which logical task made it (lineage), by which delivery of it (token), and from which input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from perago_worker.models import CommitInfo, Publication
from perago_worker.ports import TaskEnd

CHAIN_LIMIT = 200
"""Commits read from the branch's head down in search of the input. A workflow that published more
often than this between an attempt and its retry is refused, which is safe."""


@dataclass(frozen=True)
class PublishOn:
    """The branch is at the input: publish on top of it."""

    head: CommitInfo


@dataclass(frozen=True)
class Replace:
    """An older publication of this same logical task is in the way, and may be replaced.

    Everything above the input was made by this workflow, beginning with that publication, so the
    tree of `head` is the input's tree and what this workflow made of it: a commit with exactly our
    tree on top of `head` undoes nobody else's work.

    Attributes:
        publications: What is above the input, newest first.
    """

    head: CommitInfo
    publications: tuple[Publication, ...]


@dataclass(frozen=True)
class AlreadyPublished:
    """Our own publication is on the branch: its answer was lost."""

    commit: CommitInfo


@dataclass(frozen=True)
class Refuse:
    """The branch was moved by somebody whose work we must not touch."""

    head: CommitInfo | None
    reason: str


Decision = PublishOn | Replace | AlreadyPublished | Refuse


def decide(chain: Sequence[CommitInfo], ours: Publication) -> Decision:
    """Decide what the branch's history allows our publication to do.

    Args:
        chain: First-parent history of the branch, newest first, long enough to reach the input if
            the input is near.
        ours: The publication this attempt wants to make.
    """
    if not chain:
        return Refuse(None, "the branch has no commits")
    head = chain[0]
    above = _above_input(chain, ours.input_ref)
    for commit in chain if above is None else above:
        found = Publication.from_metadata(commit.metadata)
        if found is not None and found.uuid == ours.uuid:
            return AlreadyPublished(commit)
    if above is None:
        return Refuse(head, f"its history does not lead to the input {short(ours.input_ref)}")
    if not above:
        return PublishOn(head)
    return _decide_above(head, above, ours)


def _above_input(chain: Sequence[CommitInfo], input_ref: str) -> list[CommitInfo] | None:
    """Return the commits above the input, newest first; None when the chain does not reach it."""
    for position, commit in enumerate(chain):
        if commit.id == input_ref:
            return list(chain[:position])
    return None


def _decide_above(head: CommitInfo, above: Sequence[CommitInfo], ours: Publication) -> Decision:
    publications: list[Publication] = []
    for commit in above:
        publication = Publication.from_metadata(commit.metadata)
        if publication is None:
            return Refuse(head, f"commit {describe(commit)} was made by somebody else")
        if publication.workflow_id != ours.workflow_id:
            return Refuse(
                head,
                f"commit {short(commit.id)} was published by workflow {publication.workflow_id}",
            )
        publications.append(publication)
    first = publications[-1]
    if first.lineage != ours.lineage or first.input_ref != ours.input_ref:
        return Refuse(
            head,
            f"commit {short(above[-1].id)} was published by task {first.lineage} of this workflow",
        )
    newest = max(p.token for p in publications if p.lineage == ours.lineage)
    if not newest < ours.token:
        return Refuse(
            head,
            f"delivery {newest} of this task has published, which is not older than {ours.token}",
        )
    return Replace(head, tuple(publications))


def adoptable(decision: Replace, ours: Publication, end_of: Callable[[str], TaskEnd]) -> bool:
    """Tell whether the publication in the way is the result this attempt would work for again.

    It is when it stands alone on the input, came from the same parameters, recorded its result, and
    was never reported: by another task that ended without completing, or by an earlier delivery of
    this same task. The same task with another start time is a rerun: somebody wants it run again.

    Args:
        end_of: Tells whether and how a task has ended; asked at most once.
    """
    if len(decision.publications) > 1:
        return False
    (found,) = decision.publications
    if found.params_digest != ours.params_digest or found.result is None:
        return False
    if found.task_id == ours.task_id:
        return found.token.start_time_ms == ours.token.start_time_ms
    return end_of(found.task_id) == "failed"


def describe(commit: CommitInfo) -> str:
    """Return a commit's short id with the first line of its message, for people."""
    subject = commit.message.strip().splitlines()[0][:60] if commit.message.strip() else ""
    return f"{short(commit.id)} ({subject!r})" if subject else short(commit.id)


def short(commit_id: str) -> str:
    """Return as much of a commit id as people compare by eye."""
    return commit_id[:12]
