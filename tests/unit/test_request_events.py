"""Requests are told of by what they ask for, without a value that was in them."""

from __future__ import annotations

import io
import re
from contextlib import closing

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
from tests.unit.scripted_server import answer, serving

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
    with pytest.raises(StoreError):
        store.read("very-private", "0" * 64, "private", io.BytesIO())
    queue.close()
    store.close()

    told = recorder.of(RequestFinished)
    assert [(each.service, each.operation, each.status) for each in told] == [
        ("conductor", "poll", 0),
        ("lakefs", "commits", 0),
        ("lakefs", "read", 0),
    ]
    assert not re.search("private", str(told))


def test_objects_that_are_read_or_refused_are_told_of() -> None:
    recorder = Recorder()
    with serving() as start:
        server = start(answer(200, b"hello", Date="today"), answer(404, {"message": "none"}))
        settings = LakeFSSettings(endpoint=server.endpoint, presign=False)
        with closing(LakeFSStore.open(settings, listener=recorder)) as store:
            store.read("shop", "0" * 64, "a", io.BytesIO())
            with pytest.raises(StoreError):
                store.read("shop", "0" * 64, "a", io.BytesIO())
    told = [(e.operation, e.method, e.status, e.date) for e in recorder.of(RequestFinished)]
    # What follows asks whether it was the object that is not there.
    assert told[:2] == [("read", "GET", 200, "today"), ("read", "GET", 404, "")]
