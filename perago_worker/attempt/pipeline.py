"""`run_attempt`: the steps in their order, and the one report at the end.

The report is apart, in `conclude`, for those who have more to do before they send it.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from perago_worker.attempt.codes import Code
from perago_worker.attempt.context import Attempt
from perago_worker.attempt.fence import short
from perago_worker.attempt.steps import body, files, inputs, publication
from perago_worker.attempt.stop import StopCause, StopToken
from perago_worker.errors import (
    AttemptAbandoned,
    AttemptError,
    AttemptReleased,
    NotFound,
    PostGuardrailViolation,
    PreGuardrailViolation,
    QueueRefused,
    RetryableAttemptError,
    StoreRefused,
    StoreUnavailable,
    TerminalAttemptError,
)
from perago_worker.events import AttemptFinished, AttemptStarted, StepFinished, StepStarted
from perago_worker.models import Outcome
from perago_worker.models.outcome import MAX_REASON_CHARS, OutcomeKind
from perago_worker.task import TaskDefinition


@dataclass(frozen=True)
class Step:
    """One named step.

    Attributes:
        name: Stable name, by which the step is logged, timed and counted.
        run: Does it.
        code: What a store that does not answer makes of the attempt here.
    """

    name: str
    run: Callable[[Attempt], None]
    code: Code = Code.TRANSFER_FAILED


RECEIVE = Step("receive", inputs.receive)
FIND_INPUT = Step("find_input", inputs.find_input)
PRECHECK = Step("precheck", inputs.precheck)
DOWNLOAD = Step("download", files.download)
PRE_GUARDS = Step("pre_guards", files.pre_guards)
BODY = Step("body", body.body)
POST_GUARDS = Step("post_guards", files.post_guards)
CHANGES = Step("changes", publication.changes)
STAGE = Step("stage", publication.stage, Code.STAGE_FAILED)
PUBLISH = Step("publish", publication.publish, Code.PUBLISH_FAILED)

WITHOUT_WORKSPACE = (RECEIVE, BODY)
READ_ONLY = (RECEIVE, FIND_INPUT, DOWNLOAD, PRE_GUARDS, BODY, POST_GUARDS)
WRITING = (
    *(RECEIVE, FIND_INPUT, PRECHECK, DOWNLOAD, PRE_GUARDS),
    *(BODY, POST_GUARDS, CHANGES, STAGE, PUBLISH),
)

STEP_NAMES = (*(step.name for step in WRITING), "report")


def steps_of(definition: TaskDefinition) -> tuple[Step, ...]:
    """Return the steps an attempt of this task goes through."""
    if not definition.has_workspace:
        return WITHOUT_WORKSPACE
    return READ_ONLY if definition.read_only else WRITING


@dataclass(frozen=True, eq=False)
class Ended:
    """An attempt that has ended but for its report.

    Attributes:
        outcome: What is to be reported.
        error: What the log should know of a failure beside it.
        seconds: How long the attempt took so far.
    """

    attempt: Attempt
    outcome: Outcome
    error: str
    seconds: float


def run_attempt(attempt: Attempt) -> Outcome:
    """Carry out one attempt, report it, and leave nothing behind.

    Returns what was reported, or what would have been, had the attempt still owned its task.
    """
    return conclude(carry_out(attempt))


def carry_out(attempt: Attempt) -> Ended:
    """Go through the steps of an attempt; `conclude` is still to follow."""
    started_at = attempt.tools.clock.now()
    with ExitStack() as abandoned:
        abandoned.push(attempt.leaving)
        attempt.tools.listener.on_event(AttemptStarted(attempt.lease))
        outcome, error = _through_steps(attempt)
        abandoned.pop_all()
    return Ended(attempt, outcome, error, attempt.tools.clock.now() - started_at)


def conclude(ended: Ended) -> Outcome:
    """Report how an attempt has ended, and leave nothing behind; return what was reported."""
    attempt, clock = ended.attempt, ended.attempt.tools.clock
    began_at = clock.now()
    with attempt.leaving:
        outcome, reported = _timed_report(attempt, ended.outcome)
    seconds = ended.seconds + clock.now() - began_at
    attempt.tools.listener.on_event(
        AttemptFinished(attempt.lease, outcome, seconds, reported, ended.error)
    )
    return outcome


def _through_steps(attempt: Attempt) -> tuple[Outcome, str]:
    """Go through the steps; return how the attempt ended, and what the log should know of it."""
    for step in steps_of(attempt.definition):
        try:
            _timed(attempt, step.name, step.run)
            if step is not PUBLISH:
                attempt.stop.check()
        except Exception as error:  # noqa: BLE001 -- whatever happens here ends this attempt only
            ended = as_attempt_error(error, step.code)
            return _failure(attempt, ended), ended.logged
        if attempt.done:
            break
    return _success(attempt), ""


def _timed(attempt: Attempt, name: str, work: Callable[[Attempt], None]) -> None:
    attempt.tools.listener.on_event(StepStarted(attempt.lease, name))
    started_at = attempt.tools.clock.now()
    error = ""
    try:
        work(attempt)
    except Exception as raised:
        error = type(raised).__name__
        raise
    finally:
        seconds = attempt.tools.clock.now() - started_at
        attempt.tools.listener.on_event(StepFinished(attempt.lease, name, seconds, error))


def _success(attempt: Attempt) -> Outcome:
    output: dict[str, object] = {"result": attempt.result}
    code = attempt.code
    if attempt.definition.has_workspace:
        if attempt.definition.read_only:
            code, attempt.output_ref = Code.READ_ONLY, attempt.input.ref
        assert attempt.output_ref is not None  # noqa: S101 -- every list of steps sets it
        answer = attempt.input.published_output(attempt.output_ref)
        output["workspace"] = answer.spelled_like(attempt.lease.input["workspace"])
    return Outcome(
        kind="completed",
        code=code,
        output=output,
        output_ref=attempt.output_ref,
        log=attempt.log.take(),
    )


def as_attempt_error(error: Exception, unavailable: Code) -> AttemptError:
    """Return what an exception from a step means for the attempt.

    Args:
        unavailable: The code of the step in which a store was of no use.
    """
    match error:
        case AttemptError():
            return error
        case PreGuardrailViolation():
            return TerminalAttemptError(Code.PRE_GUARD, str(error))
        case PostGuardrailViolation():
            return RetryableAttemptError(Code.POST_GUARD, str(error))
        case NotFound():
            return TerminalAttemptError(Code.NOT_FOUND, str(error))
        case StoreRefused():
            return TerminalAttemptError(Code.STORE_REFUSED, str(error))
        case StoreUnavailable():
            return RetryableAttemptError(unavailable, f"the store failed: {error}")
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG):
            return RetryableAttemptError(
                Code.DISK_FULL, "no space is left where the worker keeps its workspaces"
            )
    # The text of an OSError holds the path it is about, which is nobody's business.
    said = error.strerror if isinstance(error, OSError) else str(error)
    return RetryableAttemptError(
        Code.WORKER_ERROR,
        f"the worker failed: {type(error).__name__}: {said}",
        logged="".join(traceback.format_exception(error)),
    )


def _failure(attempt: Attempt, error: AttemptError) -> Outcome:
    reason = attempt.tools.redact(_without_local_paths(attempt, error.reason))
    return Outcome(
        kind=_kind(error),
        code=error.code,
        reason=_with_leftover(attempt, error.code, reason),
        log=(*attempt.log.take(), *((attempt.tools.redact(error.logged),) if error.logged else ())),
    )


def _kind(error: AttemptError) -> OutcomeKind:
    match error:
        case TerminalAttemptError():
            return "terminal"
        case AttemptAbandoned():
            return "cancelled" if error.code == Code.CANCELLED else "superseded"
        case AttemptReleased():
            return "released"
    return "failed"


def _with_leftover(attempt: Attempt, code: str, reason: str) -> str:
    """Name what an earlier attempt left on the branch: this may be the last one to know of it."""
    if attempt.leftover is None or code in {Code.HEAD_MOVED, Code.LOST_RACE}:
        return reason  # or the reason itself tells what is on the branch
    note = f" (branch '{attempt.input.branch}' shows {short(attempt.leftover)}, which an earlier "
    note += "attempt at this task published and could not report)"
    room = MAX_REASON_CHARS - len(f"{code}: ") - len(note)
    return (reason if len(reason) <= room else f"{reason[: room - 1]}…") + note


def _without_local_paths(attempt: Attempt, reason: str) -> str:
    """Name files as the author knows them: where the worker keeps them is nobody's business."""
    directory = getattr(attempt, "directory", None)
    if directory is None:
        return reason
    for path, name in ((directory.workspace, "workspace"), (directory.scratch, "scratch")):
        reason = reason.replace(str(path), name)
    return reason


