"""A lease for tests that look at what is told of an attempt; no queue has given it out."""

from __future__ import annotations

from typing import Any

from perago_worker.models import Lease


def make_lease(**fields: Any) -> Lease:
    """Return a lease; `fields` replaces what a test looks at."""
    usual: dict[str, Any] = {
        "task_type": "features.build",
        "workflow_id": "w-1",
        "task_id": "t-1",
        "reference_name": "build",
        "retry_count": 1,
        "poll_count": 2,
        "worker_id": "host:1:a",
        "start_time_ms": 1,
        "scheduled_time_ms": 1,
        "response_timeout_s": 60,
        "input": {"params": {}},
        "granted_at": 0.0,
    }
    return Lease(**{**usual, **fields})
