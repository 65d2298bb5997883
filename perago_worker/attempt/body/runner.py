"""What a slot needs to run bodies, whichever way they are isolated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from perago_worker.attempt.body.protocol import Call, Raised, Returned
from perago_worker.attempt.stop import StopToken

OutputStream = Literal["stdout", "stderr", "log", "progress"]
OnOutput = Callable[[OutputStream, str], None]


@dataclass(frozen=True)
class Died:
    """The child process ended without an answer; `reason` says how, and what that usually means."""

    reason: str


@dataclass(frozen=True)
class Stopped:
    """The body was ended because its attempt was told to stop."""


Reply = Returned | Raised | Died | Stopped


class BodyRunner(Protocol):
    """Runs one task's body, one call at a time. Used by one thread."""

    def warm_up(self) -> None:
        """Make ready for a call, where that takes time. Idempotent."""

    def run(self, call: Call, *, stop: StopToken, on_output: OnOutput) -> Reply:
        """Run the body and return how it ended; blocks until it has.

        Args:
            call: Its `remaining_s` bounds the call: the token is tripped when it has passed.
            stop: Ends the body when tripped.
            on_output: Called from this thread for every line the body prints or logs.
        """

    def close(self) -> None:
        """End what was made ready. Idempotent."""


def progress_line(done: float, total: float | None, note: str) -> str:
    """Render a progress report as a line for people."""
    amount = f"{done:g}" if total is None else f"{done:g}/{total:g}"
    return f"{amount} {note}".rstrip()


def body_timeout_detail(allowed_s: float | None) -> str:
    """Say that a body used up its time."""
    return f"the body did not return within the {allowed_s or 0:.0f} s it had"
