"""Judges what became of a branch and its tasks: a pure function over what was recorded and found.

The promises, for one branch:

1. A publication of a logical task is visible at most once: one that was replaced stays in the
   history, but nothing of its content in what follows.
2. A completed task's output is on the branch's first-parent history, holds what its body made of
   the input, whole, and nothing else.
3. A task that ended otherwise leaves the branch as it was, or its leftover is refused by name by
   the next attempt, unless there was none.
4. No delivery publishes after a later one of the same logical task.

Beside them: nobody else's commit is lost, every publication that was answered is there, and nothing
is left behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from perago_worker.attempt.codes import Code
from perago_worker.attempt.fence import short
from perago_worker.models import Publication
from perago_worker.models.lease import Token
from tests.rig.history import Answered, Entry, Finished, Foreign, Made, Passed, Started

Files = Mapping[str, str]
"""Object key -> checksum."""

E = TypeVar("E", bound=Entry)


@dataclass(frozen=True)
class Commit:
    """One commit of the branch's first-parent history.

    Attributes:
        parent: The commit the branch was at before; None for the first.
        publication: What its metadata says; None for a commit of somebody else.
    """

    id: str
    parent: str | None
    files: Files
    publication: Publication | None = None


@dataclass(frozen=True)
class Task:
    """What the queue knows of one task in the end.

    Attributes:
        run: The run that its result names.
    """

    task_id: str
    lineage: str
    status: str
    input_ref: str
    output_ref: str | None = None
    run: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Evidence:
    """All there is to judge by.

    Attributes:
        branch: First-parent history, newest first, down to the first commit.
        left: What workers have left behind, in words.
    """

    branch: Sequence[Commit]
    tasks: Sequence[Task]
    history: Sequence[Entry] = ()
    left: Sequence[str] = ()
    commits: Mapping[str, Commit] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "commits", {commit.id: commit for commit in self.branch})

    def of(self, kind: type[E]) -> list[E]:
        """Return the entries of one kind, oldest first."""
        return [entry for entry in self.history if isinstance(entry, kind)]

    def publications(self) -> list[tuple[Commit, Publication]]:
        """Return the commits that are publications, oldest first."""
        return [(c, c.publication) for c in reversed(self.branch) if c.publication is not None]


def judge(evidence: Evidence) -> list[str]:
    """Return what is wrong, in words; nothing when every promise was kept."""
    checks = (
        *(_ended, _foreign_kept, _answered_kept, _published_once, _in_order),
        *(_whole, _only_on_own, _completed, _given_up, _left),
    )
    return [violation for check in checks for violation in check(evidence)]


def _ended(evidence: Evidence) -> Iterator[str]:
    for task in evidence.tasks:
        if task.status in {"SCHEDULED", "IN_PROGRESS"}:
            yield f"task {task.task_id} is still {task.status}"


def _foreign_kept(evidence: Evidence) -> Iterator[str]:
    for entry in evidence.of(Foreign):
        if entry.commit not in evidence.commits:
            yield f"somebody's commit {short(entry.commit)} is lost"


def _answered_kept(evidence: Evidence) -> Iterator[str]:
    for entry in evidence.of(Answered):
        if entry.commit not in evidence.commits:
            yield f"publication {entry.uuid} was answered with {short(entry.commit)}, which is lost"


def _published_once(evidence: Evidence) -> Iterator[str]:
    """P1: before a logical task's publication shows, what it had published before is covered."""
    uuids: set[str] = set()
    last: dict[str, Commit] = {}
    for commit, publication in evidence.publications():
        if publication.uuid in uuids:
            yield f"publication {publication.uuid} is on the branch twice"
        uuids.add(publication.uuid)
        earlier = last.get(publication.lineage)
        if earlier is not None and not _is_covered(evidence, earlier, commit):
            yield (
                f"task {publication.lineage} has published twice: {short(commit.id)} keeps "
                f"{short(earlier.id)}"
            )
        last[publication.lineage] = commit


def _is_covered(evidence: Evidence, earlier: Commit, later: Commit) -> bool:
    """Whether something from above `earlier` up to `later` was made of an input below `earlier`."""
    age = {commit.id: number for number, commit in enumerate(evidence.branch)}
    return any(
        age.get(publication.input_ref, -1) > age[earlier.id]
        for commit, publication in evidence.publications()
        if age[later.id] <= age[commit.id] < age[earlier.id]
    )


def _in_order(evidence: Evidence) -> Iterator[str]:
    """P4: tokens of one logical task grow along the branch."""
    newest: dict[str, Token] = {}
    for commit, publication in evidence.publications():
        before = newest.get(publication.lineage)
        if before is not None and not before < publication.token:
            yield (
                f"delivery {publication.token} of task {publication.lineage} published "
                f"{short(commit.id)} after delivery {before}"
            )
        newest[publication.lineage] = publication.token


