"""The decision whether an attempt may publish, as a full table and as properties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perago_worker.attempt.fence import (
    AlreadyPublished,
    Decision,
    PublishOn,
    Refuse,
    Replace,
    adoptable,
    decide,
    describe,
)
from perago_worker.models import CommitInfo, Publication, Token
from perago_worker.ports import TaskEnd

INPUT = "input0000000"


def publication(
    uuid: str = "ours",
    *,
    workflow: str = "wf",
    task: str = "build",
    token: int = 5,
    input_ref: str = INPUT,
) -> Publication:
    return Publication(
        uuid=uuid,
        workflow_id=workflow,
        task_id=f"{task}-{token}",
        lineage=f"{workflow}/{task}/0",
        token=Token(start_time_ms=token, retry_count=0, poll_count=1),
        input_ref=input_ref,
        params_digest="digest",
    )


OURS = publication()
OLDER = publication("older", token=4)
OLDEST = publication("oldest", token=1)
EQUAL = publication("equal", token=5)
NEWER = publication("newer", token=6)
DOWNSTREAM = publication("downstream", task="report", token=9)
PARALLEL = publication("parallel", task="parallel", token=1)
OTHER_WORKFLOW = publication("other", workflow="wf2", token=1)
OLDER_OF_ANOTHER_INPUT = publication("moved", token=4, input_ref="another00000")
PERSON: dict[str, str] = {}
TOOL = {"key": "value", "expected_head": "x"}
MALFORMED = {**OLDER.metadata(expected_head=INPUT), "perago-token": "soon"}
INCOMPLETE = {
    key: value
    for key, value in OLDER.metadata(expected_head=INPUT).items()
    if key != "perago-lineage"
}

Made = Publication | Mapping[str, str]


def chain(*above: Made, base: Sequence[str] = (INPUT, "root00000000")) -> list[CommitInfo]:
    """Return a first-parent history, newest first: what is above the input, and what is below."""
    metadata = [
        made.metadata(expected_head="x") if isinstance(made, Publication) else made
        for made in above
    ]
    named = [(f"above{position:07}", found) for position, found in enumerate(metadata)]
    commits = [*named, *((commit, {}) for commit in base)]
    ids = [commit for commit, _ in commits]
    return [
        CommitInfo(
            id=commit,
            parents=tuple(ids[position + 1 : position + 2]),
            metadata=found,
            tree=f"tree of {commit}",
            message="subject\n\nbody",
        )
        for position, (commit, found) in enumerate(commits)
    ]


@pytest.mark.parametrize(
    ("above", "expected"),
    [
        pytest.param([], PublishOn, id="the branch is at the input"),
        pytest.param([OURS], AlreadyPublished, id="our answer was lost"),
        pytest.param([OLDER, OURS], AlreadyPublished, id="ours, and something above it"),
        pytest.param([PERSON, OURS], AlreadyPublished, id="ours, and somebody's commit above it"),
        pytest.param([OURS, PERSON], AlreadyPublished, id="ours, over a commit that slipped in"),
        pytest.param([OLDER], Replace, id="an older delivery published"),
        pytest.param([OLDER, OLDEST], Replace, id="two older deliveries published"),
        pytest.param([DOWNSTREAM, OLDER], Replace, id="and a later task of the workflow"),
        pytest.param([OLDER, DOWNSTREAM, OLDEST], Replace, id="and that was replaced before"),
        pytest.param([PARALLEL, OLDER], Replace, id="a parallel task published above"),
        pytest.param([PERSON], Refuse, id="somebody's commit"),
        pytest.param([TOOL], Refuse, id="somebody's commit with metadata"),
        pytest.param([PERSON, OLDER], Refuse, id="somebody's commit above our older one"),
        pytest.param([OLDER, PERSON], Refuse, id="somebody's commit below our older one"),
        pytest.param([OLDER, PERSON, OLDEST], Refuse, id="somebody's commit between our older"),
        pytest.param([PARALLEL], Refuse, id="a parallel task of the workflow"),
        pytest.param([OLDER, PARALLEL], Refuse, id="a parallel task below our older one"),
        pytest.param([EQUAL], Refuse, id="the same delivery published, as another publication"),
        pytest.param([NEWER], Refuse, id="a newer delivery published"),
        pytest.param([OLDER, NEWER], Refuse, id="a newer delivery published in between"),
        pytest.param([NEWER, DOWNSTREAM, OLDER], Refuse, id="a newer delivery on top"),
        pytest.param([OTHER_WORKFLOW], Refuse, id="another workflow"),
        pytest.param([OTHER_WORKFLOW, OLDER], Refuse, id="another workflow above our older one"),
        pytest.param([OLDER, OTHER_WORKFLOW], Refuse, id="another workflow below our older one"),
        pytest.param([OLDER_OF_ANOTHER_INPUT], Refuse, id="an older delivery with another input"),
        pytest.param([MALFORMED], Refuse, id="a token nobody can read"),
        pytest.param([INCOMPLETE], Refuse, id="a publication with a part missing"),
        pytest.param([OLDER, MALFORMED], Refuse, id="the same below our older one"),
    ],
)
def test_what_the_branch_holds_above_the_input_decides(
    above: list[Made], expected: type[Decision]
) -> None:
    decision = decide(chain(*above), OURS)

    assert isinstance(decision, expected)
    match decision:
        case PublishOn(head) | Replace(head, _):
            assert head == chain(*above)[0]
        case AlreadyPublished(commit):
            found = Publication.from_metadata(commit.metadata)
            assert found is not None
            assert found.uuid == OURS.uuid
        case Refuse(_, reason):
            assert reason


def test_an_empty_branch_is_refused() -> None:
    assert decide([], OURS) == Refuse(None, "the branch has no commits")


@pytest.mark.parametrize("above", [[], [PERSON], [OLDER], [OTHER_WORKFLOW]])
def test_a_history_that_does_not_lead_to_the_input_is_refused(above: list[Made]) -> None:
    """The branch was reset, or so much was published that the chain is cut."""
    history = chain(*above, base=["elsewhere000", "root00000000"])

    assert decide(history, OURS) == Refuse(
        history[0], f"its history does not lead to the input {INPUT}"
    )


def test_our_publication_is_found_even_where_the_input_is_not() -> None:
    """An answer was lost, and then the branch grew until the input was out of sight."""
    history = chain(PERSON, OURS, base=["elsewhere000"])

    assert decide(history, OURS) == AlreadyPublished(history[1])


def test_our_publication_below_the_input_is_somebody_elses_history() -> None:
    """Where the input is in sight, only what was made on top of it counts."""
    history = chain(base=[INPUT, "root00000000"])
    ours_below = history[1].model_copy(update={"metadata": OURS.metadata(expected_head="x")})

    assert decide([history[0], ours_below], OURS) == PublishOn(history[0])


def test_an_input_that_is_our_own_publication_is_published_upon() -> None:
    """A loop gives a task its own output back: the commit it starts from is no obstacle."""
    (head, *below) = chain()
    published = head.model_copy(update={"metadata": OLDER.metadata(expected_head="x")})

    assert decide([published, *below], OURS) == PublishOn(published)


@pytest.mark.parametrize("iteration", [0, 1])
def test_another_round_of_a_loop_is_another_task(iteration: int) -> None:
    older = OLDER.model_copy(update={"lineage": f"wf/build/{iteration}"})

    decision = decide(chain(older), OURS)

    assert isinstance(decision, Replace if iteration == 0 else Refuse)


def test_the_replaced_publication_is_the_first_one_above_the_input() -> None:
    decision = decide(chain(DOWNSTREAM, OLDER, OLDEST), OURS)

    assert isinstance(decision, Replace)
    assert decision.publications[-1] == OLDEST


RECORDED = OLDER.model_copy(update={"result": "{}"})
"""Of another task id than ours: an earlier try of the same logical task."""

REDELIVERED = RECORDED.model_copy(
    update={"task_id": OURS.task_id, "token": OURS.token.model_copy(update={"poll_count": 0})}
)
"""Of our task id and start: an earlier delivery of this very try."""

RERUN = REDELIVERED.model_copy(update={"token": OLDER.token})
"""Of our task id, which was started again since."""


@pytest.mark.parametrize(
    ("found", "end", "expected"),
    [
        pytest.param([RECORDED], "failed", True, id="a try that ended unheard"),
        pytest.param([RECORDED], "running", False, id="one that may still report"),
        pytest.param([RECORDED], "completed", False, id="one that did report: this is a rerun"),
        pytest.param([RECORDED], "gone", False, id="one that nobody knows of any more"),
        pytest.param([REDELIVERED], "running", True, id="an earlier delivery of this try"),
        pytest.param([RERUN], "failed", False, id="this task before it was run again"),
        pytest.param([OLDER], "failed", False, id="no result was recorded"),
        pytest.param([RECORDED, RECORDED], "failed", False, id="it was published upon"),
        pytest.param(
            [RECORDED.model_copy(update={"params_digest": "other"})],
            "failed",
            False,
            id="other parameters",
        ),
    ],
)
def test_an_abandoned_result_is_adopted_only_when_it_is_what_would_be_made_again(
    found: list[Publication], end: TaskEnd, *, expected: bool
) -> None:
    decision = Replace(chain(*found)[0], tuple(found))

    assert adoptable(decision, OURS, lambda task_id: end) is expected


def test_the_queue_is_asked_about_the_task_that_published() -> None:
    asked: list[str] = []

    def end_of(task_id: str) -> TaskEnd:
        asked.append(task_id)
        return "failed"

    adoptable(Replace(chain(RECORDED)[0], (RECORDED,)), OURS, end_of)

    assert asked == [RECORDED.task_id]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("Add a file\n\nbody", "abcdefabcdef ('Add a file')"),
        ("", "abcdefabcdef"),
        (" \n ", "abcdefabcdef"),
        ("x" * 100, f"abcdefabcdef ('{'x' * 60}')"),
    ],
)
def test_commits_are_described_for_people(message: str, text: str) -> None:
    commit = CommitInfo(id="abcdef" * 6, parents=(), tree="t", message=message)

    assert describe(commit) == text


publications = st.builds(
    publication,
    st.sampled_from(["ours", "a", "b"]),
    workflow=st.sampled_from(["wf", "wf2"]),
    task=st.sampled_from(["build", "report"]),
    token=st.integers(1, 9),
    input_ref=st.sampled_from([INPUT, "another00000"]),
)
foreign = st.sampled_from([PERSON, TOOL, MALFORMED, INCOMPLETE])
histories = st.builds(
    lambda above, base: chain(*above, base=base),
    st.lists(st.one_of(publications, foreign), max_size=6),
    st.sampled_from([(INPUT, "root00000000"), ("elsewhere000",), (INPUT,)]),
)


@given(histories)
def test_nothing_is_published_but_on_the_input(history: list[CommitInfo]) -> None:
    decision = decide(history, OURS)

    assert isinstance(decision, PublishOn) == (history[0].id == INPUT)


@given(histories)
def test_nothing_is_replaced_but_this_workflows_own_work(history: list[CommitInfo]) -> None:
    """Every commit above the input is a publication of the workflow, and ours is the newest."""
    decision = decide(history, OURS)
    if not isinstance(decision, Replace):
        return
    above = [Publication.from_metadata(commit.metadata) for commit in history]
    above = above[: [commit.id for commit in history].index(INPUT)]

    assert decision.head == history[0]
    assert all(found is not None and found.workflow_id == "wf" for found in above)
    tokens = [found.token for found in above if found and found.lineage == OURS.lineage]
    assert max(tokens) < OURS.token
