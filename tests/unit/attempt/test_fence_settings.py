"""What `publish.require_fence` and `publish.sentinel` make of an attempt, by the store's fence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perago_worker.attempt.codes import Code
from perago_worker.attempt.pipeline import run_attempt
from perago_worker.attempt.steps.publication import SENTINEL_FOLDER
from perago_worker.events import Published
from perago_worker.models import Lease, Outcome, Publication
from perago_worker.ports import FenceLevel
from perago_worker.task import TaskDefinition
from tests.support import BRANCH, Faulty, HastyClock, Rig, contents, rig
from tests.tasks.probe import files

FILES = TaskDefinition.of(files)
SENTINEL = f"{SENTINEL_FOLDER}/{BRANCH}"


class Fenced:
    """A store whose publications are fenced no better than this."""

    def __init__(self, store: object, level: FenceLevel) -> None:
        self._store = store
        self._level = level

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def fence_level(self, repository: str, commit: str) -> FenceLevel:
        """Return the level, whatever the commit."""
        return self._level


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, clock=HastyClock()) as opened:
        yield opened
        assert opened.leftovers() == []


def carry_out(
    here: Rig,
    level: FenceLevel,
    *,
    require_fence: bool = False,
    sentinel: bool = False,
    **order: str,
) -> tuple[Lease, Outcome]:
    """Carry out an attempt with these settings over a store that fences so well."""
    here.store = Faulty(Fenced(here.local_store, level))
    here.submit(FILES, **{"do": "write", **order})
    lease = here.poll(FILES)
    attempt = here.attempt(FILES, lease)
    settings = replace(attempt.tools.settings, require_fence=require_fence, sentinel=sentinel)
    attempt.tools = replace(attempt.tools, settings=settings)
    return lease, run_attempt(attempt)


class TestSentinel:
    @pytest.mark.key("publish.sentinel")
    def test_is_written_where_merges_are_only_verified(self, here: Rig) -> None:
        _, outcome = carry_out(here, "verify", sentinel=True)

        assert outcome.code == Code.PUBLISHED
        publication = Publication.from_metadata(here.head().metadata)
        assert publication is not None
        after = contents(here.local_store, here.head().id)
        assert after.pop(SENTINEL) == f"{publication.uuid}\n".encode()
        assert set(after) > {"data/in.txt", "other/kept.txt"}
        assert {event.fence for event in here.recorder.of(Published)} == {"verify"}

    def test_is_another_one_with_every_publication(self, here: Rig) -> None:
        found = set()
        for text in ("one", "two"):
            carry_out(here, "verify", sentinel=True, text=text)
            found.add(contents(here.local_store, here.head().id)[SENTINEL])
            here.start = here.head()
        assert len(found) == 2

    @pytest.mark.parametrize(
        ("level", "wanted"), [("hook", True), ("swap", True), ("verify", False)]
    )
    def test_is_not_written_where_it_is_not_needed_or_not_wanted(
        self, here: Rig, level: FenceLevel, wanted: bool
    ) -> None:
        _, outcome = carry_out(here, level, sentinel=wanted)

        assert outcome.code == Code.PUBLISHED
        assert SENTINEL not in contents(here.local_store, here.head().id)

    def test_alone_is_no_reason_to_publish(self, here: Rig) -> None:
        _, outcome = carry_out(here, "verify", do="nothing", sentinel=True)

        assert outcome.code == Code.NO_OP
        assert here.head() == here.start


class TestRequiredFence:
    @pytest.mark.key("publish.require_fence")
    def test_that_is_missing_ends_the_task_before_any_work(self, here: Rig) -> None:
        lease, outcome = carry_out(here, "verify", require_fence=True)

        assert (outcome.kind, outcome.code) == ("terminal", Code.FENCE_MISSING)
        assert "perago-worker fence install" in outcome.reason
        assert here.task(lease.task_id).status == "FAILED_WITH_TERMINAL_ERROR"
        assert here.head() == here.start
        for method in ("list", "read", "stage", "publish"):
            assert not here.store.calls(method), method

    def test_that_is_missing_ends_it_although_there_would_be_a_sentinel(self, here: Rig) -> None:
        _, outcome = carry_out(here, "verify", require_fence=True, sentinel=True)
        assert outcome.code == Code.FENCE_MISSING

    @pytest.mark.parametrize("level", ["hook", "swap"])
    def test_that_is_there_lets_it_publish(self, here: Rig, level: FenceLevel) -> None:
        _, outcome = carry_out(here, level, require_fence=True)

        assert outcome.code == Code.PUBLISHED
        assert [event.fence for event in here.recorder.of(Published)] == [level]
