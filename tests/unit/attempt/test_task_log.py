"""What a body says, on its way to the worker's log and to the task's log."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from perago_worker.attempt.task_log import FLUSH_INTERVAL_S, MAX_LINE_CHARS, MAX_LINES, TaskLog
from perago_worker.errors import QueueRefused, QueueUnavailable
from perago_worker.events import BodyOutput
from perago_worker.models import Lease
from perago_worker.task import TaskDefinition
from tests.clocks import ManualClock
from tests.support import Rig, raising, rig
from tests.tasks.probe import plain

PLAIN = TaskDefinition.of(plain)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def here(tmp_path: Path, clock: ManualClock) -> Iterator[Rig]:
    with rig(tmp_path, clock=clock) as opened:
        opened.submit(PLAIN)
        yield opened


@pytest.fixture
def lease(here: Rig) -> Lease:
    return here.poll(PLAIN)


@pytest.fixture
def log(here: Rig, lease: Lease) -> TaskLog:
    return TaskLog(
        queue=here.queue.as_queue(),
        clock=here.clock,
        listener=here.recorder,
        redact=lambda text: text.replace("s3cret", "***"),
        lease=lease,
    )


def test_lines_are_told_at_once_and_kept_for_the_report(
    here: Rig, log: TaskLog, lease: Lease
) -> None:
    log.add("stdout", "one")
    log.add("progress", "1/2")

    assert here.recorder.of(BodyOutput) == [
        BodyOutput(lease, "stdout", "one"),
        BodyOutput(lease, "progress", "1/2"),
    ]
    assert log.take() == ("one", "1/2")
    assert log.take() == ()
    assert not here.queue.calls("append_log")


def test_secrets_leave_the_worker_nowhere(here: Rig, log: TaskLog, clock: ManualClock) -> None:
    log.add("stdout", "the key is s3cret")
    clock.advance(FLUSH_INTERVAL_S)
    log.add("log", "s3cret again")

    assert [event.line for event in here.recorder.of(BodyOutput)] == [
        "the key is ***",
        "*** again",
    ]
    (record,) = here.local_queue.tasks()
    assert record.log == ("the key is ***", "*** again")


def test_lines_are_sent_in_batches_while_the_body_runs(
    here: Rig, log: TaskLog, clock: ManualClock
) -> None:
    log.add("stdout", "one")
    clock.advance(FLUSH_INTERVAL_S)
    log.add("stdout", "two")
    log.add("stdout", "three")

    assert here.local_queue.tasks()[0].log == ("one", "two")
    assert log.take() == ("three",)


@pytest.mark.parametrize("error", [QueueUnavailable("away"), QueueRefused("no")])
def test_lines_that_could_not_be_sent_go_with_the_next_ones(
    here: Rig, log: TaskLog, clock: ManualClock, error: Exception
) -> None:
    here.queue.before("append_log", raising(error), nth=1)
    log.add("stdout", "one")
    clock.advance(FLUSH_INTERVAL_S)
    log.add("stdout", "two")
    log.add("stdout", "three")

    assert here.queue.calls("append_log") == 1
    assert log.take() == ("one", "two", "three")


def test_of_many_lines_the_last_are_kept_and_the_others_counted(log: TaskLog) -> None:
    for number in range(MAX_LINES + 7):
        log.add("stdout", str(number))

    lines = log.take()

    assert lines[0] == "(7 earlier lines left out)"
    assert lines[1:] == tuple(map(str, range(7, MAX_LINES + 7)))
    log.add("stdout", "more")
    assert log.take() == ("more",)


def test_the_newest_lines_are_kept_when_a_full_batch_could_not_be_sent(
    here: Rig, log: TaskLog, clock: ManualClock
) -> None:
    here.queue.before("append_log", raising(QueueUnavailable("away")))
    for number in range(MAX_LINES + 7):
        log.add("stdout", str(number))
    clock.advance(FLUSH_INTERVAL_S)
    log.add("stdout", "last")

    lines = log.take()

    assert lines[-1] == "last"
    assert "earlier lines left out" in lines[0]
    assert len(lines) == MAX_LINES + 1


def test_long_lines_are_cut(log: TaskLog) -> None:
    log.add("stdout", "x" * (MAX_LINE_CHARS + 1))

    assert log.take() == ("x" * MAX_LINE_CHARS,)


def test_a_body_may_log_from_many_threads(
    here: Rig, log: TaskLog, lease: Lease, clock: ManualClock
) -> None:
    def say(thread: int) -> None:
        for number in range(40):
            log.add("log", f"{thread} {number}")
            clock.advance(FLUSH_INTERVAL_S / 10)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(say, range(4)))

    sent = [*here.task(lease.task_id).log, *log.take()]
    assert sorted(sent) == sorted(f"{thread} {n}" for thread in range(4) for n in range(40))
