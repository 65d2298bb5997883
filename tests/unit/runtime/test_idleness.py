"""When nothing is left to do: what may happen between two looks, and within one."""

from __future__ import annotations

from perago_worker.events import AttemptFinished, PollFinished
from perago_worker.runtime.idleness import Idleness
from tests.support import PATIENCE_S, Rig, eventually
from tests.unit.runtime.held import HELD, Gate, Works, works


def watch(made: Works) -> Idleness:
    """Return one that has seen the queue as it is before anything was delivered."""
    idleness = Idleness(made.here.queue.as_queue(), [made.poller], made.here.clock)
    assert not idleness.reached()
    return idleness


def wait_empty_poll(here: Rig) -> None:
    """Wait until a poll that is sent from now on has come back empty."""
    ended = len(here.recorder.of(PollFinished))

    def empty() -> int:
        # The first that ends may have been sent before, and the last is still being dealt with.
        return sum(e.outcome == "empty" for e in here.recorder.of(PollFinished)[ended + 1 :])

    eventually(lambda: empty() > 1)


def test_a_poll_that_was_sent_before_the_queue_was_seen_empty_proves_nothing(here: Rig) -> None:
    with works(here) as made:
        idleness = watch(made)
        made.start()
        wait_empty_poll(here)
        made.poller.stop()
        assert made.poller.join(PATIENCE_S)
        assert not idleness.reached()
        assert not idleness.reached()


def test_a_poll_that_was_sent_later_and_came_back_empty_is_the_end(here: Rig) -> None:
    with works(here) as made:
        idleness = watch(made)
        assert not idleness.reached()
        made.start()
        wait_empty_poll(here)
        assert idleness.reached()


def test_a_task_that_comes_and_ends_within_a_look_starts_it_over(here: Rig) -> None:
    """The next task of its workflow may be of a type whose poller has asked already."""
    with works(here) as made:
        idleness = watch(made)
        assert not idleness.reached()
        made.start()
        wait_empty_poll(here)

        def come_and_go() -> None:
            made.submit()
            here.recorder.wait_for(AttemptFinished)
            eventually(lambda: not made.pool.busy)
            wait_empty_poll(here)

        here.queue.after("depth", come_and_go, nth=1)
        assert not idleness.reached()
        assert not idleness.reached()
        wait_empty_poll(here)
        assert idleness.reached()


def test_a_task_that_waits_for_a_slot_is_not_the_end(here: Rig) -> None:
    with works(here) as made:
        idleness = watch(made)
        made.submit()
        (lease,) = here.queue.as_queue().poll(HELD.name, count=1, wait_s=0)
        assert idleness._nothing_to_do()
        assert made.pool.take(lease, may_wait=True) == "waits"
        assert not idleness._nothing_to_do()


def test_an_attempt_that_runs_is_not_the_end(here: Rig, held: Gate) -> None:
    with works(here, slots=2) as made:
        idleness = watch(made)
        made.submit(gate="gate")
        made.start()
        held.wait_begun()
        for _ in range(3):
            wait_empty_poll(here)
            assert not idleness.reached()


def test_a_task_that_waits_for_its_time_is_not_the_end(here: Rig) -> None:
    with works(here) as made:
        idleness = watch(made)
        made.submit()
        (lease,) = here.local_queue.poll(made.poller.task_type, count=1, wait_s=0)
        here.local_queue.give_back(lease, after_s=3600)
        made.start()
        for _ in range(3):
            wait_empty_poll(here)
            assert not idleness.reached()
