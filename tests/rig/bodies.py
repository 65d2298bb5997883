"""Bodies whose changes can be recognised afterwards, and the record of what they did."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from perago_worker.definition import TaskDefinition
from perago_worker.errors import TaskFailed, TaskTerminalError
from perago_worker.models import Lease, TaskControls, WorkspaceSpec
from perago_worker.models.policies import RetryPolicy, TimeoutPolicy
from tests.rig.stepping import pause_here

Deed = Literal["write", "delete", "same", "nothing", "rewrite", "fail", "terminal"]

RESPONSE_S = 60
RETRIES = 2


class Orders(BaseModel):
    """What the body is to do, run by run of its logical task; the last holds from then on."""

    deeds: list[Deed]


class Made(BaseModel):
    """Which run of all bodies made it."""

    run: int


@dataclass(frozen=True)
class Run:
    """One run of a body.

    Attributes:
        changes: Key -> content it left; None where it deleted.
    """

    number: int
    lease: Lease
    input_ref: str
    deed: Deed
    changes: Mapping[str, bytes | None]

    @property
    def lineage(self) -> str:
        """The logical task."""
        return str(self.lease.lineage)


class Bodies:
    """The bodies of one world, and what they did."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def run(self, lease: Lease, workspace: Path, orders: Orders, prefix: str) -> Made:
        """Do what is asked of this run, and write it down."""
        pause_here("body")
        number = len(self.runs)
        earlier = sum(run.lineage == str(lease.lineage) for run in self.runs)
        deed = orders.deeds[min(earlier, len(orders.deeds) - 1)]
        changes = _do(deed, number, workspace)
        under = {f"{prefix}/{path}": content for path, content in changes.items()}
        ref = str(lease.input["workspace"]["ref"])
        self.runs.append(Run(number, lease, ref, deed, under))
        if deed == "fail":
            raise TaskFailed("as asked")
        if deed == "terminal":
            raise TaskTerminalError("as asked")
        return Made(run=number)


def _do(deed: Deed, number: int, workspace: Path) -> dict[str, bytes | None]:
    """Change the workspace; every run that writes leaves a file that no other run leaves."""
    own: dict[str, bytes | None] = {f"runs/{number}": b"%d" % number}
    changes: dict[str, bytes | None] = {}
    match deed:
        case "write":
            changes = {**own, "out.txt": b"%d" % number}
        case "delete":
            changes = {"drop.txt": None}
        case "same":
            changes = {"out.txt": b"same"}
        case "fail" | "terminal":
            changes = own
        case "rewrite":
            path = workspace / "in.txt"
            path.write_bytes(path.read_bytes())
    for name, content in changes.items():
        path = workspace / name
        path.parent.mkdir(exist_ok=True)
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content)
    return changes


class Meddling(Enum):
    """What somebody does to a workspace that a worker keeps."""

    REWRITE = "rewrite"
    REMOVE = "remove"
    ADD = "add"
    LINK = "link"
    LOCK = "lock"

    def do(self, workspace: Path) -> None:
        """Do it, to a file that every workspace has unless it was done before."""
        path = workspace / "in.txt"
        match self:
            case Meddling.REWRITE if path.is_file():
                times = path.stat()
                path.write_bytes(path.read_bytes()[::-1])
                os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            case Meddling.REMOVE:
                path.unlink(missing_ok=True)
            case Meddling.ADD:
                (workspace / "stray.txt").write_bytes(b"stray")
            case Meddling.LINK:
                path.unlink(missing_ok=True)
                path.symlink_to("drop.txt")
            case Meddling.LOCK if path.exists():
                path.chmod(0o400)


def never(workspace: Path, params: Orders) -> Made:
    """Stand for the body in definitions; worlds run `Bodies.run` instead."""
    raise AssertionError(workspace, params)


def definition(prefix: str, *, delay_s: int = 0) -> TaskDefinition:
    """Return a task that works on a prefix of its own and retries twice."""
    return TaskDefinition(
        name=f"rig.{prefix}",
        owner_email="rig@example.com",
        fn=never,
        params_model=Orders,
        output_model=Made,
        workspace=WorkspaceSpec(prefix=prefix),
        controls=TaskControls(
            retry=RetryPolicy(count=RETRIES, delay_seconds=delay_s, logic="EXPONENTIAL_BACKOFF"),
            timeout=TimeoutPolicy(response_seconds=RESPONSE_S, policy="RETRY"),
        ),
    )


KIND_OF = {"a": definition("a"), "b": definition("b", delay_s=20)}
KINDS = tuple(KIND_OF.values())
KIND_NAMED = {kind.name: kind for kind in KINDS}
