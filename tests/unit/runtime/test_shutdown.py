"""Signals: the first asks to drain, the second to end now."""

from __future__ import annotations

import os
import signal

import pytest

from perago_worker.runtime.shutdown import Shutdown
from tests.support import PATIENCE_S, eventually


def test_nothing_is_asked_for_at_first() -> None:
    shutdown = Shutdown()

    assert not shutdown.drain.is_set()
    assert not shutdown.now.is_set()
    assert shutdown.signal_number is None


def test_the_first_request_drains_and_the_second_ends() -> None:
    shutdown = Shutdown()

    shutdown.ask()
    assert (shutdown.drain.is_set(), shutdown.now.is_set()) == (True, False)
    shutdown.ask()
    assert (shutdown.drain.is_set(), shutdown.now.is_set()) == (True, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_requests_within_the_block(number: signal.Signals) -> None:
    shutdown = Shutdown()
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}

    with shutdown.on_signals():
        os.kill(os.getpid(), number)
        eventually(shutdown.drain.is_set)
        assert not shutdown.now.is_set()
        os.kill(os.getpid(), number)
        eventually(shutdown.now.is_set)

    assert shutdown.signal_number == number
    assert {each: signal.getsignal(each) for each in before} == before


def test_handlers_are_put_back_after_a_failure() -> None:
    before = signal.getsignal(signal.SIGTERM)

    with pytest.raises(ValueError, match="within"), Shutdown().on_signals():
        raise ValueError("within")

    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_in_the_middle_of_waiting_is_taken() -> None:
    """The main thread holds the event's lock for a moment in every wait, also when it is called."""
    shutdown = Shutdown()

    with shutdown.on_signals():
        with shutdown.drain._cond:  # type: ignore[attr-defined] # as `wait` does
            signal.raise_signal(signal.SIGTERM)
        assert shutdown.drain.wait(PATIENCE_S)

    assert shutdown.signal_number == signal.SIGTERM
