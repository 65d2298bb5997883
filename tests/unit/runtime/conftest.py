"""What most tests of the runtime begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Rig, rig
from tests.unit.runtime.held import Gate, gate


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Rig]:
    """The local pair."""
    with rig(tmp_path) as opened:
        yield opened


@pytest.fixture
def held() -> Iterator[Gate]:
    """The gate at which bodies wait."""
    with gate() as made:
        yield made
