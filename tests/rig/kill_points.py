"""Where a worker or its body can be killed, found by watching one that is not.

The places: before and after every call that the thread of an attempt makes of a port, the poll
that brings the task included; the boundary after every step; and the points within a body, where
the body's process can be killed as well as the worker.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from perago_worker.events import AttemptFinished, AttemptStarted, Event, StepFinished
from tests.rig.history import Called, Entry, Finished, Journal, Killed, Made, Passed
from tests.rig.taps import Call, Tap, untouched
from tests.rig.tasks import BODY_POINTS

BEGUN, ENDED = "begun", "ended"
"""Boundaries before the first step and after the last."""


@dataclass(frozen=True, order=True)
class KillPoint:
    """A place, in words: `call.store.publish.1.after`, `step.download`, `body.half.child`."""

    where: str

    def __str__(self) -> str:
        return self.where

    @property
    def in_body(self) -> str:
        """Who dies in the body and where, as the body reads it; empty for other places."""
        kind, _, rest = self.where.partition(".")
        point, _, who = rest.partition(".")
        return f"{who}:{point}" if kind == "body" else ""


def points_of(history: Sequence[Entry]) -> list[KillPoint]:
    """Return the places to be killed at in an attempt that went like this.

    Args:
        history: Of a worker that carried out one attempt and wrote down its calls.
    """
    calls = [e for e in history if isinstance(e, Called) and _is_of_attempt(e)]
    steps = [e.step for e in history if isinstance(e, Passed)]
    bodies = BODY_POINTS if any(isinstance(e, Made) for e in history) else ()
    return [
        *(
            KillPoint(f"call.{c.name}.{c.nth}.{when}")
            for c in calls
            for when in ("before", "after")
        ),
        *(KillPoint(f"step.{step}") for step in (BEGUN, *steps, ENDED)),
        *(KillPoint(f"body.{point}.{who}") for point in bodies for who in ("worker", "child")),
    ]


def _is_of_attempt(call: Called) -> bool:
    if call.name == "queue.poll":
        return call.nth == 1
    return call.thread.startswith(("slot", "transfer"))


def finished(history: Sequence[Entry]) -> list[Finished]:
    """Return how attempts ended."""
    return [entry for entry in history if isinstance(entry, Finished)]


def boundary_of(event: Event) -> str:
    """Return the boundary that an event marks; empty for other events."""
    match event:
        case AttemptStarted():
            return BEGUN
        case StepFinished(step=step):
            return step
        case AttemptFinished():
            return ENDED
    return ""


class Killer:
    """Kills its own process at one place: a tap for calls and a listener for steps."""

    def __init__(self, point: KillPoint, journal: Journal, *, then: Tap = untouched) -> None:
        self._point = point.where
        self._journal = journal
        self._then = then

    def tap(self, call: Call) -> Any:
        """Make a call; die before or after it if this is the place."""
        place = f"call.{call.name}.{call.nth}"
        if self._point == f"{place}.before":
            self._die()
        answer = self._then(call)
        if self._point == f"{place}.after":
            self._die()
        return answer

    def on_event(self, event: Event) -> None:
        """Die if this is the boundary."""
        if self._point == f"step.{boundary_of(event)}":
            self._die()

    def _die(self) -> NoReturn:
        self._journal.note(Killed(self._point, os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("nobody survives this")