def _timed_report(attempt: Attempt, outcome: Outcome) -> tuple[Outcome, bool]:
    results: list[tuple[Outcome, bool]] = []
    _timed(attempt, "report", lambda a: results.append(_report(a, outcome)))
    return results[0]


def _report(attempt: Attempt, outcome: Outcome) -> tuple[Outcome, bool]:
    """Tell the queue in the way the outcome asks for; return what it was told and if it took it."""
    keeper = attempt.keeper
    if outcome.kind in {"superseded", "cancelled"}:
        keeper.abandon()
        return outcome, False
    if outcome.kind == "released":
        return outcome, keeper.give_back(after_s=0.0, why=outcome.code)
    try:
        if attempt.definition.has_workspace:
            keeper.require()
        else:
            _check_still_wanted(attempt.stop)
        return outcome, _complete(attempt, outcome)
    except AttemptAbandoned as lost:
        return _failure(attempt, lost), False
    except QueueRefused as refused:
        return _report_refusal(attempt, outcome, refused)


def _check_still_wanted(stop: StopToken) -> None:
    """Raise when the attempt was found superseded: a rerun may have the same task id."""
    if stop.stop is not None and stop.stop.cause in {StopCause.SUPERSEDED, StopCause.CANCELLED}:
        raise stop.stop.error()


def _complete(attempt: Attempt, outcome: Outcome) -> bool:
    timeout_s = attempt.tools.settings.budget.completion_s
    return attempt.keeper.complete(outcome, request_timeout_s=timeout_s)


def _report_refusal(
    attempt: Attempt, outcome: Outcome, refused: QueueRefused
) -> tuple[Outcome, bool]:
    """Report, once, that the queue does not take the report: a retry would fare no better."""
    refusal = Outcome(
        kind="terminal",
        code=Code.REPORT_REFUSED,
        reason=f"the queue does not take the result{_published_as(outcome)}: {refused}",
        output_ref=outcome.output_ref,
    )
    try:
        return refusal, _complete(attempt, refusal)
    except QueueRefused:
        return refusal, False


def _published_as(outcome: Outcome) -> str:
    ref = outcome.output_ref
    return f", whose workspace is commit {short(ref)} of the branch" if ref else ""
