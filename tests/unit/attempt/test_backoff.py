"""Waiting between tries."""

from __future__ import annotations

import threading
from itertools import islice

import pytest

from perago_worker.attempt.backoff import Backoff, Retry
from perago_worker.errors import StoreRefused, StoreUnavailable
from tests.clocks import ManualClock
from tests.support import HastyClock, raising


def test_waits_grow_to_their_cap_and_stay_in_the_upper_half() -> None:
    ceilings = [1, 2, 4, 8, 10, 10, 10]

    for _ in range(50):
        waits = list(islice(Backoff(first_s=1, cap_s=10), len(ceilings)))
        assert all(c / 2 <= wait <= c for wait, c in zip(waits, ceilings, strict=True))


def test_waits_are_jittered() -> None:
    assert len({Backoff(first_s=1, cap_s=10).next_wait() for _ in range(20)}) > 1


def test_a_success_starts_over() -> None:
    backoff = Backoff(first_s=1, cap_s=100)
    for _ in range(5):
        backoff.next_wait()

    backoff.reset()

    assert backoff.next_wait() <= 1


def test_thousands_of_failures_do_not_overflow() -> None:
    waits = islice(Backoff(first_s=1, cap_s=30, factor=1e9), 5000)

    assert max(waits) <= 30


class Calls:
    """Fails so many times, then returns its argument."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.count = 0
        self._failures = failures
        self._error = error

    def __call__(self, value: str) -> str:
        self.count += 1
        if self.count <= self._failures:
            raise self._error
        return value


def retry(**fields: object) -> Retry:
    defaults: dict[str, object] = {
        "tries": 3,
        "first_s": 1.0,
        "cap_s": 30.0,
        "factor": 4.0,
        "clock": HastyClock(),
        "stop": threading.Event(),
        "check": lambda: None,
    }
    return Retry(StoreUnavailable, **{**defaults, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_calls_are_tried_again_until_one_succeeds(failures: int) -> None:
    calls = Calls(failures, StoreUnavailable("away"))

    assert retry()(calls, "answer") == "answer"
    assert calls.count == failures + 1


def test_the_last_failure_is_raised() -> None:
    calls = Calls(9, StoreUnavailable("away"))

    with pytest.raises(StoreUnavailable):
        retry()(calls, "answer")
    assert calls.count == 3


def test_other_errors_are_raised_at_once() -> None:
    calls = Calls(9, StoreRefused("no"))

    with pytest.raises(StoreRefused):
        retry()(calls, "answer")
    assert calls.count == 1


def test_nothing_is_tried_once_it_is_to_stop() -> None:
    calls = Calls(9, StoreUnavailable("away"))

    with pytest.raises(InterruptedError):
        retry(check=raising(InterruptedError()))(calls, "answer")
    assert calls.count == 0


def test_stopping_ends_a_wait() -> None:
    """On a clock that nobody moves, only the event can end the wait."""
    stop = threading.Event()
    clock = ManualClock()

    def check() -> None:
        if stop.is_set():
            raise InterruptedError

    def stop_the_wait() -> None:
        clock.until_waiting()
        stop.set()

    def work() -> None:
        threading.Thread(target=stop_the_wait).start()
        raise StoreUnavailable("away")

    with pytest.raises(InterruptedError):
        retry(stop=stop, clock=clock, check=check)(work)
