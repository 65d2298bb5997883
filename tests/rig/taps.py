"""Ports whose every call passes one place, where it is counted, recorded and tampered with."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perago_worker.models import Publication
from tests.rig.history import Answered, Called, Journal, sent
from tests.support import Faulty

LOCAL = {"new_digest", "close"}
"""Methods that ask nobody anything."""


@dataclass(frozen=True)
class Call:
    """One call of a port, not made yet.

    Attributes:
        name: `queue.observe`, `store.publish`, `stage.write` and so on.
        nth: Which call of that name it is, from 1.
        perform: Makes the call.
        args: What it was given.
    """

    name: str
    nth: int
    perform: Callable[[], Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def of(self) -> str:
        """What tells calls apart that are made for different things: an object's key, mostly."""
        texts = (*self.args, *self.kwargs.values())
        return f"{self.name} {[text for text in texts if isinstance(text, str)]}"


Tap = Callable[[Call], Any]
"""Makes a call, or something else of it; returns what the caller gets."""


class Counting:
    """The numbers of a case's calls, by name. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def next(self, name: str) -> int:
        """Count a call."""
        with self._lock:
            self._counts[name] += 1
            return self._counts[name]


class Tapped(Faulty):
    """A port whose calls all pass a tap."""

    def __init__(self, target: object, service: str, tap: Tap, counting: Counting) -> None:
        super().__init__(target)
        self._service = service
        self._tap = tap
        self._counting = counting

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found) or name in LOCAL:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            full = f"{self._service}.{name}"
            answer = self._tap(
                Call(full, self._counting.next(full), lambda: found(*args, **kwargs), args, kwargs)
            )
            if full == "store.stage":
                return Tapped(answer, "stage", self._tap, self._counting)
            return answer

        return call


def untouched(call: Call) -> Any:
    """Make the call."""
    return call.perform()


def recording(journal: Journal, then: Tap, *, calls: bool = False) -> Tap:
    """Return a tap that writes down merges, and all calls if told to, and passes them on.

    Merges are noted next to the store, beneath what `then` makes of the calls.
    """

    def tap(call: Call) -> Any:
        if calls:
            journal.note(Called(call.name, call.nth, threading.current_thread().name))
        if call.name != "store.publish":
            return then(call)
        noted = Call(call.name, call.nth, lambda: _noting(journal, call), call.args, call.kwargs)
        return then(noted)

    return tap


def _noting(journal: Journal, call: Call) -> Any:
    publication = Publication.from_metadata(call.kwargs["metadata"])
    assert publication is not None, "only publications are merged"
    journal.note(sent(publication, call.kwargs["expected_head"]))
    merged = call.perform()
    journal.note(Answered(publication.uuid, merged.id))
    return merged
