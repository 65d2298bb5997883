"""Every fault the rig knows, what it does at one call of a port, and how an attempt may end then.

A fault begins at the nth call of a name in an attempt and lasts for one, three or all calls of that
name. How an attempt has to end is said here once, by kind of fault and by call, and nowhere case by
case.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, cast

from perago_worker.errors import (
    AdapterError,
    HeadMoved,
    NotFound,
    PublishUnknown,
    QueueRefused,
    QueueUnavailable,
    StoreRefused,
    StoreUnavailable,
)
from perago_worker.models import ObjectInfo
from tests.rig.scenes import LEASE_OVER_S, Bench
from tests.rig.taps import Call
from tests.rig.tasks import PREFIX
from tests.support import BRANCH

Times = Literal["once", "three", "ever"]
TIMES: dict[Times, int] = {"once": 1, "three": 3, "ever": 10_000}

SLOW_S = 20.0
"""How long a slow answer takes: longer than a heartbeat interval, shorter than a lease."""


@dataclass(frozen=True, order=True)
class Point:
    """One call of an attempt.

    Attributes:
        name: As in `Call`.
        nth: Likewise.
    """

    name: str
    nth: int

    def __str__(self) -> str:
        return f"{self.name}.{self.nth}"


@dataclass(frozen=True)
class Fault:
    """One fault at one call."""

    kind: str
    at: Point
    times: Times = "once"

    def __str__(self) -> str:
        return f"{self.at}/{self.kind}/{self.times}"


@dataclass
class Tampering:
    """The tap that makes one fault happen on a bench.

    Attributes:
        hit: How often it happened.
        made: The calls in their order, faulty ones included.
        held: Calls that are to have their effect later.
    """

    fault: Fault
    bench: Bench
    hit: int = 0
    made: list[Call] = field(default_factory=list)
    held: list[Call] = field(default_factory=list)

    def __call__(self, call: Call) -> Any:
        """Make a call, or what the fault makes of it."""
        self.made.append(call)
        at = self.fault.at
        if call.name != at.name or call.nth < at.nth or self.hit >= TIMES[self.fault.times]:
            return call.perform()
        self.hit += 1
        return KINDS[self.fault.kind].act(call, self)

    def release(self) -> None:
        """Let what was held have its effect; nobody hears its answer."""
        for call in self.held:
            with suppress(AdapterError):
                call.perform()
        self.held.clear()


# --- what happens ---------------------------------------------------------------------------------

Act = Callable[[Call, Tampering], Any]


def _unavailable(call: Call) -> Exception:
    kind = QueueUnavailable if call.name.startswith("queue") else StoreUnavailable
    return kind("no answer came")


def _no_answer(call: Call) -> Exception:
    return PublishUnknown("no answer") if call.name == "store.publish" else _unavailable(call)


def _refused(call: Call, tampering: Tampering) -> Any:
    kind = QueueRefused if call.name.startswith("queue") else StoreRefused
    raise kind("it is refused")


def _unavailable_before(call: Call, tampering: Tampering) -> Any:
    raise _unavailable(call)


def _unavailable_after(call: Call, tampering: Tampering) -> Any:
    call.perform()
    raise _no_answer(call)


def _unknown_before(call: Call, tampering: Tampering) -> Any:
    raise _no_answer(call)


def _not_found(call: Call, tampering: Tampering) -> Any:
    raise NotFound("commit", "some commit")


def _unforeseen(call: Call, tampering: Tampering) -> Any:
    raise RuntimeError("nobody has thought of this")


def _slow(call: Call, tampering: Tampering) -> Any:
    tampering.bench.clock.leap(SLOW_S)
    return call.perform()


def _slow_answer(call: Call, tampering: Tampering) -> Any:
    answer = call.perform()
    tampering.bench.clock.leap(SLOW_S)
    return answer


def _duplicate(call: Call, tampering: Tampering) -> Any:
    answer = call.perform()
    with suppress(AdapterError):
        call.perform()
    return answer


def _held(call: Call, tampering: Tampering) -> Any:
    tampering.held.append(call)
    raise _no_answer(call)


def _head_moved(call: Call, tampering: Tampering) -> Any:
    raise HeadMoved(BRANCH, call.kwargs["expected_head"], None)


def _redelivered(call: Call, tampering: Tampering) -> Any:
    """The queue gives the task to somebody else, who begins at once and has not come far yet."""
    bench = tampering.bench
    bench.local_queue.give_back(bench.recorder.leases()[-1])  # if it has not ended
    bench.poll_one("another")
    return call.perform()


def _handed_over(call: Call, tampering: Tampering) -> Any:
    """The queue gives the task to somebody else, who is done with it before this worker goes on."""
    bench = tampering.bench
    bench.local_queue.give_back(bench.recorder.leases()[-1])
    bench.work("another")
    return call.perform()


def _cancelled(call: Call, tampering: Tampering) -> Any:
    workflow = tampering.bench.recorder.leases()[-1].workflow_id
    tampering.bench.local_queue.terminate_workflow(workflow, "somebody ended it")
    return call.perform()


def _foreign(call: Call, tampering: Tampering) -> Any:
    tampering.bench.commit_foreign({f"{PREFIX}/foreign.txt": "somebody's"})
    return call.perform()


def _frozen(call: Call, tampering: Tampering) -> Any:
    """The worker stands still until its lease has run out, and goes on."""
    tampering.bench.clock.leap(LEASE_OVER_S)
    return call.perform()


def _outrun(call: Call, tampering: Tampering) -> Any:
    """The worker stands still until a successor has done the work, and goes on."""
    tampering.bench.finish()
    return call.perform()


def _outrun_after(call: Call, tampering: Tampering) -> Any:
    answer = call.perform()
    tampering.bench.finish()
    return answer


class _Into:
    """A file that spoils what is written to it."""

    def __init__(self, file: BinaryIO, spoil: Callable[[bytes], bytes]) -> None:
        self._file = file
        self._spoil = spoil
        self.written = 0

    def write(self, data: bytes, /) -> int:
        self.written += self._file.write(self._spoil(bytes(data)))
        return len(data)


def _spoiling(spoil: Callable[[bytes], bytes]) -> Act:
    def act(call: Call, tampering: Tampering) -> Any:
        store = tampering.bench.local_store
        repository, commit, key, into = call.args
        spoiling = _Into(into, spoil)
        store.read(repository, commit, key, cast("BinaryIO", spoiling))
        return spoiling.written

    return act


def _no_space(data: bytes) -> bytes:
    raise OSError(errno.ENOSPC, "No space left on device", "/somewhere")


def _stored_damaged(call: Call, tampering: Tampering) -> Any:
    stored: ObjectInfo = call.perform()
    return stored.model_copy(update={"checksum": "0" * 40})


def _stored_short(call: Call, tampering: Tampering) -> Any:
    stored: ObjectInfo = call.perform()
    return stored.model_copy(update={"size": stored.size - 1})


# --- how an attempt may end -----------------------------------------------------------------------


@dataclass(frozen=True)
class Course:
    """An attempt to which nothing happens.

    Attributes:
        calls: In their order.
        keeps: Whether the disk holds what is given up for room.
        warm: Whether the attempt begins with a workspace that was kept.
    """

    calls: tuple[Point, ...]
    keeps: bool
    warm: bool


Kinds = frozenset[str]
DONE: Kinds = frozenset({"completed"})
FAILED: Kinds = frozenset({"failed"})
TERMINAL: Kinds = frozenset({"terminal"})
RAISED: Kinds = frozenset({"raised"})

COURTESIES = {"store.drop_stage", "queue.ended", "queue.append_log"}
"""Calls whose failure costs nothing but time, or a stage that is swept later."""

BEATS = {"queue.observe", "queue.extend"}

REFRESH = {Point("store.changes", 1), Point("store.read", 1)}
"""Calls that bring a kept workspace up to date."""


def _transient(fault: Fault, course: Course) -> Kinds:
    """No answer: tried again, a bounded number of times; a report for longer than a case lasts."""
    if fault.at.name in COURTESIES or fault.at.name == "queue.complete":
        return DONE
    if fault.times != "ever":
        return DONE
    if _is_last_look(fault, course):
        return DONE  # it is a courtesy to the successor, if there is one
    # With no heartbeats in the rig, the lease may run out while a call is tried again.
    return FAILED | {"superseded"}


def _lost_merge(fault: Fault, course: Course) -> Kinds:
    """No answer, but an effect: a merge is found on the branch, so that one is enough."""
    if fault.at.name == "store.publish":
        return DONE
    return _transient(fault, course)


def _refusal(fault: Fault, course: Course) -> Kinds:
    if fault.at.name in COURTESIES:
        return DONE
    if fault.at.name in BEATS:  # a heartbeat that is refused has told nothing
        return _transient(fault, course)
    if course.warm and fault.at in REFRESH and fault.times == "once":
        return DONE  # what was kept is given up, and everything downloaded
    return TERMINAL


def _bug(fault: Fault, course: Course) -> Kinds:
    if fault.at.name in {"queue.complete", "store.drop_stage"} or _is_last_look(fault, course):
        return RAISED
    return FAILED


def _done(fault: Fault, course: Course) -> Kinds:
    return DONE


def _slowness(fault: Fault, course: Course) -> Kinds:
    """Slow for ever may use up a budget or, with no heartbeats in the rig, a lease."""
    if fault.times == "once":
        return DONE
    return DONE | FAILED | {"superseded"}


def _damage(fault: Fault, course: Course) -> Kinds:
    return FAILED | {"superseded"} if fault.times == "ever" else DONE


def _full_disk(fault: Fault, course: Course) -> Kinds:
    """What is kept is given up for room once; reading again makes none.

    Another attempt, on another machine maybe, fares better then.
    """
    return DONE if course.keeps and fault.times == "once" else FAILED


def _even_twice(fault: Fault, course: Course) -> Kinds:
    """Damage that is the same at every reading is what the store holds, by all that can be told."""
    return DONE


def _lost_lease(fault: Fault, course: Course) -> Kinds:
    """Found out at the confirmation before the merge; what comes after it has been published."""
    confirmed = _index(course, "queue.observe")
    at = course.calls.index(fault.at)
    if confirmed is None:
        return DONE | {"superseded", "cancelled"}  # it adopts, and looks before it reports
    if at <= confirmed:
        return frozenset({"superseded", "cancelled"})
    return frozenset({"superseded", "cancelled", "failed", "completed"})


def _overtaken(fault: Fault, course: Course) -> Kinds:
    """The branch itself says no to an attempt that comes after its successor."""
    published = _index(course, "store.publish")
    if published is None:
        return DONE | TERMINAL | {"superseded"}
    if course.calls.index(fault.at) <= published:
        return frozenset({"superseded", "cancelled", "terminal", "failed"} | _already(fault))
    return DONE | {"superseded"}  # found out right before the report


def _already(fault: Fault) -> Kinds:
    """What else may be of an attempt that is overtaken right after its merge."""
    is_merge = fault.at.name == "store.publish" and fault.kind.endswith("after")
    return DONE if is_merge else frozenset()


def _moved_head(fault: Fault, course: Course) -> Kinds:
    published = _index(course, "store.publish")
    looked = max(
        (n for n, call in enumerate(course.calls) if call.name == "store.history"), default=0
    )
    at = course.calls.index(fault.at)
    if published is None:
        return DONE if at > looked else TERMINAL
    return TERMINAL if at <= published else DONE


def _is_last_look(fault: Fault, course: Course) -> bool:
    """Whether it is at the look at the lease right before the report."""
    after = course.calls[course.calls.index(fault.at) + 1 :]
    return fault.at.name == "queue.observe" and after[0].name == "queue.complete"


def _index(course: Course, name: str) -> int | None:
    return next((n for n, call in enumerate(course.calls) if call.name == name), None)


# --- the kinds ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        act: What it makes of the call.
        ends: How the attempt may end, by fault and by how it goes without.
        at: Names of the calls it can happen to; every call if empty.
        but: Names it cannot happen to.
        repeats: Whether it can last for several calls.
        release: When held calls have their effect: after the attempt, in the midst of the next
            one's publishing, or after all.
    """

    act: Act
    ends: Callable[[Fault, Course], Kinds]
    at: frozenset[str] = frozenset()
    but: frozenset[str] = frozenset()
    repeats: bool = True
    release: Literal["", "after", "amid", "last"] = ""

    def happens_to(self, name: str) -> bool:
        """Whether it can happen to this call."""
        return (not self.at or name in self.at) and name not in self.but


