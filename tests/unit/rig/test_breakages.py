"""The checks bite: whoever takes a precaution away is told so, by the check named beside it.

Every check passes on the product as it is; with one precaution taken away it must not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FunctionType

import pytest
from hypothesis import Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.rig import breakages, scenarios
from tests.rig.machine import Places, Protocol, examples
from tests.rig.model import Model
from tests.rig.search import search

EXAMPLES = 30
"""Enough for the state machine to find what it is here to find, at this seed."""


@pytest.fixture(scope="module", autouse=True)
def places() -> Iterator[None]:
    Places.open()
    yield
    Places.close()


def exhaustive_search() -> None:
    """Visit every state that one fault leads to."""
    found = search(Model(), faults=1, stop_at_first=True)
    assert not found.violations, found.violations


def state_machine() -> None:
    """Play some schedules; the search for the simplest one that fails is left out."""
    run_state_machine_as_test(
        seed(1)(Protocol), settings=settings(examples(EXAMPLES), phases=[Phase.generate])
    )


Check = Callable[[], None]

CAUGHT_BY: list[tuple[Callable[[pytest.MonkeyPatch], None], Check]] = [
    (breakages.no_poll_count, scenarios.delivered_twice_to_one_name),
    (breakages.no_start_time, scenarios.rerun_by_the_same_name),
    (breakages.no_worker_id, scenarios.rerun_within_a_millisecond),
    (breakages.no_confirmation, scenarios.lease_lost_before_the_merge),
    (breakages.no_confirmation, state_machine),
    (breakages.loss_ignored, scenarios.workflow_ended_under_the_body),
    (breakages.heartbeats_beside_the_report, scenarios.heartbeat_beside_the_report),
    (breakages.always_on_the_head, exhaustive_search),
    (breakages.always_on_the_head, state_machine),
    (breakages.no_order_of_deliveries, exhaustive_search),
    (breakages.any_workflow_replaced, scenarios.rerun_below_another_workflow),
    (breakages.any_parameters_adopted, scenarios.other_parameters_on_the_retry),
    (breakages.reruns_adopted, scenarios.rerun_of_a_completed_task),
    (breakages.no_verification, scenarios.commit_slipped_into_the_merge),
    (breakages.unknown_is_failure, scenarios.merge_landed_without_an_answer),
    (breakages.unknown_is_success, scenarios.merge_that_never_arrived),
    (breakages.no_op_without_looking, scenarios.rerun_that_changes_nothing),
    (breakages.branch_reset, scenarios.merge_that_arrives_late),
    (breakages.one_stage_name, scenarios.death_before_the_merge),
    (breakages.stages_kept, scenarios.nothing_left_of_a_good_attempt),
    (breakages.any_key, scenarios.key_that_leads_out),
    (breakages.no_checksums, scenarios.object_stored_damaged),
]

SEARCHES = [state_machine, exhaustive_search]
CHECKS = list(dict.fromkeys([*scenarios.ALL, *SEARCHES]))


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, marks=[pytest.mark.long] if check in SEARCHES else [])
        for check in CHECKS
    ],
    ids=lambda check: check.__name__,
)
def test_product_as_it_is_passes(check: Check) -> None:
    check()


@pytest.mark.parametrize(
    ("breakage", "check"),
    [
        pytest.param(breakage, check, id=f"{breakage.__name__}-{check.__name__}")
        for breakage, check in CAUGHT_BY
    ],
)
def test_breakage_is_caught(
    breakage: Callable[[pytest.MonkeyPatch], None], check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    breakage(monkeypatch)
    with pytest.raises(AssertionError):
        check()


def test_every_breakage_has_its_check() -> None:
    """A breakage that is written down and caught by nothing would be no proof of anything."""
    written = {
        name
        for name, value in vars(breakages).items()
        if isinstance(value, FunctionType)
        and value.__module__ == breakages.__name__
        and not name.startswith("_")
    }
    assert written == {breakage.__name__ for breakage, _ in CAUGHT_BY}
