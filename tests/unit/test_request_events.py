"""Requests are told of by what they ask for, without a value that was in them."""

from __future__ import annotations

import re

import pytest

from perago_worker.adapters.conductor.client import ConductorSettings
from perago_worker.adapters.conductor.queue import ConductorQueue
from perago_worker.adapters.conductor.transport import OPERATIONS as CONDUCTOR
from perago_worker.adapters.lakefs.measured import operation
from perago_worker.adapters.lakefs.settings import LakeFSSettings
from perago_worker.adapters.lakefs.store import LakeFSStore
from perago_worker.adapters.system import SystemClock
from perago_worker.errors import QueueUnavailable, StoreError
from perago_worker.events import RequestFinished
from perago_worker.telemetry.request_metrics import OPERATIONS
from tests.support import Recorder

BASE = "/repositories/shop"
CLOSED = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("request_line", "word"),
    [
        (f"GET {BASE}/refs/c1/objects?path=a", "read"),
        (f"GET {BASE}/refs/c1/objects/ls?prefix=a", "list"),
        (f"GET {BASE}/refs/c1/diff/c2", "diff"),
        (f"GET {BASE}/refs/main/commits?limit=1", "commits"),
        (f"GET {BASE}/commits/c1", "commits"),
        (f"POST {BASE}/refs/c1/merge/main", "merge"),
        (f"POST {BASE}/branches/b/objects?path=a", "write"),
        (f"POST {BASE}/branches/b/objects/delete", "delete"),
        (f"PUT {BASE}/branches/b/staging/backing?path=a", "address"),
        (f"POST {BASE}/branches/b/commits", "commit"),
        (f"POST {BASE}/branches", "branches"),
        (f"DELETE {BASE}/branches/b", "branches"),
        ("GET /user", "other"),
        (f"GET {BASE}", "other"),
    ],
)
def test_requests_to_lakefs_have_a_word(request_line: str, word: str) -> None:
    method, path = request_line.split()

    assert operation(method, path) == word
    assert word in OPERATIONS["lakefs"]


def test_words_for_requests_are_those_that_are_counted() -> None:
    assert {*CONDUCTOR.values(), "other"} == set(OPERATIONS["conductor"])


def test_a_request_that_is_not_answered_is_told_of_without_its_values() -> None:
    recorder = Recorder()
    queue = ConductorQueue.open(
        ConductorSettings(CLOSED), clock=SystemClock(), worker_id="w", listener=recorder
    )
    store = LakeFSStore.open(
        LakeFSSettings(
            endpoint=CLOSED,
            access_key_id="id",
            secret_access_key="very-private",  # noqa: S106 -- made up
            presign=False,
        ),
        listener=recorder,
    )
    with pytest.raises(QueueUnavailable):
        queue.poll("very.private", count=1, wait_s=0)
    with pytest.raises(StoreError):
        store.head("very-private", "main")
    queue.close()
    store.close()

    polled, read = recorder.of(RequestFinished)
    assert (polled.service, polled.operation, polled.status) == ("conductor", "poll", 0)
    assert (read.service, read.operation, read.status) == ("lakefs", "commits", 0)
    assert not re.search("private", f"{polled}{read}")
