"""What lakeFS answers, in the worker's words. The answers are those a real server gave."""

from __future__ import annotations

import json
from functools import partial

import pytest
from lakefs_sdk.models.commit import Commit

from perago_worker.adapters.lakefs.fence import ACTION, ACTION_PATH, head_in_refusal
from perago_worker.adapters.lakefs.mapping import (
    MAX_DETAIL_CHARS,
    Answered,
    Entry,
    Failure,
    NoAnswer,
    NotSent,
    answered,
    commit_error,
    commit_info,
    object_info,
    one_line,
    publish_error,
    shown,
    store_error,
)
from perago_worker.errors import (
    HeadMoved,
    NotFound,
    NothingToCommit,
    PublishUnknown,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)

OURS = "1" * 64
THEIRS = "2" * 64
FENCED = (
    "update branch main: pre-merge hook aborted, run id 'dc1': 1 error occurred:\n\t* hook run id "
    "'0000_0000' failed on action 'perago-fence' hook 'expected-head': action failed: runtime "
    f'error: [string "lua"]:4: FENCE expected_head={OURS} head={THEIRS}\n\n'
)
OTHER_HOOK = (
    "update branch main: pre-merge hook aborted, run id 'dc1': 1 error occurred:\n\t* hook run id "
    "'0000_0000' failed on action 'schema' hook 'check': no column named price\n\n"
)

_missing = partial(NotFound, "commit", OURS)
_store_error = partial(store_error, doing="reading", missing=_missing)
_commit_error = partial(commit_error, stage="perago-1", doing="committing", missing=_missing)
_publish_error = partial(
    publish_error, branch="main", expected_head=OURS, doing="publishing", missing=_missing
)


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (NotSent("connection refused"), StoreUnavailable),
        (NoAnswer("timed out"), StoreUnavailable),
        (Answered(302, "", by_lakefs=False), StoreRefused),
        (Answered(400, "argument path: invalid value"), StoreRefused),
        (Answered(401, "error authenticating request"), StoreRefused),
        (Answered(403, "cannot write to protected branch"), StoreRefused),
        (Answered(404, "not found"), NotFound),
        (Answered(404, "an HTML page", by_lakefs=False), StoreUnavailable),
        (Answered(408, "", by_lakefs=False), StoreUnavailable),
        (Answered(409, "branch already exists: not unique"), StoreRefused),
        (Answered(410, "no data"), StoreRefused),
        (Answered(412, OTHER_HOOK), StoreRefused),
        (Answered(423, "locked"), StoreUnavailable),
        (Answered(429, "too many attempts, try again later"), StoreUnavailable),
        (Answered(499, ""), StoreUnavailable),
        (Answered(500, "predicate failed"), StoreUnavailable),
        (Answered(502, "an HTML page", by_lakefs=False), StoreUnavailable),
        (Answered(503, "Slow down and retry"), StoreUnavailable),
        (Answered(504, "", by_lakefs=False), StoreUnavailable),
    ],
)
def test_a_failed_call_means(failure: Failure, error: type[StoreError]) -> None:
    assert type(_store_error(failure)) is error


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (Answered(400, "commit: no changes"), NothingToCommit),
        (Answered(400, "argument message: invalid value"), StoreRefused),
        (Answered(404, "prepare-commit hook aborted: not found"), NotFound),
        (Answered(412, OTHER_HOOK), StoreRefused),
        (Answered(500, "predicate failed"), StoreUnavailable),
        (NoAnswer("timed out"), StoreUnavailable),
    ],
)
def test_a_failed_commit_means(failure: Failure, error: type[StoreError]) -> None:
    assert type(_commit_error(failure)) is error


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (NotSent("connection refused"), StoreUnavailable),
        (NoAnswer("connection reset"), PublishUnknown),
        (Answered(302, "", by_lakefs=False), StoreRefused),
        (Answered(400, "update branch main: no changes"), HeadMoved),
        (Answered(400, "uncommitted changes (dirty branch)"), StoreUnavailable),
        (Answered(400, "request body has an error"), StoreRefused),
        (Answered(401, "error authenticating request"), StoreRefused),
        (Answered(403, "cannot commit to protected branch"), StoreRefused),
        (Answered(404, "update branch main: get commit by ref: not found"), NotFound),
        (Answered(404, "an HTML page", by_lakefs=False), StoreUnavailable),
        (Answered(408, "", by_lakefs=False), PublishUnknown),
        (Answered(409, ""), HeadMoved),
        (Answered(410, "no data"), StoreRefused),
        (Answered(412, FENCED), HeadMoved),
        (Answered(412, OTHER_HOOK), StoreRefused),
        (Answered(429, "too many attempts, try again later"), StoreUnavailable),
        (Answered(499, ""), PublishUnknown),
        (Answered(500, "predicate failed"), PublishUnknown),
        (Answered(502, "an HTML page", by_lakefs=False), PublishUnknown),
        (Answered(503, "Slow down and retry"), StoreUnavailable),
        (Answered(504, "", by_lakefs=False), PublishUnknown),
    ],
)
def test_a_failed_merge_means(failure: Failure, error: type[StoreError]) -> None:
    assert type(_publish_error(failure)) is error


