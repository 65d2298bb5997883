"""The names of the hidden branches on which a store's fence is tried, which tell how old they are.

A probe is dropped as soon as it has told its answer. One that could not be is known by its name
alone, to whoever clears up: it belongs to no task that could be asked about.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

_NAME = re.compile(r"perago-fence-(?P<created>0|[1-9]\d{0,11})-(?P<nonce>[0-9a-f]{12})", re.ASCII)


@dataclass(frozen=True)
class ProbeName:
    """What the name of a probe says; it begins as stages' do, so that stores let it be dropped.

    Attributes:
        created_at: Wall clock of the process that made it, whole seconds since the epoch.
        nonce: 12 hex digits drawn anew for every name.
    """

    created_at: int
    nonce: str

    @classmethod
    def new(cls, *, created_at: float) -> ProbeName:
        """Return a name no other branch has, for a probe made at this wall-clock time."""
        return cls(created_at=int(created_at), nonce=os.urandom(6).hex())

    @classmethod
    def parse(cls, name: str) -> ProbeName | None:
        """Read what `str` wrote; None for any other name."""
        match = _NAME.fullmatch(name)
        return cls(int(match["created"]), match["nonce"]) if match else None

    def __str__(self) -> str:
        return f"perago-fence-{self.created_at}-{self.nonce}"