def _whole(evidence: Evidence) -> Iterator[str]:
    """P1, P2: a publication holds its input and what one run made of it, whole, nothing else."""
    made = evidence.of(Made)
    for commit, publication in evidence.publications():
        base = evidence.commits.get(publication.input_ref)
        if base is None:
            yield f"{short(commit.id)} was published from {short(publication.input_ref)}, not here"
            continue
        if _lost_race(evidence, publication):
            continue
        if not any(commit.files == _after(base.files, each) for each in made):
            yield f"{short(commit.id)} holds what no run made: {_difference(base, commit)}"


def _after(base: Files, made: Made) -> dict[str, str]:
    files = {key: checksum for key, checksum in base.items() if key not in made.deleted}
    return {**files, **made.written}


def _difference(base: Commit, commit: Commit) -> str:
    keys = base.files.keys() | commit.files.keys()
    changed = sorted(k for k in keys if base.files.get(k) != commit.files.get(k))
    return ", ".join(changed) or "no change"


def _only_on_own(evidence: Evidence) -> Iterator[str]:
    """A publication is made over its own workflow's publications and nobody else's commits."""
    for commit, publication in evidence.publications():
        if _lost_race(evidence, publication):
            continue
        for below in _between(evidence, commit, publication.input_ref):
            found = below.publication
            if found is None or found.workflow_id != publication.workflow_id:
                yield f"{short(commit.id)} was published over somebody's {short(below.id)}"


def _between(evidence: Evidence, commit: Commit, input_ref: str) -> Iterator[Commit]:
    below = evidence.commits.get(commit.parent or "")
    while below is not None and below.id != input_ref:
        yield below
        below = evidence.commits.get(below.parent or "")


def _lost_race(evidence: Evidence, publication: Publication) -> bool:
    """Whether the worker itself found and reported that a commit slipped in during its merge."""
    return any(
        entry.code == Code.LOST_RACE and entry.token == str(publication.token)
        for entry in evidence.of(Finished)
        if entry.lineage == publication.lineage
    )


def _completed(evidence: Evidence) -> Iterator[str]:
    """P2: what a completed task says of its output is so."""
    made = {entry.run: entry for entry in evidence.of(Made)}
    for task in evidence.tasks:
        if task.status != "COMPLETED":
            continue
        output = evidence.commits.get(task.output_ref or "")
        base = evidence.commits.get(task.input_ref)
        run = made.get(task.run or "")
        if output is None or base is None:
            yield (
                f"task {task.task_id} completed with {task.output_ref}, which is not on the branch"
            )
        elif run is None:
            yield f"task {task.task_id} completed with the result of no run ({task.run})"
        elif output.files != _after(base.files, run):
            yield (
                f"task {task.task_id} completed with {short(output.id)}, which is not what run "
                f"{run.run} made: {_difference(base, output)}"
            )
    yield from _last_is_reported(evidence)


def _last_is_reported(evidence: Evidence) -> Iterator[str]:
    """P1, P2: what the branch shows of a completed logical task is what was reported."""
    last = {publication.lineage: commit.id for commit, publication in evidence.publications()}
    outputs: dict[str, set[str]] = {}
    for task in evidence.tasks:
        if task.status == "COMPLETED":
            outputs.setdefault(task.lineage, set()).add(task.output_ref or "")
    for lineage, reported in outputs.items():
        if lineage in last and last[lineage] not in reported:
            yield f"task {lineage} completed, but the branch shows its {short(last[lineage])}"


def _given_up(evidence: Evidence) -> Iterator[str]:
    """P3: a leftover of a task that never completed is named by the attempt after it, if any.

    Of a cancelled task nobody hears anything, so what its attempt had published stays unsaid.
    """
    silent = {task.lineage for task in evidence.tasks if task.status in {"COMPLETED", "CANCELED"}}
    for commit, publication in evidence.publications():
        if publication.lineage in silent or not _was_followed(evidence, publication):
            continue
        if not _refused_by_name(evidence, commit, publication):
            yield (
                f"task {publication.lineage} did not complete, and its {short(commit.id)} stays on "
                "the branch without anybody having said so"
            )


def _was_followed(evidence: Evidence, publication: Publication) -> bool:
    """Whether a later attempt at the same logical task has seen the branch."""
    began = False
    for entry in evidence.history:
        match entry:
            case Started(lineage=publication.lineage, token=token):
                began = Token.parse(token) > publication.token
            case Passed(lineage=publication.lineage, step="precheck") if began:
                return True
    return False


def _refused_by_name(evidence: Evidence, commit: Commit, publication: Publication) -> bool:
    """Whether an attempt said what is in the way: the leftover, or what is on top of it."""
    order = [each.id for each in evidence.branch]
    names = [short(each) for each in order[: order.index(commit.id) + 1]]
    names.append(str(publication.token))
    return any(
        any(name in entry.reason for name in names)
        for entry in evidence.of(Finished)
        if entry.lineage == publication.lineage
    )


def _left(evidence: Evidence) -> Iterator[str]:
    for what in evidence.left:
        yield f"left behind: {what}"
