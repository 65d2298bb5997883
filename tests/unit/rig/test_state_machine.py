"""The protocol under a scheduler that does its worst; see `tests.rig.machine`.

How long it searches is set by PERAGO_RIG_EXAMPLES, and by PERAGO_RIG_SEED where:
`PERAGO_RIG_EXAMPLES=50000 PERAGO_RIG_SEED=1 pytest tests/unit/rig/test_state_machine.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.rig.machine import Places, Protocol

EXAMPLES = int(os.environ.get("PERAGO_RIG_EXAMPLES", "300"))
SEED = int(os.environ.get("PERAGO_RIG_SEED", "0"))
STEPS = 30


@pytest.fixture
def places() -> Iterator[None]:
    Places.open()
    yield
    Places.close()


@pytest.mark.timeout(0)
def test_no_schedule_breaks_a_promise(places: None) -> None:
    """At most once, whole or nothing, nobody's work lost, nothing left: after every single step."""
    run_state_machine_as_test(
        seed(SEED)(Protocol),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