PUBLISH = frozenset({"store.publish"})
READ = frozenset({"store.read"})
WRITE = frozenset({"stage.write"})
STREAMS = READ | WRITE | {"store.list", "store.changes"}
"""Calls that cannot be made a second time: they use up what they are given or give."""

QUEUE = frozenset({"queue.observe", "queue.extend", "queue.complete", "queue.ended"})

KINDS: dict[str, Kind] = {
    "unavailable": Kind(_unavailable_before, _transient),
    "answer_lost": Kind(_unavailable_after, _lost_merge),
    "unknown": Kind(_unknown_before, _transient, at=PUBLISH),
    "head_moved": Kind(_head_moved, _transient, at=PUBLISH),
    "refused": Kind(_refused, _refusal),
    "not_found": Kind(_not_found, _refusal, but=QUEUE),
    "unforeseen": Kind(_unforeseen, _bug, repeats=False),
    "slow": Kind(_slow, _slowness),
    "slow_answer": Kind(_slow_answer, _slowness),
    "duplicate": Kind(_duplicate, _done, but=STREAMS),
    "late": Kind(_held, _transient, but=STREAMS, release="after"),
    "late_amid": Kind(_held, _transient, but=STREAMS, release="amid"),
    "late_last": Kind(_held, _transient, but=STREAMS, release="last"),
    "redelivered": Kind(_redelivered, _lost_lease, repeats=False),
    "handed_over": Kind(_handed_over, _overtaken, repeats=False),
    "cancelled": Kind(_cancelled, _lost_lease, repeats=False),
    "foreign": Kind(_foreign, _moved_head, repeats=False),
    "frozen": Kind(_frozen, _lost_lease, repeats=False),
    "outrun": Kind(_outrun, _overtaken, repeats=False),
    "outrun_after": Kind(_outrun_after, _overtaken, repeats=False),
    "damaged": Kind(_spoiling(lambda data: data[::-1]), _even_twice, at=READ),
    "short": Kind(_spoiling(lambda data: data[:-1]), _damage, at=READ),
    "disk_full": Kind(_spoiling(_no_space), _full_disk, at=READ),
    "stored_damaged": Kind(_stored_damaged, _damage, at=WRITE),
    "stored_short": Kind(_stored_short, _damage, at=WRITE),
}


def _lengths(kind: Kind) -> Sequence[Times]:
    return tuple(TIMES) if kind.repeats else ("once",)


def faults_of(calls: Sequence[Point]) -> list[Fault]:
    """Return every fault that can happen to an attempt with these calls."""
    return [
        Fault(name, at, times)
        for at in calls
        for name, kind in KINDS.items()
        if kind.happens_to(at.name)
        for times in _lengths(kind)
    ]
