"""The oracle finds each kind of broken promise, in histories made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from perago_worker.models import Publication
from perago_worker.models.lease import Token
from tests.rig.history import Answered, Entry, Finished, Foreign, Journal, Made, Passed, Started
from tests.rig.oracle import Commit, Evidence, Task, judge

LINEAGE = "wf/task/0"
BASE = {"data/in.txt": "in", "other/kept.txt": "kept"}
RUNS = {
    "r1": Made("t1", "r1", {"data/out.txt": "out-r1"}),
    "r2": Made("t2", "r2", {"data/out.txt": "out-r2"}),
    "deletes": Made("t1", "deletes", {}, ("data/in.txt",)),
    "nothing": Made("t1", "nothing"),
    "down": Made("t3", "down", {"data/down.txt": "down"}),
}


def token(delivery: int) -> Token:
    return Token(start_time_ms=1000 * delivery, retry_count=delivery - 1, poll_count=1)


def publication(
    delivery: int = 1, *, uuid: str = "", lineage: str = LINEAGE, input_ref: str = "input"
) -> Publication:
    return Publication(
        uuid=uuid or f"u{delivery}",
        workflow_id=lineage.partition("/")[0],
        task_id=f"t{delivery}",
        lineage=lineage,
        token=token(delivery),
        input_ref=input_ref,
        params_digest="",
    )


def after(run: str, base: Mapping[str, str] = BASE) -> dict[str, str]:
    """Return what a run makes of a commit's files."""
    made = RUNS[run]
    kept = {key: value for key, value in base.items() if key not in made.deleted}
    return {**kept, **made.written}


def published(name: str, parent: str, run: str, delivery: int = 1, **fields: str) -> Commit:
    """Return the publication of a run, made from the first commit."""
    return Commit(name, parent, after(run), publication(delivery, **fields))


INPUT = Commit("input", None, BASE)
FOREIGN = Commit("foreign", "input", {**BASE, "x": "theirs"})
FIRST = published("m1", "input", "r1")
SECOND = published("m2", "m1", "r2", 2)
COMPLETED = Task("t1", LINEAGE, "COMPLETED", "input", output_ref="m1", run="r1")
COMPLETED_BY_RETRY = replace(COMPLETED, task_id="t2", output_ref="m2", run="r2")
GIVEN_UP = Task("t2", LINEAGE, "FAILED", "input")


def attempt(delivery: int, *, reason: str = "", code: str = "task_failed") -> list[Entry]:
    """Return what is written of an attempt that looked at the branch and failed."""
    task_id, printed = f"t{delivery}", str(token(delivery))
    return [
        Started(task_id, LINEAGE, printed),
        Passed(LINEAGE, "precheck"),
        Finished(task_id, LINEAGE, printed, kind="failed", code=code, reason=reason),
    ]


def found(
    *branch: Commit,
    tasks: Sequence[Task] = (),
    history: Sequence[Entry] = (),
    left: Sequence[str] = (),
) -> list[str]:
    """Judge a branch, given oldest first."""
    return judge(Evidence(branch[::-1], tasks, (*RUNS.values(), *history), left))


@pytest.mark.parametrize(
    ("branch", "tasks"),
    [
        ([INPUT], []),
        ([INPUT, FIRST], [COMPLETED]),
        ([INPUT, FIRST, FOREIGN], [COMPLETED]),
        ([INPUT, FIRST, SECOND], [replace(COMPLETED, status="TIMED_OUT"), COMPLETED_BY_RETRY]),
        ([INPUT, FIRST], [GIVEN_UP]),
        ([INPUT], [replace(COMPLETED, output_ref="input", run="nothing")]),
        ([INPUT, published("m1", "input", "deletes")], [replace(COMPLETED, run="deletes")]),
        ([INPUT, FIRST, published("m2", "m1", "nothing", 2)], [GIVEN_UP]),
    ],
    ids=["nothing", "one", "foreign on top", "replaced", "unseen", "no-op", "deletion", "undone"],
)
def test_kept_promises_are_no_violations(branch: list[Commit], tasks: list[Task]) -> None:
    assert found(*branch, tasks=tasks) == []


