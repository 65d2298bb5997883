"""The contract of every long-lived part: start, stop, join, and how it fails."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from perago_worker.runtime.service import ThreadService
from tests.clocks import ManualClock
from tests.support import PATIENCE_S, eventually
from tests.unit.runtime.failing import Failing


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def service(clock: ManualClock) -> ThreadService:
    return ThreadService("a service", clock=clock)


def test_it_runs_in_a_thread_of_its_name_until_it_is_stopped(service: ThreadService) -> None:
    service.start()
    assert "a service" in [thread.name for thread in threading.enumerate()]
    assert not service.join(0)

    service.stop()

    assert service.join(PATIENCE_S)
    assert service.failure is None
    assert "a service" not in [thread.name for thread in threading.enumerate()]


def test_stopping_is_safe_before_the_start_and_twice(service: ThreadService) -> None:
    service.stop()
    assert service.join(0)
    service.stop()

    service.start()

    assert service.join(PATIENCE_S)


def test_stopping_from_many_threads_at_once_is_safe(service: ThreadService) -> None:
    barrier = threading.Barrier(8)

    def stop(_: int) -> bool:
        barrier.wait(PATIENCE_S)
        service.stop()
        return service.join(PATIENCE_S)

    service.start()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(stop, range(8)))


def test_a_failure_is_kept_until_it_is_started_again() -> None:
    service = Failing(1, clock=ManualClock())
    service.start()
    eventually(lambda: service.failure is not None)
    assert "ValueError: failure 1" in str(service.failure)
    assert service.join(PATIENCE_S)

    service.start()

    assert service.failure is None
    assert not service.join(0)
    service.stop()
    assert service.join(PATIENCE_S)
    assert service.runs == 2


def test_silence_is_counted_while_it_runs(service: ThreadService, clock: ManualClock) -> None:
    clock.advance(10)
    assert service.silent_for_s() == 0
    service.start()
    clock.advance(5)
    assert service.silent_for_s() == 5

    service.tick()
    clock.advance(2)

    assert service.silent_for_s() == 2
    service.stop()
    assert service.join(PATIENCE_S)
    assert service.silent_for_s() == 0
