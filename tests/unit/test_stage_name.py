"""Names of stages: what they say can be read again, and nothing else is read out of names."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perago_worker.attempt.stage_name import StageName
from perago_worker.models import Lease
from tests.leases import make_lease

UUID = "8f14e45f-ceea-467f-ab2b-0d7b1f9c3c11"
DIGEST = "0123456789abcdef0123"


def lease(**fields: Any) -> Lease:
    return make_lease(**{"task_id": UUID, "retry_count": 0, **fields})


def new(task_id: str = UUID, *, ref: str = "c0ffee", created_at: float = 0.0) -> StageName:
    return StageName.new(lease(task_id=task_id), ref, created_at=created_at)


@given(
    task_id=st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]{1,60}", fullmatch=True),
    retry_count=st.integers(0, 10_000),
    created_at=st.floats(0, 99_999_999_999),
)
def test_what_a_name_says_can_be_read_again(
    task_id: str, retry_count: int, created_at: float
) -> None:
    name = StageName.new(
        lease(task_id=task_id, retry_count=retry_count), "c0ffee", created_at=created_at
    )

    text = str(name)

    assert StageName.parse(text) == name
    assert (name.retry_count, name.created_at) == (retry_count, int(created_at))
    assert name.task_id in (task_id, None)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", text)


@given(
    st.text(max_size=140)
    | st.from_regex(r"perago-[0-9a-f]{20}-r\d+-\d+-[\w-]+-[0-9a-f]{8}", fullmatch=True)
)
def test_a_name_that_is_read_is_one_that_is_written_so(text: str) -> None:
    name = StageName.parse(text)
    assert name is None or str(name) == text


def test_a_uuid_is_spelled_out() -> None:
    name = new(created_at=1_700_000_000.9)

    assert name.task_id == UUID
    assert f"-r0-1700000000-{UUID}-" in str(name)


@pytest.mark.parametrize(
    "task_id",
    ["", "a/b", "a b", "a.b", "tâche", "x" * 49, "hashed_of_nothing", "line\nbreak", "\ud800"],
)
def test_another_id_is_hashed_and_not_taken_for_the_id(task_id: str) -> None:
    name = StageName.parse(str(new(task_id)))

    assert name is not None
    assert name.task_id is None


def test_attempts_at_the_same_work_share_the_beginning_and_nothing_more() -> None:
    one, again, other = new(), new(), new(ref="decaf")

    assert one.work == again.work != other.work
    assert str(one) != str(again)


@pytest.mark.parametrize(
    "name",
    [
        "main",
        "",
        f"perago-{DIGEST}-r0-01234567",
        f"perago-{DIGEST}-r0-1700000000-{UUID}-0123456",
        f"perago-{DIGEST}-r0-1700000000-{UUID}-01234567 ",
        f"perago-{DIGEST}-r0-1700000000-{UUID}-01234567\n",
        f"perago-{DIGEST}-r00-1700000000-{UUID}-01234567",
        f"perago-{DIGEST}-r0--1-{UUID}-01234567",
        f"perago-{DIGEST}-r0-1700000000-a.b-01234567",
        f"perago-{DIGEST}-r٣-1700000000-{UUID}-01234567",
        f"other-{DIGEST}-r0-1700000000-{UUID}-01234567",
    ],
)
def test_other_names_are_not_read(name: str) -> None:
    assert StageName.parse(name) is None
