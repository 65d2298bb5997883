"""Heartbeats as dense as they can be, around completions: Conductor must not undo any of these.

On Conductor an extension that overlaps the completion writes the task back as in progress, with its
output lost. The keeper's lock keeps the two apart.
"""

from __future__ import annotations

import os
import random
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from perago_worker.adapters.conductor import ConductorQueue, ConductorSettings
from perago_worker.adapters.system import SystemClock
from perago_worker.attempt.lease_keeper import LeaseKeeper
from perago_worker.attempt.stop import StopToken
from perago_worker.events import Fanout
from perago_worker.models import Lease, Outcome
from perago_worker.runtime.heartbeats import Heartbeats
from tests.contract.conductor_harness import ConductorHarness
from tests.support import Recorder

pytestmark = pytest.mark.servers

COMPLETIONS = int(os.environ.get("PERAGO_TEST_COMPLETIONS", "100"))
"""The full figure is 500."""

INTERVAL_S = 0.001
"""Shorter than a heartbeat takes: the next one is due when one is answered."""

AT_ONCE = 4


@pytest.fixture
def harness(conductor_url: str) -> Iterator[ConductorHarness]:
    harness = ConductorHarness(conductor_url)
    yield harness
    harness.close()


@pytest.mark.timeout(600)
def test_no_completion_is_undone(harness: ConductorHarness, conductor_url: str) -> None:
    clock = SystemClock()
    queue = ConductorQueue.open(
        ConductorSettings(conductor_url), clock=clock, worker_id=f"test:{uuid.uuid4().hex}"
    )
    task_type = harness.define(responseTimeoutSeconds=30)
    submitted = [harness.submit(task_type) for _ in range(COMPLETIONS)]
    heartbeats = Heartbeats(clock=clock)
    heard = Recorder()
    heartbeats.start()

    def carry_out(lease: Lease) -> None:
        keeper = LeaseKeeper(
            lease,
            queue=queue,
            clock=clock,
            heartbeat_interval_s=INTERVAL_S,
            stop=StopToken(),
            shut_down=threading.Event(),
            listener=Fanout([heard]),
        )
        with heartbeats.watching(keeper):
            clock.wait(threading.Event(), random.uniform(0.01, 0.05))  # noqa: S311 -- no secret
            outcome = Outcome(kind="completed", code="no_workspace", output={"id": lease.task_id})
            assert keeper.complete(outcome, request_timeout_s=15)

    with ThreadPoolExecutor(AT_ONCE) as slots:
        taken = 0
        while taken < COMPLETIONS:
            leases = queue.poll(task_type, count=8, wait_s=0)
            taken += len(leases)
            list(slots.map(carry_out, leases))
    heartbeats.stop()
    assert heartbeats.join(10)
    queue.close()

    assert len(heard.events) > COMPLETIONS, "there were hardly any heartbeats"
    undone = {}
    for each in submitted:
        view = harness.task(each.task_id)
        assert view is not None
        if (view.status, view.output) != ("COMPLETED", {"id": each.task_id}):
            undone[each.task_id] = view.status
    assert undone == {}
