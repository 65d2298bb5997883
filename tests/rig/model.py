"""A small model of the protocol, whose decisions are the product's own.

`fence.decide`, `fence.adoptable`, `Token`, `Lineage`, `LeaseIdentity` and `Publication` are the
real ones, called on chains and leases that the model makes up. All around them is abstracted:

- One task with two retries and at most one rerun, one branch at the task's input, two workers; one
  that dies comes back at once under another id. A body changes something or nothing, and never
  fails. States that differ by which worker is which are one: no two deliveries are alike but for
  their worker.
- An attempt has six steps that others can see: look at the branch before the body (and adopt, go
  on or give up), look again, confirm the lease, merge, look at the lease once more, report.
  Downloads, guards and stages have no part in any decision. A step is one moment, so no call
  overlaps another one.
- A commit's content is the set of what made it: runs whose changes it shows, and other people's.
- Merging compares and swaps, as the embedded store and the hook do. The window of stores that
  cannot is no part of the model.
- Time is the number of deliveries. A lease ends when the model says so, which costs a fault while
  its worker lives and nothing once it is dead. Heartbeats only decide when that is.
- An answer that is lost and a call that never arrived look the same to the caller. A merge or a
  report that was held arrives at any later moment, or never.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from perago_worker.attempt import fence
from perago_worker.attempt.fence import AlreadyPublished, PublishOn, Refuse, Replace
from perago_worker.models import CommitInfo, Lineage, Publication, Token
from perago_worker.ports import TaskEnd
from tests.rig.model_state import (
    INPUT,
    At,
    Attempt,
    Commit,
    Content,
    Delivery,
    Merge,
    Moves,
    Record,
    Report,
    State,
)

RETRIES = 2
LINEAGE = Lineage(workflow_id="workflow", reference_name="task")
RESULT = '{"run":0}'


class Model:
    """What can happen in a state. Decisions are kept, since most states share their branch.

    Args:
        adopt: The setting of that name.
    """

    def __init__(self, *, adopt: bool = True) -> None:
        self._adopt = adopt
        self.decide = cache(self._decide)
        self.adoptable = cache(self._adoptable)

    # --- the product's decisions ---

    def _decide(
        self, branch: tuple[Commit, ...], by: Delivery, uuid: int
    ) -> tuple[str, int, tuple[Commit, ...]]:
        """Return what the product decides: a word, the head or our commit, and what is above."""
        chain = [_info(commit) for commit in reversed(branch)]
        chain.append(CommitInfo(id=_name(INPUT), parents=(), tree="input"))
        match fence.decide(chain, _publication(by, uuid)):
            case PublishOn(head=head):
                return "publish", int(head.id), ()
            case Replace(head=head):
                return "replace", int(head.id), branch
            case AlreadyPublished(commit=commit):
                return "done", int(commit.id), ()
            case Refuse():
                return "refuse", INPUT, ()

    def _adoptable(self, branch: tuple[Commit, ...], by: Delivery, uuid: int, end: TaskEnd) -> bool:
        chain = [_info(commit) for commit in reversed(branch)]
        chain.append(CommitInfo(id=_name(INPUT), parents=(), tree="input"))
        ours = _publication(by, uuid)
        decision = fence.decide(chain, ours)
        assert isinstance(decision, Replace)
        return fence.adoptable(decision, ours, lambda _: end)

    # --- what can happen ---

    def moves(self, state: State) -> Moves:
        """Yield every step that can be taken, by whomever."""
        yield from self._outside(state)
        for index, attempt in enumerate(state.attempts):
            if attempt is None:
                yield from _poll(state, index)
                return  # a second one that is idle could do nothing else
            yield from self._attempt(state, index, attempt)
            if state.faults:
                yield "die", _died(state, index)

    def _outside(self, state: State) -> Moves:
        record = state.record
        alive = {a.lease.identity() for a in state.attempts if a}
        if record.status == "leased":
            dead = _holder(record).identity() not in alive
            if dead or state.faults:
                faults = state.faults - (not dead)
                yield "lease ends", state._replace(faults=faults, record=_retried(record))
            if state.faults and not record.queued:
                twice = record._replace(queued=True)
                yield "requeue", state._replace(faults=state.faults - 1, record=twice)
        if record.status in {"completed", "failed"} and state.reruns:
            again = Record(task=record.task, retry=record.retry)
            yield "rerun", state._replace(reruns=state.reruns - 1, record=again)
        if state.faults:
            yield "foreign commit", _foreign(state)
        for merge in state.merges:
            late = tuple(each for each in state.merges if each is not merge)
            merged, _ = _merged(state._replace(merges=late), merge)
            yield "late merge", merged
        for report in state.reports:
            later = tuple(each for each in state.reports if each is not report)
            yield "late report", _reported(state._replace(reports=later), report)

    def _attempt(self, state: State, index: int, attempt: Attempt) -> Moves:
        match attempt.at:
            case At.PRECHECK:
                yield from self._precheck(state, index, attempt)
            case At.LOOK:
                yield "look", self._look(state, index, attempt)
                if attempt.unsure:
                    yield "last look", self._last_look(state, index, attempt)
            case At.CONFIRM:
                held = _is_held(state.record, attempt.lease)
                after = attempt._replace(at=At.MERGE) if held else None
                yield "confirm", _with(state, index, after)
            case At.MERGE:
                yield from _merge(state, index, attempt)
            case At.REQUIRE:
                yield from _require(state, index, attempt)
            case At.REPORT:
                yield from _report(state, index, attempt)

    def _precheck(self, state: State, index: int, attempt: Attempt) -> Moves:
        lease = attempt.lease
        word, commit, above = self.decide(state.branch, lease, attempt.uuid)
        if word == "refuse":
            yield "refused", _with(state, index, _reporting(attempt, "terminal"))
            return
        if word == "replace" and self._adopt and len(above) == 1 and above[0].by is not None:
            end = _end_of(state.record, above[0].by.task)
            if self.adoptable(state.branch, lease, attempt.uuid, end):
                found = Report(lease.task, "completed", commit, above[0].content)
                yield "adopt", _with(state, index, attempt._replace(at=At.REQUIRE, report=found))
                return
        ran = state._replace(runs=state.runs + 1)
        for shows in (frozenset({f"r{state.runs}"}), Content()):
            after = attempt._replace(at=At.LOOK, shows=shows)
            yield "body", _with(ran, index, after)

    def _look(self, state: State, index: int, attempt: Attempt) -> State:
        assert attempt.shows is not None
        word, commit, _ = self.decide(state.branch, attempt.lease, attempt.uuid)
        first = attempt.lease.retry == 0 and attempt.lease.poll == 1
        if word == "done" or (word == "publish" and first and not attempt.shows):
            return _with(state, index, _reporting(attempt, "completed", commit))
        if word == "refuse":
            return _with(state, index, _reporting(attempt, "terminal"))
        merge = Merge(commit, attempt.lease, attempt.uuid, attempt.shows)
        return _with(state, index, attempt._replace(at=At.CONFIRM, merge=merge))

    def _last_look(self, state: State, index: int, attempt: Attempt) -> State:
        """Look for a merge of unknown outcome once the budget is used up."""
        word, commit, _ = self.decide(state.branch, attempt.lease, attempt.uuid)
        if word == "done":
            return _with(state, index, _reporting(attempt, "completed", commit))
        kind: Literal["failed", "terminal"] = "terminal" if word == "refuse" else "failed"
        return _with(state, index, _reporting(attempt, kind))


def _merge(state: State, index: int, attempt: Attempt) -> Moves:
    merge = attempt.merge
    assert merge is not None
    assert attempt.shows is not None
    again = attempt._replace(at=At.LOOK, merge=None)
    unsure = again._replace(unsure=True)
    merged, landed = _merged(state, merge)
    after = _reporting(attempt, "completed", merged.head) if landed else again
    yield "merge", _with(merged, index, after)
    if state.faults:
        faulty = state._replace(faults=state.faults - 1)
        yield "merge lost", _with(faulty, index, unsure)
        yield "merge held", _with(faulty._replace(merges=(*faulty.merges, merge)), index, unsure)
        if landed:
            done = merged._replace(faults=state.faults - 1)
            yield "merge unanswered", _with(done, index, unsure)


def _require(state: State, index: int, attempt: Attempt) -> Moves:
    """Look at the lease before reporting; nothing learnt is no reason not to report."""
    goes_on = attempt._replace(at=At.REPORT)
    held = _is_held(state.record, attempt.lease)
    yield "require", _with(state, index, goes_on if held else None)
    if state.faults:
        yield "require unanswered", _with(state._replace(faults=state.faults - 1), index, goes_on)


def _report(state: State, index: int, attempt: Attempt) -> Moves:
    report = attempt.report
    assert report is not None
    done = _reported(state, report)
    yield "report", _with(done, index, None)
    if state.faults:
        # A lost report is sent again: nothing has changed but the number of faults, except in time.
        yield "report unanswered", done._replace(faults=state.faults - 1)
        yield (
            "report held",
            state._replace(faults=state.faults - 1, reports=(*state.reports, report)),
        )


def _poll(state: State, index: int) -> Moves:
    record = state.record
    if not record.queued or record.status not in {"scheduled", "leased"}:
        return
    lease = Delivery(
        record.task,
        record.retry,
        record.poll + 1,
        state.workers[index],
        record.start or state.deliveries + 1,
    )
    leased = record._replace(
        poll=lease.poll, start=lease.start, worker=lease.worker, status="leased", queued=False
    )
    polled = state._replace(record=leased, deliveries=state.deliveries + 1)
    yield "poll", _with(polled, index, Attempt(lease, state.deliveries, At.PRECHECK))
    if state.faults:
        yield "poll unanswered", polled._replace(faults=state.faults - 1)


def _died(state: State, index: int) -> State:
    name = state.workers[index]
    reborn = f"{name[0]}{int(name[1:]) + 1}"
    workers = tuple(reborn if i == index else each for i, each in enumerate(state.workers))
    return _with(state._replace(faults=state.faults - 1, workers=workers), index, None)


def _foreign(state: State) -> State:
    number = state.commits + 1
    commit = Commit(number, None, -1, state.shown | {f"f{number}"})
    return state._replace(faults=state.faults - 1, commits=number, branch=(*state.branch, commit))


def _merged(state: State, merge: Merge) -> tuple[State, bool]:
    """Compare and swap; return whether the branch was moved."""
    if state.head != merge.expected:
        return state, False
    number = state.commits + 1
    commit = Commit(number, merge.by, merge.uuid, merge.content)
    return state._replace(commits=number, branch=(*state.branch, commit)), True


def _reporting(
    attempt: Attempt, kind: Literal["completed", "failed", "terminal"], output: int = INPUT
) -> Attempt:
    shows = attempt.shows or frozenset()
    report = Report(attempt.lease.task, kind, output, shows)
    return attempt._replace(at=At.REQUIRE, merge=None, report=report)


def _reported(state: State, report: Report) -> State:
    """Let the queue take a report, from whoever knows the task; the first one wins."""
    record = state.record
    if record.task != report.task or record.status not in {"scheduled", "leased"}:
        return state
    match report.kind:
        case "failed":
            return state._replace(record=_retried(record))
        case "terminal":
            return state._replace(record=record._replace(status="failed", queued=False))
        case "completed":
            ended = record._replace(
                status="completed", queued=False, output=report.output, shows=report.shows
            )
            return state._replace(record=ended)


def _retried(record: Record) -> Record:
    if record.retry == RETRIES:
        return record._replace(status="failed", queued=False)
    return Record(task=record.task + 1, retry=record.retry + 1)


def _holder(record: Record) -> Delivery:
    return Delivery(record.task, record.retry, record.poll, record.worker, record.start)


def _is_held(record: Record, lease: Delivery) -> bool:
    return record.status == "leased" and _holder(record).identity() == lease.identity()


def _end_of(record: Record, task: int) -> TaskEnd:
    """Tell how a try ended: every one before the newest failed, or timed out."""
    if task != record.task:
        return "failed"
    match record.status:
        case "completed":
            return "completed"
        case "failed":
            return "failed"
    return "running"


def _with(state: State, index: int, attempt: Attempt | None) -> State:
    attempts = tuple(attempt if i == index else each for i, each in enumerate(state.attempts))
    if attempts[0] is None and attempts[1] is not None:
        # Which of the two is called first means nothing: half of the states are the other half.
        return state._replace(attempts=attempts[::-1], workers=state.workers[::-1])
    return state._replace(attempts=attempts)


def _name(commit: int) -> str:
    return str(commit)


@cache
def _publication(by: Delivery, uuid: int) -> Publication:
    return Publication(
        uuid=str(uuid),
        workflow_id=LINEAGE.workflow_id,
        task_id=str(by.task),
        lineage=str(LINEAGE),
        token=Token(start_time_ms=by.start, retry_count=by.retry, poll_count=by.poll),
        input_ref=_name(INPUT),
        params_digest="digest",
        result=RESULT,
    )


@cache
def _info(commit: Commit) -> CommitInfo:
    metadata = (
        {}
        if commit.by is None
        else _publication(commit.by, commit.uuid).metadata(expected_head="any")
    )
    return CommitInfo(
        id=_name(commit.id), parents=(), metadata=metadata, tree=str(sorted(commit.content))
    )
