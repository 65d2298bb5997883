"""Every interleaving of the small model; see `tests.rig.model` for what is abstracted.

`python -m tests.rig.search 2` prints what is found with at most two faults.
"""

from __future__ import annotations

import pytest

from tests.rig.model import Model
from tests.rig.search import search


@pytest.mark.parametrize("adopt", [True, False], ids=["adopt", "replace"])
def test_no_state_with_one_fault_breaks_a_promise(adopt: bool) -> None:
    found = search(Model(adopt=adopt), faults=1)
    assert found.violations == {}
    assert found.states > 3_000


@pytest.mark.long
def test_no_state_with_two_faults_breaks_a_promise() -> None:
    """Two workers, one task with two retries and one rerun: whatever two faults do together."""
    found = search(Model(), faults=2)
    assert found.violations == {}
    assert found.states > 100_000
    assert found.ends > 0