def test_replacing_what_was_built_on_top_of_a_leftover_is_no_violation() -> None:
    """A rerun covers its own first publication together with what followed in the workflow."""
    down = Commit(
        "d1",
        "m1",
        after("down", FIRST.files),
        publication(1, uuid="d", lineage="wf/down/0", input_ref="m1"),
    )
    rerun = published("m2", "d1", "r2", 2)
    again = Commit(
        "d2",
        "m2",
        after("down", rerun.files),
        publication(2, uuid="e", lineage="wf/down/0", input_ref="m2"),
    )
    assert found(INPUT, FIRST, down, rerun, again, tasks=[COMPLETED_BY_RETRY]) == []


@pytest.mark.parametrize("status", ["SCHEDULED", "IN_PROGRESS"])
def test_task_that_has_not_ended(status: str) -> None:
    assert found(INPUT, tasks=[replace(COMPLETED, status=status)]) == [f"task t1 is still {status}"]


def test_lost_foreign_commit() -> None:
    assert found(INPUT, history=[Foreign("foreign")]) == ["somebody's commit foreign is lost"]


def test_lost_publication() -> None:
    (violation,) = found(INPUT, history=[Answered("u1", "m1")])
    assert violation == "publication u1 was answered with m1, which is lost"


def test_publication_that_was_merged_twice() -> None:
    twice = published("m2", "m1", "r1", 2, uuid="u1")
    assert found(INPUT, FIRST, twice) == ["publication u1 is on the branch twice"]


def test_two_visible_publications_of_one_task() -> None:
    """The second was made on top of the first, and keeps it."""
    second = Commit("m2", "m1", after("down", FIRST.files), publication(2, input_ref="m1"))
    assert found(INPUT, FIRST, second) == [f"task {LINEAGE} has published twice: m2 keeps m1"]


def test_delivery_that_published_after_its_successor() -> None:
    late = published("m1", "m2", "r1", 1)
    successor = published("m2", "input", "r2", 2)
    (violation,) = found(INPUT, successor, late)
    assert (
        violation == f"delivery {token(1)} of task {LINEAGE} published m1 after delivery {token(2)}"
    )


def test_same_delivery_that_published_two_things() -> None:
    again = published("m2", "m1", "r2", 1, uuid="another")
    (violation,) = found(INPUT, FIRST, again)
    assert (
        violation == f"delivery {token(1)} of task {LINEAGE} published m2 after delivery {token(1)}"
    )


@pytest.mark.parametrize(
    ("files", "difference"),
    [
        (BASE, "no change"),
        ({**after("r1"), "data/out.txt": "half"}, "data/out.txt"),
        ({**after("r1"), "other/kept.txt": "changed"}, "data/out.txt, other/kept.txt"),
        ({"data/out.txt": "out-r1", "data/in.txt": "in"}, "data/out.txt, other/kept.txt"),
        ({**after("r1"), "data/down.txt": "down"}, "data/down.txt, data/out.txt"),
    ],
    ids=["nothing", "half", "outside", "dropped", "mixed"],
)
def test_publication_that_no_run_made(files: dict[str, str], difference: str) -> None:
    """It holds a part, something outside of the prefix, or what two runs made."""
    runs = [run for name, run in RUNS.items() if name != "nothing"]
    commit = Commit("m1", "input", files, publication())
    (violation,) = judge(Evidence([commit, INPUT], [], runs))
    assert violation == f"m1 holds what no run made: {difference}"


def test_publication_from_a_commit_that_is_not_on_the_branch() -> None:
    stray = Commit("m1", "input", after("r1"), publication(input_ref="elsewhere"))
    assert "m1 was published from elsewhere, not here" in found(INPUT, stray)


