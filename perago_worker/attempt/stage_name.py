"""The names of stages, which tell whose they are.

An attempt drops its stage in the end. One that is killed cannot, and what it leaves is known by its
name alone: the name says how old the stage is and which task to ask about.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from perago_worker.models import Lease

_HASHED = "hashed_"
_SPELLED_OUT = re.compile(rf"(?!{_HASHED})[\w-]{{1,48}}", re.ASCII)
"""Task ids that a name holds as they are: UUIDs, and whatever else can be part of a name and leaves
it below the 128 characters this project allows it."""

_NAME = re.compile(
    r"perago-(?P<work>[0-9a-f]{20})-r(?P<retry>0|[1-9]\d{0,8})-(?P<created>0|[1-9]\d{0,11})"
    r"-(?P<task>[\w-]{1,48})-(?P<nonce>[0-9a-f]{8})",
    re.ASCII,
)


@dataclass(frozen=True)
class StageName:
    """What the name of a stage says; `str` renders it in letters, digits, `-` and `_`.

    Attributes:
        work: Digest of the logical task and its input, 20 hex digits: attempts at the same work
            share it.
        retry_count: Of the task that made the stage.
        created_at: Wall clock of the worker that made it, whole seconds since the epoch.
        task: The id of the task that made it, or a hash of an id that cannot be part of a name.
        nonce: 8 hex digits drawn anew for every name.
    """

    work: str
    retry_count: int
    created_at: int
    task: str
    nonce: str

    @classmethod
    def new(cls, lease: Lease, input_ref: str, *, created_at: float) -> StageName:
        """Return a name no other stage has.

        Args:
            lease: The delivery whose attempt makes the stage.
            input_ref: The commit it works on.
            created_at: Wall clock, seconds since the epoch.
        """
        work = f"{lease.lineage} {input_ref}"
        return cls(
            work=hashlib.sha256(work.encode(errors="surrogatepass")).hexdigest()[:20],
            retry_count=lease.retry_count,
            created_at=int(created_at),
            task=_as_part(lease.task_id),
            nonce=os.urandom(4).hex(),
        )

    @classmethod
    def parse(cls, name: str) -> StageName | None:
        """Read what `str` wrote; None for any other name."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        return cls(
            work=match["work"],
            retry_count=int(match["retry"]),
            created_at=int(match["created"]),
            task=match["task"],
            nonce=match["nonce"],
        )

    @property
    def task_id(self) -> str | None:
        """The task that made the stage; None when its id could not be part of the name."""
        return None if self.task.startswith(_HASHED) else self.task

    def __str__(self) -> str:
        return f"perago-{self.work}-r{self.retry_count}-{self.created_at}-{self.task}-{self.nonce}"


def _as_part(task_id: str) -> str:
    if _SPELLED_OUT.fullmatch(task_id):
        return task_id
    digest = hashlib.sha256(task_id.encode(errors="surrogatepass")).hexdigest()
    return f"{_HASHED}{digest[:32]}"
