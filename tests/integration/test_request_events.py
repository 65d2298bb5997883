"""Requests to the real servers are told of, with the status that came."""

from __future__ import annotations

from contextlib import closing

import pytest

from deploy.servers.servers import LakeFSAccess
from perago_worker.adapters.conductor.client import ConductorSettings
from perago_worker.adapters.conductor.queue import ConductorQueue
from perago_worker.adapters.lakefs.store import LakeFSStore
from perago_worker.adapters.system import SystemClock
from perago_worker.errors import NotFound
from perago_worker.events import RequestFinished
from tests.contract.lakefs_harness import settings_for
from tests.support import Recorder

pytestmark = pytest.mark.servers


def test_what_both_servers_answer_is_told(conductor_url: str, lakefs: LakeFSAccess) -> None:
    recorder = Recorder()
    with (
        closing(
            ConductorQueue.open(
                ConductorSettings(conductor_url),
                clock=SystemClock(),
                worker_id="w",
                listener=recorder,
            )
        ) as queue,
        closing(LakeFSStore.open(settings_for(lakefs), listener=recorder)) as store,
    ):
        queue.poll("nobody.has.this", count=1, wait_s=0)
        queue.depth("nobody.has.this")
        store.ping()
        with pytest.raises(NotFound):
            store.head("nobody-has-this", "main")

    told = [(e.service, e.operation, e.status) for e in recorder.of(RequestFinished)]
    assert told == [
        ("conductor", "poll", 200),
        ("conductor", "depth", 200),
        ("lakefs", "other", 200),
        ("lakefs", "commits", 404),
        ("lakefs", "other", 404),  # whether it is the repository that is missing
    ]
    assert all(e.seconds > 0 for e in recorder.of(RequestFinished))