def test_publication_over_somebody_elses_commit() -> None:
    """Its tree is its own, so that what they made does not show any more."""
    over = published("m1", "foreign", "r1")
    violations = found(INPUT, FOREIGN, over, history=[Foreign("foreign")])
    assert violations == ["m1 was published over somebody's foreign"]


def test_publication_over_another_workflow() -> None:
    other = published("o1", "input", "down", lineage="other/task/0", uuid="o")
    assert found(INPUT, other, published("m1", "o1", "r1")) == [
        "m1 was published over somebody's o1"
    ]


def test_lost_race_that_the_worker_has_reported_is_no_violation() -> None:
    """Where the store cannot compare and swap, both commits stay and the attempt says so."""
    merged = Commit("m1", "foreign", {**after("r1"), "x": "theirs"}, publication())
    history = [Foreign("foreign"), *attempt(1, code="lost_race", reason="m1 has foreign below")]
    assert found(INPUT, FOREIGN, merged, history=history) == []
    assert len(found(INPUT, FOREIGN, merged, history=history[:1])) == 2


def test_completed_task_whose_output_is_not_on_the_branch() -> None:
    (violation,) = found(INPUT, tasks=[COMPLETED])
    assert violation == "task t1 completed with m1, which is not on the branch"


def test_completed_task_without_an_output() -> None:
    (violation,) = found(INPUT, tasks=[replace(COMPLETED, output_ref=None)])
    assert violation == "task t1 completed with None, which is not on the branch"


def test_completed_task_with_the_result_of_no_run() -> None:
    (violation,) = found(INPUT, FIRST, tasks=[replace(COMPLETED, run="r9")])
    assert violation == "task t1 completed with the result of no run (r9)"


def test_completed_task_with_the_result_of_another_run() -> None:
    (violation,) = found(INPUT, FIRST, tasks=[replace(COMPLETED, run="r2")])
    assert violation == "task t1 completed with m1, which is not what run r2 made: data/out.txt"


def test_completed_task_whose_output_was_replaced_unseen() -> None:
    """The workflow goes on with one commit while the branch shows another."""
    violations = found(INPUT, FIRST, SECOND, tasks=[COMPLETED])
    assert violations == [f"task {LINEAGE} completed, but the branch shows its m2"]


def test_leftover_that_the_next_attempt_did_not_name() -> None:
    violations = found(INPUT, FIRST, tasks=[GIVEN_UP], history=[*attempt(1), *attempt(2)])
    (violation,) = violations
    assert violation.startswith(f"task {LINEAGE} did not complete, and its m1 stays")


@pytest.mark.parametrize("name", ["m1", "foreign", str(token(1))])
def test_leftover_that_was_named(name: str) -> None:
    """By its commit, by what is on top of it, or by the delivery that made it."""
    history = [*attempt(1), *attempt(2, reason=f"{name} is in the way")]
    on_top = Commit("foreign", "m1", {**FIRST.files, "x": "theirs"})
    assert found(INPUT, FIRST, on_top, tasks=[GIVEN_UP], history=history) == []


def test_leftover_of_a_cancelled_task_is_no_violation() -> None:
    cancelled = replace(GIVEN_UP, status="CANCELED")
    assert found(INPUT, FIRST, tasks=[cancelled], history=[*attempt(1), *attempt(2)]) == []


def test_what_is_left_behind() -> None:
    assert found(INPUT, left=["stage perago-x"]) == ["left behind: stage perago-x"]


def test_journal_gives_back_what_was_noted(tmp_path: Path) -> None:
    """Also what several writers noted, in their order."""
    journal = Journal(tmp_path / "journal")
    entries = [*RUNS.values(), Foreign("foreign"), *attempt(1), Answered("u1", "m1")]
    for entry in entries:
        Journal(journal.path).note(entry)
    assert journal.read() == tuple(entries)
