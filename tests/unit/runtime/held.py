"""A task whose body waits for the test, and the parts of a worker that serve it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel

from perago_worker import RetryPolicy, TaskControls, TimeoutPolicy, current_attempt, task
from perago_worker.attempt.body.runner import BodyRunner
from perago_worker.attempt.body.thread import ThreadBody
from perago_worker.runtime.heartbeats import Heartbeats
from perago_worker.runtime.poller import Poller
from perago_worker.runtime.slots import SlotPool
from perago_worker.task import TaskDefinition
from tests.support import PATIENCE_S, Rig, eventually


class Gate:
    """Where bodies wait until the test lets them go on."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.open = threading.Event()

    def enter(self) -> None:
        """Tell that a body has begun, and wait for the test or for the attempt's end."""
        self.begun.release()
        attempt = current_attempt()
        eventually(lambda: self.open.is_set() or attempt.cancelled.is_set())

    def wait_begun(self) -> None:
        """Wait until one more body has begun."""
        assert self.begun.acquire(timeout=PATIENCE_S)


_gates: dict[str, Gate] = {}


class Order(BaseModel):
    """Which gate to wait at; none, if empty."""

    gate: str = ""


class Answer(BaseModel):
    """Nothing."""


@task(
    name="held.task",
    owner_email="tests@example.com",
    controls=TaskControls(
        retry=RetryPolicy(count=2, delay_seconds=0),
        timeout=TimeoutPolicy(response_seconds=30, policy="RETRY"),
    ),
)
def held(params: Order) -> Answer:
    """Wait at a gate."""
    if params.gate:
        _gates[params.gate].enter()
    return Answer()


HELD = TaskDefinition.of(held)


@contextmanager
def gate(name: str = "gate") -> Iterator[Gate]:
    """Offer a gate, and open it in the end whatever happens."""
    made = _gates[name] = Gate()
    try:
        yield made
    finally:
        made.open.set()


class Works:
    """Heartbeats, slots and a poller for the task, over a rig; nothing is started.

    Args:
        make_body: Makes the body of one slot.
        poller: More arguments for the poller.
    """

    def __init__(
        self,
        here: Rig,
        *,
        slots: int = 1,
        make_body: Callable[[], BodyRunner] = lambda: ThreadBody(HELD),
        idle_wait_s: float = 0.1,
        take_ahead_s: float = 0.0,
    ) -> None:
        self.here = here
        self.heartbeats = Heartbeats(clock=here.clock)
        self.pool = SlotPool(
            HELD,
            size=slots,
            make_tools=lambda: here.tools(make_body()),
            heartbeats=self.heartbeats,
            clock=here.clock,
            take_ahead_s=take_ahead_s,
        )
        self.poller = Poller(
            HELD.name,
            queue=here.queue.as_queue(),
            pool=self.pool,
            domain=None,
            idle_wait_s=idle_wait_s,
            clock=here.clock,
            listener=here.recorder,
        )

    def submit(self, **order: Any) -> str:
        """Start a workflow of the task; return the task's id."""
        return self.here.submit(HELD, params=order)

    def start_slots(self) -> None:
        """Start the slots and wait until they can take work."""
        for service in (*self.pool.helpers, *self.pool.slots):
            service.start()
        eventually(lambda: self.pool.free == len(self.pool.slots))

    def start(self) -> None:
        """Start everything."""
        self.heartbeats.start()
        self.start_slots()
        self.poller.start()

    def stop(self) -> None:
        """Stop everything, and check that it ends."""
        for service in (self.poller, *self.pool.slots):
            service.stop()
        for service in (self.poller, *self.pool.slots):
            assert service.join(PATIENCE_S), service.name
        for service in (*self.pool.helpers, self.heartbeats):
            service.stop()
            assert service.join(PATIENCE_S), service.name

    def statuses(self) -> list[str]:
        """Return how the queue shows the tasks, oldest first."""
        return [task.status for task in reversed(self.here.local_queue.tasks())]


@contextmanager
def works(here: Rig, **fields: Any) -> Iterator[Works]:
    """Offer the parts, and stop them."""
    made = Works(here, **fields)
    try:
        yield made
    finally:
        for each in _gates.values():
            each.open.set()
        made.stop()
