"""Races for the head of a branch: what the fence refuses, and what shows without it.

Every race has a branch of its own that starts at the same commit, and two contenders that start
together. `PERAGO_TEST_RACES` says how many races there are of each kind; 100 unless it is set.
Run with `--log-cli-level=info` to see how they ended.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import pytest

from deploy.servers.servers import LakeFSAccess
from perago_worker.adapters.lakefs.fence import ACTION, ACTION_PATH
from perago_worker.attempt.steps.publication import SENTINEL_FOLDER
from perago_worker.errors import HeadMoved
from perago_worker.models import CommitInfo
from tests.contract.lakefs_harness import LakeFSHarness, open_harness
from tests.integration.test_lakefs_store import change

LOG = logging.getLogger(__name__)

RACES = int(os.environ.get("PERAGO_TEST_RACES", "100"))

# A race takes a tenth of a second on two idle cores.
pytestmark = [pytest.mark.servers, pytest.mark.timeout(120 + RACES)]

LONGEST_HEAD_START_S = 0.012
"""A merge takes 3 to 15 ms: beyond that the later contender would mostly just be late."""

COMMIT_S = 0.020
"""What a commit takes longer than a merge: with that much of a start, either may be first."""

SENTINEL = f"{SENTINEL_FOLDER}/main"

Contender = Callable[[], CommitInfo | None]


@pytest.fixture(scope="module")
def harness(lakefs: LakeFSAccess) -> Iterator[LakeFSHarness]:
    with open_harness(lakefs) as harness:
        yield harness


class Arena:
    """A repository whose branches are raced for, and what the contenders bring."""

    def __init__(
        self, harness: LakeFSHarness, *, fenced: bool = False, sentinel: bool = False
    ) -> None:
        self._harness = harness
        self.store = harness.store
        self.repository = harness.repository()
        if fenced:
            harness.upload(self.repository, "main", ACTION_PATH, ACTION.encode())
            harness.commit(self.repository, "main", message="Fence")
        self.base = self.store.head(self.repository, "main")
        self.ours, self.theirs = (
            change(
                self.store,
                self.repository,
                self.base,
                {f"ws/{name}": b"1"} | ({SENTINEL: name.encode()} if sentinel else {}),
            )
            for name in ("ours", "theirs")
        )

    def publisher(self, branch: str, source: CommitInfo) -> Contender:
        """Return a contender that publishes on the commit all branches start at."""

        def publish() -> CommitInfo | None:
            try:
                return self.store.publish(
                    self.repository,
                    branch,
                    source=source,
                    expected_head=self.base.id,
                    metadata={},
                    message="Publish",
                    timeout_s=30,
                )
            except HeadMoved:
                return None

        return publish

    def publishers(self, branch: str) -> tuple[Contender, Contender]:
        """Return two contenders whose changes do not conflict."""
        return self.publisher(branch, self.ours), self.publisher(branch, self.theirs)

    def committer(self, branch: str) -> Contender:
        """Return a contender who commits directly, as often as it takes."""

        def commit() -> CommitInfo:
            path = ("repositories", self.repository, "branches", branch, "commits")
            send = {"message": "Theirs", "allow_empty": True}
            for _ in range(50):
                status, answer = self._harness.answer("POST", *path, send=send)
                if status == 201:
                    return self.store.resolve(self.repository, str(answer["id"]))
                # A commit that loses a race for the branch is one that the server gives up.
                assert status == 500, answer
                assert "predicate failed" in answer["message"]
            raise AssertionError("the server gave the commit up again and again")

        return commit

    def merger(self, branch: str) -> Contender:
        """Return a contender who merges, knowing nothing of the worker."""

        def merge() -> CommitInfo:
            path = ("repositories", self.repository, "refs", self.theirs.id, "merge", branch)
            answer = self._harness.call("POST", *path, send={"message": "Theirs"})
            return self.store.resolve(self.repository, str(answer["reference"]))

        return merge

    def new_branch(self, name: str) -> str:
        self._harness.add_branch(self.repository, name, self.base.id)
        return name

    def history(self, branch: str) -> list[CommitInfo]:
        """Return the commits above the one the branch started at, newest first, and that one."""
        chain = self.store.history(self.repository, branch, limit=10)
        ids = [each.id for each in chain]
        return chain[: ids.index(self.base.id) + 1]


def race(
    pool: ThreadPoolExecutor, contenders: tuple[Contender, Contender], *, handicap_s: float = 0.0
) -> list[CommitInfo]:
    """Let two contend, the second later by a handicap; return the commits that were let in."""
    together = threading.Barrier(2)
    head_starts = [0.0, random.uniform(0, LONGEST_HEAD_START_S)]  # noqa: S311
    random.shuffle(head_starts)
    head_starts[1] += handicap_s

    def contend(contender: Contender, wait_s: float) -> CommitInfo | None:
        together.wait()
        threading.Event().wait(wait_s)
        return contender()

    futures: list[Future[CommitInfo | None]] = [
        pool.submit(contend, contender, wait_s)
        for contender, wait_s in zip(contenders, head_starts, strict=True)
    ]
    return [made for made in (future.result() for future in futures) if made is not None]


def assert_nothing_lost(made: list[CommitInfo], history: list[CommitInfo]) -> None:
    """Every commit that was let in is on the branch, in one line, and no other."""
    assert {each.id for each in made} == {each.id for each in history[:-1]}
    assert all(newer.parents[0] == older.id for newer, older in pairwise(history))


@pytest.mark.parametrize("kind", ["commit", "merge"])
def test_no_foreign_commit_gets_between_a_fenced_publication_and_its_head(
    harness: LakeFSHarness, kind: str
) -> None:
    """The foreign one is always let in, before or after; ours only on the head it was made for."""
    arena = Arena(harness, fenced=True)
    outcomes: Counter[str] = Counter()
    with ThreadPoolExecutor(2) as pool:
        for number in range(RACES // 2):
            branch = arena.new_branch(f"race-{number}")
            foreign = arena.committer(branch) if kind == "commit" else arena.merger(branch)
            contenders = (foreign, arena.publisher(branch, arena.ours))
            made = race(pool, contenders, handicap_s=COMMIT_S if kind == "commit" else 0.0)
            history = arena.history(branch)
            assert_nothing_lost(made, history)
            ours = [each for each in made if arena.ours.id in each.parents]
            assert [each.parents[0] for each in ours] in ([], [arena.base.id])
            outcomes["published" if ours else "refused"] += 1
    LOG.info("%s races with a %s: %s", RACES // 2, kind, dict(outcomes))
    assert set(outcomes) == {"published", "refused"}


def test_of_two_fenced_publications_exactly_one_wins(harness: LakeFSHarness) -> None:
    arena = Arena(harness, fenced=True)
    winners: Counter[str] = Counter()
    with ThreadPoolExecutor(2) as pool:
        for number in range(RACES):
            branch = arena.new_branch(f"race-{number}")
            made = race(pool, arena.publishers(branch))
            assert_nothing_lost(made, arena.history(branch))
            (winner,) = made
            assert winner.parents[0] == arena.base.id
            winners["ours" if arena.ours.id in winner.parents else "theirs"] += 1
    LOG.info("%s races of two publications: %s", RACES, dict(winners))
    assert set(winners) == {"ours", "theirs"}


def test_a_publication_without_a_change_keeps_a_late_one_out(harness: LakeFSHarness) -> None:
    """What a retry does that changes nothing while an earlier merge may be on its way."""
    arena = Arena(harness, fenced=True)
    store, repository, base = arena.store, arena.repository, arena.base
    kept = store.replacement(
        repository, on=base, content=base, name="perago-kept", message="Keep", metadata={}
    )
    merged = store.publish(
        repository,
        "main",
        source=kept,
        expected_head=base.id,
        metadata={},
        message="Publish",
        timeout_s=30,
        allow_unchanged=True,
    )
    store.drop_stage(repository, "perago-kept")

    late = arena.publisher("main", arena.ours)
    assert late() is None
    assert store.head(repository, "main") == merged
    assert (merged.tree, merged.parents) == (base.tree, (base.id, kept.id))


def test_without_the_fence_a_sentinel_lets_one_of_two_publications_win(
    harness: LakeFSHarness,
) -> None:
    """They conflict in the object that both write."""
    arena = Arena(harness, sentinel=True)
    with ThreadPoolExecutor(2) as pool:
        for number in range(RACES):
            branch = arena.new_branch(f"race-{number}")
            (winner,) = race(pool, arena.publishers(branch))
            assert winner.parents[0] == arena.base.id
            assert_nothing_lost([winner], arena.history(branch))


def test_without_the_fence_a_lost_race_shows_in_the_merge(harness: LakeFSHarness) -> None:
    """The branch's history is the judge; nothing is lost there either."""
    arena = Arena(harness)
    outcomes: Counter[str] = Counter()
    with ThreadPoolExecutor(2) as pool:
        for number in range(RACES):
            branch = arena.new_branch(f"race-{number}")
            made = race(pool, arena.publishers(branch))
            history = arena.history(branch)
            assert_nothing_lost(made, history)
            shown = {each.id for each in made if each.parents[0] != arena.base.id}
            assert shown == {
                newer.id for newer, older in pairwise(history) if older.id != arena.base.id
            }
            outcomes[f"{len(shown)} violations"] += 1
    LOG.info("%s races without the fence: %s", RACES, dict(outcomes))
    assert outcomes["1 violations"]
