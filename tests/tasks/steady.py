"""A task whose body writes for as long as it is told to; needs nothing but the worker beside it."""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import BaseModel

from perago_worker import (
    RetryPolicy,
    TaskControls,
    TimeoutPolicy,
    WorkspaceSpec,
    require_file,
    task,
)


class Order(BaseModel):
    """What to write, and for how long."""

    path: str
    seconds: float = 0.0


class Written(BaseModel):
    """What the body did.

    Attributes:
        last_byte_at: When it wrote its last byte; seconds since 1970.
    """

    bytes: int
    last_byte_at: float


@task(
    name="steady.write",
    owner_email="tests@example.com",
    workspace=WorkspaceSpec(prefix="texts", pre=[require_file("in.txt")]),
    controls=TaskControls(
        retry=RetryPolicy(count=3, delay_seconds=0),
        timeout=TimeoutPolicy(response_seconds=30, policy="RETRY"),
    ),
)
def write(workspace: Path, params: Order) -> Written:
    """Write a byte every twentieth of a second."""
    end = time.monotonic() + params.seconds
    size = 0
    with (workspace / params.path).open("wb", buffering=0) as file:
        while True:
            size += file.write(b".")
            last_byte_at = time.time()
            if time.monotonic() >= end:
                return Written(bytes=size, last_byte_at=last_byte_at)
            time.sleep(0.05)
