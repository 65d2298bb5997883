"""The protocol under a scheduler that does its worst; see `tests.rig.machine`.

PERAGO_RIG_EXAMPLES says how many schedules are played, PERAGO_RIG_SEED which; the same numbers play
the same ones. Long runs need `-o faulthandler_timeout=0`: a dump of all stacks after so many
seconds is no sign of trouble here, and can itself end a process whose threads run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.rig.machine import Places, Protocol

EXAMPLES = int(os.environ.get("PERAGO_RIG_EXAMPLES", "250"))
SEED = int(os.environ.get("PERAGO_RIG_SEED", "0"))
STEPS = 30
REPEAT = "python -m pytest -o faulthandler_timeout=0 tests/unit/rig/test_state_machine.py"


@pytest.fixture
def places() -> Iterator[None]:
    Places.open()
    yield
    Places.close()


@pytest.mark.timeout(0)
def test_no_schedule_breaks_a_promise(places: None) -> None:
    """At most once, whole or nothing, nobody's work lost, nothing left: after every single step."""
    try:
        run_state_machine_as_test(
            seed(SEED)(Protocol),
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except BaseException as error:
        error.add_note(
            f"To repeat it: PERAGO_RIG_EXAMPLES={EXAMPLES} PERAGO_RIG_SEED={SEED} {REPEAT}"
        )
        raise
