"""The protocol under a scheduler that does its worst; see `tests.rig.machine`.

PERAGO_RIG_EXAMPLES says how many schedules are played, PERAGO_RIG_SEED which; the same two numbers
play the same ones. Without a seed every run plays others: it takes the one of the tests' order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import seed
from hypothesis.stateful import run_state_machine_as_test

from tests.rig.machine import Places, Protocol, examples

EXAMPLES = int(os.environ.get("PERAGO_RIG_EXAMPLES", "2000"))
SEED = os.environ.get("PERAGO_RIG_SEED", "")
SHARDS = 8
"""Parts of it, for as many processes as there are."""

BATCH = 250
"""Schedules that hypothesis is given at once: it keeps what it made of each of them."""

REPEAT = "python -m pytest"


@pytest.fixture
def places() -> Iterator[None]:
    Places.open()
    yield
    Places.close()


@pytest.fixture
def chosen_seed(request: pytest.FixtureRequest) -> int:
    return int(SEED or request.config.getoption("randomly_seed", 0))


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_schedule_breaks_a_promise(
    places: None, chosen_seed: int, shard: int, request: pytest.FixtureRequest
) -> None:
    """At most once, whole or nothing, nobody's work lost, nothing left: after every single step."""
    left = count = max(1, EXAMPLES // SHARDS)
    try:
        while left > 0:
            of_these = seed(f"{chosen_seed} {shard} {left}")
            run_state_machine_as_test(of_these(Protocol), settings=examples(min(left, BATCH)))
            left -= BATCH
    except BaseException as error:
        error.add_note(
            f"To repeat it: PERAGO_RIG_EXAMPLES={EXAMPLES} PERAGO_RIG_SEED={chosen_seed}"
            f" {REPEAT} '{request.node.nodeid}'"
        )
        raise
    print(f"{count} schedules, {Places.steps} steps, {Places.virtual_s:.0f} s of virtual time")  # noqa: T201
