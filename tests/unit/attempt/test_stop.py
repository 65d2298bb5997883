"""Telling an attempt to stop: once, with one cause, to everybody who wants to know."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from perago_worker.attempt.codes import Code
from perago_worker.attempt.stop import StopCause, StopToken
from perago_worker.errors import (
    AttemptAbandoned,
    AttemptError,
    AttemptReleased,
    RetryableAttemptError,
)


@pytest.mark.parametrize(
    ("cause", "error", "code"),
    [
        (StopCause.SUPERSEDED, AttemptAbandoned, Code.SUPERSEDED),
        (StopCause.CANCELLED, AttemptAbandoned, Code.CANCELLED),
        (StopCause.BODY_TIMEOUT, RetryableAttemptError, Code.BODY_TIMEOUT),
        (StopCause.DRAINED, AttemptReleased, Code.DRAINED),
        (StopCause.SHUT_DOWN, AttemptReleased, Code.SHUT_DOWN),
    ],
)
def test_each_cause_ends_the_attempt_in_its_way(
    cause: StopCause, error: type[AttemptError], code: Code
) -> None:
    token = StopToken()
    token.check()

    assert token.trip(cause, "why")
    assert token.event.is_set()
    with pytest.raises(error) as raised:
        token.check()
    assert (raised.value.code, raised.value.reason) == (code, "why")


def test_every_cause_has_an_error() -> None:
    for cause in StopCause:
        token = StopToken()
        token.trip(cause, "why")
        assert token.stop is not None
        assert token.stop.error().code == cause.value


def test_the_first_cause_stands() -> None:
    token = StopToken()

    assert token.trip(StopCause.DRAINED, "first")
    assert not token.trip(StopCause.SUPERSEDED, "second")
    assert token.stop is not None
    assert (token.stop.cause, token.stop.detail) == (StopCause.DRAINED, "first")


def test_of_many_threads_one_gives_the_order_and_everybody_is_told_once() -> None:
    token = StopToken()
    told: list[int] = []
    barrier = threading.Barrier(8)

    def trip(number: int) -> bool:
        barrier.wait()
        return token.trip(StopCause.DRAINED, str(number))

    with token.notifying(lambda: told.append(1)), ThreadPoolExecutor(8) as pool:
        given = list(pool.map(trip, range(8)))

    assert given.count(True) == 1
    assert told == [1]
    assert token.stop is not None
    assert token.stop.detail == str(given.index(True))


def test_who_asks_late_is_told_at_once() -> None:
    token = StopToken()
    token.trip(StopCause.DRAINED, "why")
    told: list[int] = []

    with token.notifying(lambda: told.append(1)):
        assert told == [1]


def test_who_has_left_is_not_told() -> None:
    token = StopToken()
    told: list[int] = []
    with token.notifying(lambda: told.append(1)):
        pass

    token.trip(StopCause.DRAINED, "why")

    assert not told


def test_who_is_told_may_ask_the_token() -> None:
    """The order stands, and no lock is held, when anybody is told of it."""
    token = StopToken()
    seen: list[object] = []

    def look() -> None:
        seen.append(token.stop)
        assert not token.trip(StopCause.CANCELLED, "again")

    with token.notifying(look):
        token.trip(StopCause.DRAINED, "why")

    assert seen == [token.stop]
