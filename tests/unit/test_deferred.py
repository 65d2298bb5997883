"""Listeners that are told a moment later: of everything, in order, and not too late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count

import pytest

from perago_worker.events import (
    AttemptStarted,
    BodyOutput,
    Event,
    HeartbeatSent,
    PollFinished,
    RequestFinished,
    ServiceFailed,
    Stalled,
    StateChanged,
    StepFinished,
    StepStarted,
)
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
    monkeypatch.setattr(deferred, "HELD_UP_S", PATIENCE_S)


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
        lambda listener: listener.on_event(ServiceFailed("heartbeats", "", 1.0)),
        lambda listener: listener.on_event(Stalled("heartbeats", 61.0, "")),
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


def test_with_bodies_that_could_end_the_process_it_tells_where_things_happen() -> None:
    tellers: list[threading.Thread] = []

    class Noting(Slow):
        def on_event(self, event: Event) -> None:
            tellers.append(threading.current_thread())
            super().on_event(event)

    noting, events = Noting(), steps(3)
    with closing(Deferred(noting, at_once=True)) as listener:
        for event in events:
            listener.on_event(event)
            assert noting.events[-1] is event
        listener.flush()
    assert noting.events == events
    assert set(tellers) == {threading.current_thread()}


def test_what_is_left_when_it_closes_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferred, "HELD_UP_S", 0.01)
    slow = Slow()
    slow.go_on.clear()
    listener = Deferred(slow)
    listener.on_event(StateChanged("draining"))
    assert slow.held_up.wait(PATIENCE_S)
    listener.close()
    assert listener.held_up
    slow.go_on.set()
    assert listener.flush()
    listener.close()
    assert not listener.held_up
    assert slow.events == [StateChanged("draining")]


@pytest.mark.usefixtures("never")
def test_once_closed_it_tells_at_once() -> None:
    slow = Slow()
    listener = Deferred(slow)
    listener.close()
    listener.close()
    listener.on_event(AttemptStarted(LEASE))
    assert slow.events == [AttemptStarted(LEASE)]


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize("more", [AttemptStarted(LEASE), BodyOutput(LEASE, "stdout", "")])
def test_no_more_is_begun_or_said_than_memory_should_hold(more: Event) -> None:
    slow = Slow()
    with closing(Deferred(slow)) as listener:
        for event in steps(MAX_WAITING):
            listener.on_event(event)
        assert slow.events == []
        listener.on_event(more)
        assert len(slow.events) == MAX_WAITING + 1


@pytest.fixture
def held_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Deferred, Slow]]:
    """A listener that does not return, with more waiting than may."""
    monkeypatch.setattr(deferred, "HELD_UP_S", 0.01)
    slow = Slow()
    slow.go_on.clear()
    with closing(Deferred(slow)) as listener:
        listener.on_event(AttemptStarted(LEASE))
        assert slow.held_up.wait(PATIENCE_S)
        for event in steps(MAX_WAITING + 1):
            listener.on_event(event)
        yield listener, slow
        slow.go_on.set()
        listener.flush()


@pytest.mark.parametrize(
    "event",
    [
        HeartbeatSent(LEASE, "held", 0.0),
        RequestFinished("conductor", "extend", "POST", "", 200, 0.1),
        PollFinished("features.build", "empty"),
        StepFinished(LEASE, "body", 1.0),
        StateChanged("draining"),
    ],
)
def test_what_goes_on_does_not_wait_for_a_log_that_is_held_up(
    held_up: tuple[Deferred, Slow], event: Event
) -> None:
    listener, slow = held_up
    listener.on_event(event)
    assert slow.events == []


def test_nor_do_those_who_look(held_up: tuple[Deferred, Slow]) -> None:
    listener, slow = held_up
    listener.flush(timeout_s=0.01)
    assert slow.events == []


def test_what_begins_does_wait_for_it(held_up: tuple[Deferred, Slow]) -> None:
    listener, slow = held_up
    beginning = threading.Thread(target=listener.on_event, args=(AttemptStarted(LEASE),))
    beginning.start()
    beginning.join(0.05)
    assert beginning.is_alive()
    slow.go_on.set()
    beginning.join(PATIENCE_S)
    assert len(slow.events) == MAX_WAITING + 3


@pytest.mark.usefixtures("never")
def test_a_listener_that_fails_is_told_of_the_next() -> None:
    class Failing(Slow):
        def on_event(self, event: Event) -> None:
            super().on_event(event)
            raise ZeroDivisionError

    failing, events = Failing(), steps(3)
    with closing(Deferred(failing)) as listener:
        for event in events:
            listener.on_event(event)
        listener.flush()
        assert failing.events == events


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
        listener.flush()
    numbers = {str(each): count() for each in range(4)}
    for event in slow.events:
        assert isinstance(event, StepStarted)
        teller, _, number = event.step.partition(" ")
        assert next(numbers[teller]) == int(number)
    assert len(slow.events) == 4 * 300
