"""What the matrices have brought to light, each in a test of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from perago_worker.attempt.fence import short
from perago_worker.errors import QueueRefused, StoreRefused, StoreUnavailable
from perago_worker.models import Lease, ObjectInfo
from perago_worker.models.outcome import MAX_REASON_CHARS
from tests.rig.evidence import local_tasks
from tests.rig.scenes import SCENES, Bench
from tests.rig.taps import Call
from tests.support import contents


def lease_of(bench: Bench) -> Lease:
    lease = bench.poll_one("worker")
    assert lease is not None
    return lease


@pytest.mark.parametrize("said", ["no", "no, " * MAX_REASON_CHARS])
def test_last_attempt_names_what_an_earlier_one_has_left_on_the_branch(
    tmp_path: Path, said: str
) -> None:
    """It could not replace it: whoever reads why the task failed learns what the branch shows."""

    def refusing(call: Call) -> Any:
        if call.name == "store.stage":
            raise StoreRefused(said)
        return call.perform()

    with closing(SCENES["replace"].open(tmp_path / "bench")) as bench:
        left = bench.head()
        assert bench.carry_out(lease_of(bench), refusing) == "terminal"
        reason = local_tasks(bench.local_queue)[-1].reason
    assert reason.startswith("store_refused: no")
    assert short(left.id) in reason
    assert len(reason) <= MAX_REASON_CHARS


def test_refused_report_names_what_was_published(tmp_path: Path) -> None:
    """The task fails though its result is on the branch; the reason says where."""
    refusals = iter([QueueRefused("too large")])

    def refusing(call: Call) -> Any:
        if call.name == "queue.complete" and (refusal := next(refusals, None)):
            raise refusal
        return call.perform()

    with closing(SCENES["first"].open(tmp_path / "bench")) as bench:
        assert bench.carry_out(lease_of(bench), refusing) == "terminal"
        (task,) = local_tasks(bench.local_queue)
        assert task.status == "FAILED_WITH_TERMINAL_ERROR"
        assert short(bench.head().id) in task.reason


def test_listing_that_breaks_half_way_goes_on_where_it_was(tmp_path: Path) -> None:
    """No attempt is lost to it, and no object is brought twice or left out."""
    listed: list[str] = []

    def breaking(call: Call) -> Any:
        return broken(call.perform()) if call.name == "store.list" else call.perform()

    def broken(entries: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        listed.append("")
        for number, entry in enumerate(entries, start=1):
            yield entry
            if number == len(listed) and number < 3:
                raise StoreUnavailable("the connection broke")

    with closing(SCENES["deletion"].open(tmp_path / "bench")) as bench:
        assert bench.carry_out(lease_of(bench), breaking, calls=True) == "completed"
        assert len(listed) == 3
        kept = set(contents(bench.local_store, bench.head().id, "data/"))
    assert kept == {"data/in.txt", "data/same.txt"}
