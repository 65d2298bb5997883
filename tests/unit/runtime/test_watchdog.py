"""The watchdog: a part that is stuck is told of once, with what all threads do."""

from __future__ import annotations

import threading

from perago_worker.events import Stalled
from perago_worker.runtime.service import ThreadService
from perago_worker.runtime.watchdog import STALL_S, Watchdog
from tests.clocks import ManualClock
from tests.support import PATIENCE_S, Recorder


class Stuck(ThreadService):
    """A service that waits for a lock that is never let go, as in a dead lock."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__("stuck", clock=clock)
        self.lock = threading.Lock()
        self.lock.acquire()

    def run(self) -> None:
        self.wait_for_a_lock_that_never_comes()

    def wait_for_a_lock_that_never_comes(self) -> None:
        with self.lock:
            pass


def test_a_part_that_is_stuck_is_told_of_once_with_its_stack() -> None:
    clock, recorder = ManualClock(), Recorder()
    service = Stuck(clock)
    watchdog = Watchdog(lambda: [service], clock=clock, listener=recorder)
    service.start()
    try:
        watchdog.look()
        assert recorder.of(Stalled) == []

        clock.advance(STALL_S + 1)
        watchdog.look()
        watchdog.look()

        (stalled,) = recorder.of(Stalled)
        assert (stalled.service, stalled.silent_s) == ("stuck", STALL_S + 1)
        assert 'Thread "stuck":' in stalled.stacks
        assert "wait_for_a_lock_that_never_comes" in stalled.stacks

        service.tick()
        watchdog.look()
        clock.advance(STALL_S + 1)
        watchdog.look()
        assert len(recorder.of(Stalled)) == 2
    finally:
        service.lock.release()
        assert service.join(PATIENCE_S)


def test_it_looks_by_itself_and_ends_when_told() -> None:
    clock, recorder = ManualClock(), Recorder()
    service = Stuck(clock)
    service.start()
    clock.advance(STALL_S + 1)
    watchdog = Watchdog(lambda: [service], clock=clock, listener=recorder)
    watchdog.start()
    try:
        recorder.wait_for(Stalled)
    finally:
        service.lock.release()
        watchdog.stop()
        clock.advance(1)
        assert watchdog.join(PATIENCE_S)
        assert service.join(PATIENCE_S)
