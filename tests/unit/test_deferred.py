"""Listeners that are told a moment later: of everything, in order, and not too late."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from itertools import count

import pytest

from perago_worker.events import AttemptStarted, Event, StateChanged, StepStarted
from perago_worker.telemetry import deferred
from perago_worker.telemetry.deferred import MAX_WAITING, Deferred
from tests.leases import make_lease
from tests.support import PATIENCE_S, eventually

LEASE = make_lease()


class Slow:
    """A listener that remembers events and can be held up."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.held_up = threading.Event()

    def on_event(self, event: Event) -> None:
        if not self.go_on.is_set():
            self.held_up.set()
            assert self.go_on.wait(PATIENCE_S)
        self.events.append(event)


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is told of only because time has passed."""
    monkeypatch.setattr(deferred, "DELAY_S", 2 * PATIENCE_S)


def steps(number: int) -> list[Event]:
    return [StepStarted(LEASE, f"step {each}") for each in range(number)]


def test_events_are_told_of_in_their_order() -> None:
    slow, events = Slow(), steps(200)
    with closing(Deferred(slow)) as listener:
        for event in events:
            listener.on_event(event)
        eventually(lambda: slow.events == events)


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize(
    "tell",
    [
        lambda listener: listener.on_event(StateChanged("draining")),
        lambda listener: listener.flush(),
        lambda listener: listener.close(),
    ],
)
def test_some_things_wait_for_no_time(tell: Callable[[Deferred], None]) -> None:
    slow, events = Slow(), steps(3)
    with closing(Deferred(slow)) as listener:
        for event in events:
            listener.on_event(event)
        assert slow.events == []
        tell(listener)
        assert slow.events[:3] == events


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize(("in_process", "told"), [(LEASE.task_type, 3), ("another", 0)])
def test_a_body_that_could_end_the_process_waits_until_the_log_names_it(
    in_process: str, told: int
) -> None:
    slow = Slow()
    with closing(Deferred(slow, in_process=[in_process])) as listener:
        listener.on_event(AttemptStarted(LEASE))
        listener.on_event(StepStarted(LEASE, "receive"))
        assert slow.events == []
        listener.on_event(StepStarted(LEASE, "body"))
        assert len(slow.events) == told


@pytest.mark.usefixtures("never")
def test_once_closed_it_tells_at_once() -> None:
    slow = Slow()
    listener = Deferred(slow)
    listener.close()
    listener.close()
    listener.on_event(AttemptStarted(LEASE))
    assert slow.events == [AttemptStarted(LEASE)]


@pytest.mark.usefixtures("never")
def test_no_more_wait_than_memory_should_hold() -> None:
    slow = Slow()
    with closing(Deferred(slow)) as listener:
        for event in steps(MAX_WAITING):
            listener.on_event(event)
        assert slow.events == []
        listener.on_event(AttemptStarted(LEASE))
        assert len(slow.events) == MAX_WAITING + 1


@pytest.mark.usefixtures("never")
def test_who_looks_does_not_wait_for_a_listener_that_is_held_up() -> None:
    slow = Slow()
    with closing(Deferred(slow)) as listener:
        slow.go_on.clear()
        listener.on_event(AttemptStarted(LEASE))
        telling = threading.Thread(target=listener.flush)
        telling.start()
        assert slow.held_up.wait(PATIENCE_S)
        listener.on_event(StepStarted(LEASE, "body"))
        listener.flush(timeout_s=0.01)
        assert slow.events == []
        slow.go_on.set()
        telling.join(PATIENCE_S)
    assert slow.events == [AttemptStarted(LEASE), StepStarted(LEASE, "body")]


def test_many_threads_lose_nothing_and_keep_their_order() -> None:
    slow = Slow()

    def tell(thread: int) -> None:
        for number in range(300):
            listener.on_event(StepStarted(LEASE, f"{thread} {number}"))

    with closing(Deferred(slow)) as listener:
        threads = [threading.Thread(target=tell, args=(each,)) for each in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    numbers = {str(each): count() for each in range(4)}
    for event in slow.events:
        assert isinstance(event, StepStarted)
        teller, _, number = event.step.partition(" ")
        assert next(numbers[teller]) == int(number)
    assert len(slow.events) == 4 * 300
