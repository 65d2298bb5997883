"""How far a transfer has come is told now and then, whoever moves the bytes."""

from __future__ import annotations

import io
import threading

import pytest

from perago_worker.attempt.meter import INTERVAL_S, TransferMeter
from perago_worker.attempt.transfer import DigestingReader
from perago_worker.events import Event, TransferProgress
from perago_worker.models import Lease
from tests.clocks import ManualClock
from tests.leases import make_lease
from tests.support import Recorder


class Digest:
    def update(self, data: bytes | memoryview, /) -> None:
        """Take it."""

    def hexdigest(self) -> str:
        return ""

    def copy(self) -> Digest:
        return self


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def meter(clock: ManualClock, recorder: Recorder, lease: Lease) -> TransferMeter:
    return TransferMeter(lease, "download", listener=recorder, now=clock.now)


@pytest.fixture
def lease() -> Lease:
    return make_lease()


def test_a_short_transfer_is_not_told_of(
    meter: TransferMeter, clock: ManualClock, recorder: Recorder
) -> None:
    meter.moved(10)
    clock.advance(INTERVAL_S / 2)
    meter.done()
    assert recorder.events == []


def test_many_objects_make_few_events(
    meter: TransferMeter, clock: ManualClock, recorder: Recorder, lease: Lease
) -> None:
    for _ in range(100):
        clock.advance(INTERVAL_S / 10)
        meter.moved(5)
        meter.done()
    events = recorder.of(TransferProgress)
    assert len(events) == pytest.approx(10, abs=1)
    assert events[0].lease == lease
    assert all(event.direction == "download" for event in events)
    amounts = [event.bytes for event in events]
    assert amounts == sorted(set(amounts))
    assert events[-1].seconds == pytest.approx(INTERVAL_S * len(events), abs=INTERVAL_S)


def test_the_whole_is_told_once_it_is_known(
    meter: TransferMeter, clock: ManualClock, recorder: Recorder
) -> None:
    clock.advance(1)
    meter.moved(5)
    meter.expect(3, 70)
    clock.advance(1)
    meter.moved(5)
    first, second = recorder.of(TransferProgress)
    assert (first.of_objects, first.of_bytes) == (None, None)
    assert (second.of_objects, second.of_bytes) == (3, 70)


def test_nothing_is_lost_between_threads(
    meter: TransferMeter, clock: ManualClock, recorder: Recorder
) -> None:
    def move() -> None:
        for _ in range(500):
            meter.moved(3)
            meter.done()

    threads = [threading.Thread(target=move) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.advance(1)
    meter.moved(0)
    (event,) = recorder.of(TransferProgress)
    assert (event.objects, event.bytes) == (2000, 6000)


def test_a_listener_may_ask_the_meter(clock: ManualClock, lease: Lease) -> None:
    """It is called without the lock, so that one that takes its time holds up one thread only."""
    seen: list[Event] = []

    class Slow:
        def on_event(self, event: Event) -> None:
            seen.append(event)
            own.moved(1)

    own = TransferMeter(lease, "upload", listener=Slow(), now=clock.now)
    clock.advance(1)
    own.moved(1)
    assert len(seen) == 1


def test_a_file_that_is_read_is_counted_piece_by_piece() -> None:
    pieces: list[int] = []
    reader = DigestingReader(io.BytesIO(b"12345"), Digest(), moved=pieces.append)
    while reader.read(2):
        pass
    assert pieces == [2, 2, 1, 0]