def test_a_lost_race_tells_where_the_branch_is_when_the_fence_told() -> None:
    fenced = _publish_error(answered(412, json.dumps({"message": FENCED})))
    conflict = _publish_error(answered(409, '{"reference":""}'))
    assert isinstance(fenced, HeadMoved)
    assert isinstance(conflict, HeadMoved)
    assert (fenced.branch, fenced.expected, fenced.found) == ("main", OURS, THEIRS)
    assert (conflict.branch, conflict.expected, conflict.found) == ("main", OURS, None)


def test_a_refusal_names_what_the_hook_said() -> None:
    assert "no column named price" in str(_publish_error(Answered(412, OTHER_HOOK)))


@pytest.mark.parametrize(
    ("failure", "advice"),
    [
        (Answered(401, "error authenticating request"), "the access key was refused"),
        (Answered(403, "insufficient permissions"), "what the access key's owner may do"),
        (Answered(307, "", by_lakefs=False), "redirects elsewhere"),
        (Answered(404, "an HTML page", by_lakefs=False), "is the endpoint right?"),
    ],
)
def test_messages_say_what_to_do_next(failure: Failure, advice: str) -> None:
    assert advice in str(_store_error(failure))
    assert advice in str(_publish_error(failure))


@pytest.mark.parametrize(
    ("body", "message", "by_lakefs"),
    [
        ('{"message":"branch not\\n found"}', "branch not found", True),
        ('{"reference":""}', "", True),
        ('["message"]', '["message"]', False),
        (" <!doctype html><title>Bad gateway</title>", "an HTML page", False),
        ("upstream timed out\r\n", "upstream timed out", False),
        ("", "", False),
        (None, "", False),
    ],
)
def test_an_answer_is_lakefs_own_when_it_is_a_json_object(
    body: str | None, message: str, by_lakefs: bool
) -> None:
    assert answered(404, body) == Answered(404, message, by_lakefs=by_lakefs)


def test_text_from_elsewhere_is_cut_to_fit_a_message() -> None:
    assert one_line("a\n\tb ") == "a b"
    assert one_line("x" * 10_000) == "x" * (MAX_DETAIL_CHARS - 1) + "…"
    assert shown("new\nline") == "'new\\nline'"
    assert len(shown("k" * 1024)) == 200


@pytest.mark.parametrize(
    ("checksum", "verifiable"),
    [
        ("5d41402abc4b2a76b9719d911017c592", True),
        ("5d41402abc4b2a76b9719d911017c592-3", False),
        ("5D41402ABC4B2A76B9719D911017C592", False),
        ("0x8DCF1B2A3C4D5E6", False),
        ("", False),
    ],
)
def test_only_a_checksum_of_the_form_of_an_md5_can_be_verified(
    checksum: str, verifiable: bool
) -> None:
    info = object_info(Entry(path="ws/a", checksum=checksum, size_bytes=5))
    assert (info.key, info.size, info.checksum) == ("ws/a", 5, checksum)
    assert info.verifiable is verifiable


def test_a_commit_is_described_without_what_the_server_added() -> None:
    commit = Commit.from_dict(
        {
            "id": OURS,
            "parents": [THEIRS, "3" * 64],
            "committer": "admin",
            "message": "publish",
            "creation_date": 1,
            "meta_range_id": "4" * 64,
            "metadata": {"a": "b", "": "empty", ".lakefs.merge.strategy": "default"},
        }
    )
    info = commit_info(commit)
    assert info.id == OURS
    assert info.parents == (THEIRS, "3" * 64)
    assert info.metadata == {"a": "b", "": "empty"}
    assert info.tree == "4" * 64
    assert info.message == "publish"


def test_the_first_commit_of_a_repository_has_neither_parents_nor_metadata() -> None:
    commit = Commit(
        id=OURS, parents=[], committer="", message="", creation_date=1, meta_range_id="", version=1
    )
    assert commit_info(commit).parents == ()
    assert commit_info(commit).metadata == {}


def test_the_fence_is_an_action_at_the_only_place_actions_are_read_from() -> None:
    assert ACTION_PATH.startswith("_lakefs_actions/")
    assert 'error("FENCE expected_head=" .. expected .. " head=" .. head)' in ACTION


@pytest.mark.parametrize("message", [OTHER_HOOK, "", "FENCE", "DEFENCE expected_head=a head=b"])
def test_refusals_of_other_hooks_are_not_taken_for_the_fence(message: str) -> None:
    assert head_in_refusal(message) is None
