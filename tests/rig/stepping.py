"""Threads that move only when told, from one call of a port to the next.

The product's own code runs in them unchanged, and what would be decided by chance, which attempt
does what and when, is decided by a test: any two attempts can be interleaved between any two calls,
and every call can be lost, delayed, or be the last thing its process does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, Protocol, cast

from perago_worker.errors import PublishUnknown, QueueUnavailable, StoreUnavailable
from perago_worker.ports import TaskQueue, WorkspaceStore

STUCK_S = 60.0
"""Real time after which a thread that was told to move counts as hanging."""


class Fate(Enum):
    """What becomes of the call a thread is about to make."""

    GO = "go"
    LOSE_CALL = "lose_call"
    LOSE_ANSWER = "lose_answer"
    HOLD = "hold"
    DIE_BEFORE = "die_before"
    DIE_AFTER = "die_after"


class Killed(BaseException):
    """The process of an attempt has died; nothing of it may have an effect any more."""


class Stepper:
    """One thread that runs `work`, stopping before each call of a steered port.

    Attributes:
        at: The call it is about to make; empty before the first and after the end.
        failure: What `work` raised.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self.at = ""
        self.done = False
        self.dead = False
        self.failure: BaseException | None = None
        self.held: list[Callable[[], object]] = []
        self._work = work
        self._fate = Fate.GO
        self._go, self._stopped = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._stopped.acquire()
        self._thread = threading.Thread(target=self._run, name="stepper", daemon=True)
        self._thread.start()

    def step(self, fate: Fate = Fate.GO) -> None:
        """Let it make the call it stopped at, and stop before the next one."""
        if self.done:
            return
        self._fate = fate
        self._go.release()
        assert self._stopped.acquire(timeout=STUCK_S), f"the thread hangs after {self.at}"

    def run_to(self, call: str) -> bool:
        """Step until it is about to make a call of this name; return whether it came to that."""
        while not self.done and self.at != call:
            self.step()
        return not self.done

    def finish(self) -> None:
        """Step to the end."""
        while not self.done:
            self.step()

    def kill(self) -> None:
        """Let its process die here and now."""
        self.dead = True
        self.step(Fate.DIE_BEFORE)

    def pause(self, at: str) -> Fate:
        """Stop here until told to go on; called by the thread itself."""
        self.at = at
        self._stopped.release()
        self._go.acquire()
        self.at = ""
        return self._fate

    def _run(self) -> None:
        self._go.acquire()
        _here.stepper = self
        try:
            if not self.dead:
                self._work()
        except Killed:
            self.dead = True
        except BaseException as error:  # noqa: BLE001 -- a thread begins here
            self.failure = error
        finally:
            self.done = True
            self._stopped.release()


class _Here(threading.local):
    stepper: Stepper | None = None


_here = _Here()


def pause_here(at: str) -> Fate:
    """Stop the calling thread if it is a stepper's; return what is to become of it."""
    stepper = _here.stepper
    if stepper is None:
        return Fate.GO
    fate = stepper.pause(at)
    if stepper.dead or fate in {Fate.DIE_BEFORE, Fate.DIE_AFTER}:
        stepper.dead = True
        raise Killed
    return fate


class Watcher(Protocol):
    """Is told of the calls a stepper makes."""

    def sent(self, call: str, given: Sequence[Any], named: Mapping[str, Any]) -> None:
        """Take note of a call and its arguments, whatever becomes of it."""

    def answered(self, call: str, answer: object) -> None:
        """Take note of an answer that arrived."""


class Steered:
    """A port whose named calls are steered; others, and those of other threads, pass."""

    def __init__(
        self,
        target: object,
        calls: frozenset[str],
        *,
        lost: type[Exception],
        watcher: Watcher,
    ) -> None:
        self._target = target
        self._calls = calls
        self._lost = lost
        self._watcher = watcher

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name not in self._calls:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            stepper = _here.stepper
            if stepper is None:
                return found(*args, **kwargs)
            return self._carry_out(stepper, name, partial(found, *args, **kwargs))

        return call

    def _carry_out(
        self,
        stepper: Stepper,
        name: str,
        act: partial[object],
    ) -> object:
        if stepper.dead:
            raise Killed
        fate = stepper.pause(name)
        if stepper.dead or fate is Fate.DIE_BEFORE:
            raise Killed
        self._watcher.sent(name, act.args, act.keywords)
        if fate is Fate.LOSE_CALL:
            raise self._error(name)
        if fate is Fate.HOLD:
            stepper.held.append(act)
            raise self._error(name)
        answer = act()
        if fate is Fate.DIE_AFTER:
            raise Killed
        if fate is Fate.LOSE_ANSWER:
            raise self._error(name)
        self._watcher.answered(name, answer)
        return self._steered(name, answer)

    def _error(self, name: str) -> Exception:
        lost = PublishUnknown if name == "publish" else self._lost
        return lost(f"{name} was not answered")

    def _steered(self, name: str, answer: object) -> object:
        if name == "stage":
            calls = frozenset({"commit", "delete"})
            return Steered(answer, calls, lost=self._lost, watcher=self._watcher)
        return answer


def steered_queue(queue: TaskQueue, watcher: Watcher) -> TaskQueue:
    """Return a queue whose calls stop the thread that makes them."""
    calls = frozenset({"observe", "extend", "complete", "give_back", "ended"})
    return cast("TaskQueue", Steered(queue, calls, lost=QueueUnavailable, watcher=watcher))


def steered_store(store: WorkspaceStore, watcher: Watcher) -> WorkspaceStore:
    """Return a store whose calls stop the thread that makes them, reads and writes of files not."""
    calls = frozenset(
        {"resolve", "history", "list", "changes", "stage", "replacement", "publish", "drop_stage"}
    )
    return cast("WorkspaceStore", Steered(store, calls, lost=StoreUnavailable, watcher=watcher))
