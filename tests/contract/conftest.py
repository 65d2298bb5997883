"""The queues the contract suite runs over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.contract.queue_harness import QueueHarness

QUEUES = ["local", pytest.param("conductor", marks=pytest.mark.servers)]


def _harness(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> QueueHarness:
    # Imported here, so that the suite over one adapter does not load the other one.
    if kind == "local":
        from tests.contract.queue_harness import LocalHarness

        return LocalHarness(tmp_path / "queue.db")
    from tests.contract.conductor_harness import ConductorHarness

    return ConductorHarness(request.getfixturevalue("conductor_url"))


@pytest.fixture(params=QUEUES)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QueueHarness]:
    """A queue with nothing in it that a test would see: every test defines its own task types."""
    with closing(_harness(request.param, request, tmp_path)) as harness:
        yield harness
