"""From changed files to the branch's head: at most once, whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from perago_worker.attempt.backoff import Retry
from perago_worker.attempt.codes import Code
from perago_worker.attempt.lease_keeper import LeaseKeeper
from perago_worker.attempt.publish import FINAL_LOOKS, Publisher
from perago_worker.attempt.upload import upload
from perago_worker.attempt.workspace import Limits, Workspace
from perago_worker.errors import (
    AttemptAbandoned,
    HeadMoved,
    NotFound,
    NothingToCommit,
    PublishUnknown,
    QueueUnavailable,
    RetryableAttemptError,
    StoreRefused,
    StoreUnavailable,
    TerminalAttemptError,
)
from perago_worker.events import Published
from perago_worker.models import CommitInfo, Lease, ObjectInfo, Publication, WorkspaceInput
from perago_worker.models.publication import EXPECTED_HEAD
from perago_worker.ports import FenceLevel, Stage
from perago_worker.task import TaskDefinition
from tests.support import (
    BRANCH,
    REPOSITORY,
    Faulty,
    HastyClock,
    Rig,
    contents,
    put,
    raising,
    rig,
    write,
)
from tests.tasks.probe import files

FILES = TaskDefinition.of(files)
AWAY = StoreUnavailable("the store is away")
LOST_ANSWER = PublishUnknown("the answer was lost")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, clock=HastyClock()) as opened:
        opened.submit(FILES)
        yield opened


@pytest.fixture
def lease(here: Rig) -> Lease:
    return here.poll(FILES)


@pytest.fixture
def keeper(here: Rig, lease: Lease) -> LeaseKeeper:
    return here.keeper(lease)


def publication(lease: Lease, here: Rig, *, uuid: str = "ours") -> Publication:
    return Publication(
        uuid=uuid,
        workflow_id=lease.workflow_id,
        task_id=lease.task_id,
        lineage=str(lease.lineage),
        token=lease.token,
        input_ref=here.start.id,
        params_digest="digest",
    )


def staged(here: Rig, text: str = "ours") -> CommitInfo:
    stage = here.local_store.stage(REPOSITORY, here.start.id, f"stage-{text}")
    write(stage, {"data/out.txt": text})
    return stage.commit("staged", {})


def publisher_of(
    here: Rig, keeper: LeaseKeeper, ours: Publication, *, fence: FenceLevel = "swap"
) -> Publisher:
    return Publisher(
        WorkspaceInput.model_validate(here.workspace_input()),
        ours,
        store=here.store.as_store(),
        keeper=keeper,
        clock=here.clock,
        listener=here.recorder,
        budget=here.budget,
        fence=fence,
        new_stage_name=lambda: "replacement",
        shut_down=here.shut_down,
    )


@pytest.fixture
def publisher(here: Rig, lease: Lease, keeper: LeaseKeeper) -> Publisher:
    return publisher_of(here, keeper, publication(lease, here))


def publish(publisher: Publisher, content: CommitInfo) -> CommitInfo:
    merged = publisher.publish(content)
    assert merged is not None
    return merged


def outcomes(here: Rig) -> list[str]:
    return [event.outcome for event in here.recorder.of(Published)]


class TestPublish:
    def test_the_first_publication_is_the_branchs_head(
        self, here: Rig, lease: Lease, publisher: Publisher
    ) -> None:
        content = staged(here)

        merged = publish(publisher, content)

        assert here.head() == merged
        assert merged.parents == (here.start.id, content.id)
        assert merged.tree == content.tree
        assert Publication.from_metadata(merged.metadata) == publication(lease, here)
        (event,) = here.recorder.of(Published)
        assert (event.outcome, event.commit, event.fence) == ("merged", merged.id, "swap")

    def test_other_paths_stay_as_they_are(self, here: Rig, publisher: Publisher) -> None:
        merged = publish(publisher, staged(here))

        assert contents(here.local_store, merged.id) == {
            "data/in.txt": b"input",
            "data/out.txt": b"ours",
            "other/kept.txt": b"kept",
        }

    def test_the_lease_is_confirmed_between_the_decision_and_the_merge(
        self, here: Rig, publisher: Publisher
    ) -> None:
        order: list[str] = []
        here.store.after("history", lambda: order.append("decide"))
        here.queue.before("observe", lambda: order.append("observe"))
        here.queue.before("extend", lambda: order.append("extend"))
        here.store.before("publish", lambda: order.append("merge"))

        publish(publisher, staged(here))

        assert order == ["decide", "observe", "extend", "merge"]

    def test_nothing_is_published_where_nothing_has_changed(
        self, here: Rig, publisher: Publisher
    ) -> None:
        assert publisher.publish(here.start) is None

        assert here.head() == here.start
        assert not here.store.calls("publish")
        assert not here.recorder.of(Published)

    def test_a_branch_that_somebody_moved_is_left_alone(
        self, here: Rig, publisher: Publisher
    ) -> None:
        foreign = put(here.local_store, {"data/foreign.txt": "theirs"})

        with pytest.raises(TerminalAttemptError) as raised:
            publisher.publish(staged(here))
        assert raised.value.code == Code.HEAD_MOVED
        assert foreign.id[:12] in raised.value.reason
        assert here.head() == foreign
        assert not here.store.calls("publish")
        assert outcomes(here) == ["refused"]

    def test_a_look_tells_before_any_work(self, here: Rig, publisher: Publisher) -> None:
        publisher.look()
        put(here.local_store, {"data/foreign.txt": "theirs"})

        with pytest.raises(TerminalAttemptError):
            publisher.look()
        assert not here.queue.calls("observe")

    @pytest.mark.parametrize("again", [{"retry_count": 1}, {"poll_count": 2}])
    def test_a_merge_that_is_late_does_not_undo_that_nothing_changed(
        self, here: Rig, lease: Lease, keeper: LeaseKeeper, again: dict[str, int]
    ) -> None:
        """An earlier delivery sent it, for the head that this one would have left."""
        late, first = staged(here, "late"), publication(lease, here, uuid="first")
        later = first.model_copy(
            update={"uuid": "later", "token": first.token.model_copy(update=again)}
        )
        publisher = publisher_of(here, keeper, later)

        merged = publish(publisher, here.start)

        assert here.head() == merged
        assert (merged.tree, merged.parents[0]) == (here.start.tree, here.start.id)
        assert not publisher.replaced
        assert outcomes(here) == ["merged"]
        metadata = first.metadata(expected_head=here.start.id)
        with pytest.raises(HeadMoved):
            here.local_store.publish(
                REPOSITORY,
                BRANCH,
                source=late,
                expected_head=metadata[EXPECTED_HEAD],
                metadata=metadata,
                message="late",
                timeout_s=30,
            )
        assert here.head() == merged

    def test_nothing_is_published_in_vain_where_no_fence_would_refuse_a_late_merge(
        self, here: Rig, lease: Lease, keeper: LeaseKeeper
    ) -> None:
        ours = publication(lease, here)
        again = ours.token.model_copy(update={"retry_count": 1})
        later = ours.model_copy(update={"token": again})

        assert publisher_of(here, keeper, later, fence="verify").publish(here.start) is None
        assert here.head() == here.start

    def test_a_lost_answer_to_such_a_publication_is_found(
        self, here: Rig, lease: Lease, keeper: LeaseKeeper
    ) -> None:
        ours = publication(lease, here)
        again = ours.token.model_copy(update={"retry_count": 1})
        here.store.after("publish", raising(LOST_ANSWER), nth=1)

        later = ours.model_copy(update={"token": again})
        merged = publish(publisher_of(here, keeper, later), here.start)

        assert here.head() == merged
        assert here.publications() == 1

    def test_a_branch_that_moves_just_before_the_merge_is_left_alone(
        self, here: Rig, publisher: Publisher
    ) -> None:
        """The store compares and swaps: the decision was made on what is no longer so."""
        here.store.before(
            "publish", lambda: put(here.local_store, {"data/foreign.txt": "theirs"}), nth=1
        )

        with pytest.raises(TerminalAttemptError) as raised:
            publisher.publish(staged(here))
        assert raised.value.code == Code.HEAD_MOVED
        assert here.publications() == 1
        assert "data/out.txt" not in contents(here.local_store, here.head().id)

    def test_a_branch_that_is_gone_is_not_waited_for(self, here: Rig, publisher: Publisher) -> None:
        here.store.before("history", raising(NotFound("branch", BRANCH)))

        with pytest.raises(NotFound):
            publisher.publish(staged(here))
        assert here.store.calls("history") == 1

    def test_a_refusal_of_the_store_is_final(self, here: Rig, publisher: Publisher) -> None:
        here.store.before("publish", raising(StoreRefused("the branch is protected")))

        with pytest.raises(TerminalAttemptError) as raised:
            publisher.publish(staged(here))
        assert raised.value.code == Code.STORE_REFUSED
        assert "the branch is protected" in raised.value.reason
        assert here.store.calls("publish") == 1


class TestUnknownOutcome:
    @pytest.mark.parametrize("error", [LOST_ANSWER, AWAY])
    def test_a_merge_that_had_its_effect_is_found_and_not_made_again(
        self, here: Rig, publisher: Publisher, error: Exception
    ) -> None:
        here.store.after("publish", raising(error), nth=1)

        merged = publish(publisher, staged(here))

        assert here.head() == merged
        assert here.publications() == here.store.calls("publish") == 1
        assert outcomes(here) == ["merged"]

    @pytest.mark.parametrize("error", [LOST_ANSWER, AWAY])
    def test_a_merge_that_had_none_is_sent_again(
        self, here: Rig, publisher: Publisher, error: Exception
    ) -> None:
        here.store.before("publish", raising(error), nth=1)
        here.store.before("publish", raising(error), nth=2)

        merged = publish(publisher, staged(here))

        assert here.head() == merged
        assert here.publications() == 1
        assert here.store.calls("publish") == 3

    def test_a_merge_that_lands_late_is_found_by_the_one_sent_again(
        self, here: Rig, lease: Lease, publisher: Publisher
    ) -> None:
        """The second merge finds the branch moved: by the first."""
        content = staged(here)
        here.store.before("publish", raising(LOST_ANSWER), nth=1)
        here.store.before("publish", lambda: merge(here, content, publication(lease, here)), nth=2)

        merged = publish(publisher, content)

        assert here.head() == merged
        assert here.publications() == 1

    def test_ours_is_found_below_what_others_published_since(
        self, here: Rig, publisher: Publisher
    ) -> None:
        def others_follow() -> None:
            put(here.local_store, {"data/foreign.txt": "theirs"})
            raise LOST_ANSWER

        here.store.after("publish", others_follow, nth=1)

        merged = publish(publisher, staged(here))

        assert merged.parents[0] == here.start.id
        assert here.publications() == 2

    def test_it_is_looked_for_once_more_when_the_budget_is_used_up(
        self, here: Rig, publisher: Publisher
    ) -> None:
        """The usual way to lose an answer is to wait for it until no time is left."""

        def take_all_the_time() -> None:
            here.clock.wait(threading.Event(), here.budget.merge_s)
            raise LOST_ANSWER

        here.store.after("publish", take_all_the_time, nth=1)
        here.store.before("history", raising(AWAY), nth=2)

        merged = publish(publisher, staged(here))

        assert here.head() == merged
        assert here.store.calls("publish") == 1

    def test_what_cannot_be_found_out_is_a_failure(self, here: Rig, publisher: Publisher) -> None:
        here.store.before("publish", raising(LOST_ANSWER), nth=1)
        content = staged(here)
        for nth in range(2, 200):
            here.store.before("history", raising(AWAY), nth=nth)

        with pytest.raises(RetryableAttemptError) as raised:
            publisher.publish(content)
        assert raised.value.code == Code.PUBLISH_FAILED
        assert here.store.calls("history") >= FINAL_LOOKS

    def test_a_lease_that_is_lost_meanwhile_ends_it(
        self, here: Rig, lease: Lease, publisher: Publisher
    ) -> None:
        def lose() -> None:
            supersede(here, lease)
            raise LOST_ANSWER

        here.store.before("publish", lose, nth=1)

        with pytest.raises(AttemptAbandoned):
            publisher.publish(staged(here))
        assert here.head() == here.start
        assert here.store.calls("publish") == 1


class TestTrouble:
    @pytest.mark.parametrize("method", ["history", "publish"])
    def test_a_store_that_stays_away_uses_up_the_budget(
        self, here: Rig, publisher: Publisher, method: str
    ) -> None:
        here.store.before(method, raising(AWAY))
        started_at = here.clock.now()

        with pytest.raises(RetryableAttemptError) as raised:
            publisher.publish(staged(here))
        assert raised.value.code == Code.PUBLISH_FAILED
        assert raised.value.reason == "not published within 60 s: the store is away"
        assert here.clock.now() - started_at < here.budget.merge_s + 1
        assert here.head() == here.start
        assert outcomes(here) == ["failed"]

    def test_a_store_that_comes_back_in_time_is_used(self, here: Rig, publisher: Publisher) -> None:
        for nth in (1, 2, 3):
            here.store.before("history", raising(AWAY), nth=nth)

        assert publish(publisher, staged(here)) == here.head()

    def test_a_lease_that_is_lost_after_the_decision_publishes_nothing(
        self, here: Rig, lease: Lease, publisher: Publisher
    ) -> None:
        here.store.after("history", lambda: supersede(here, lease), nth=1)

        with pytest.raises(AttemptAbandoned) as raised:
            publisher.publish(staged(here))
        assert raised.value.code == Code.SUPERSEDED
        assert not here.store.calls("publish")
        assert here.head() == here.start

    @pytest.mark.parametrize("method", ["observe", "extend"])
    def test_without_a_confirmed_lease_nothing_is_published(
        self, here: Rig, publisher: Publisher, method: str
    ) -> None:
        here.queue.before(method, raising(QueueUnavailable("the queue is away")))

        with pytest.raises(RetryableAttemptError, match="the queue is away"):
            publisher.publish(staged(here))
        assert not here.store.calls("publish")
        assert here.head() == here.start

    def test_a_queue_that_comes_back_in_time_confirms(
        self, here: Rig, publisher: Publisher
    ) -> None:
        here.queue.before("observe", raising(QueueUnavailable("away")), nth=1)

        assert publish(publisher, staged(here)) == here.head()

    def test_no_merge_is_sent_that_could_outlast_the_lease(
        self, here: Rig, lease: Lease, publisher: Publisher
    ) -> None:
        timeouts: list[float] = []

        class Timing(Faulty):
            def __getattr__(self, name: str) -> object:
                found = super().__getattr__(name)
                if name != "publish":
                    return found

                def call(*args: object, timeout_s: float, **kwargs: object) -> object:
                    timeouts.append(timeout_s)
                    return found(*args, timeout_s=timeout_s, **kwargs)

                return call

        publisher._store = Timing(here.local_store).as_store()
        publish(publisher, staged(here))

        assert 0 < timeouts[0] <= lease.response_timeout_s * 0.9 < here.budget.merge_s

    def test_a_worker_that_must_end_does_not_wait(self, here: Rig, publisher: Publisher) -> None:
        here.shut_down.set()
        here.store.before("history", raising(AWAY))

        with pytest.raises(RetryableAttemptError):
            publisher.publish(staged(here))
        assert here.store.calls("history") == 1


class Racing(Faulty):
    """A store without compare-and-swap: what others publish during the merge becomes its parent."""

    def __init__(self, here: Rig) -> None:
        super().__init__(here.local_store)
        self._here = here

    def __getattr__(self, name: str) -> object:
        return self._publish if name == "publish" else super().__getattr__(name)

    def _publish(
        self, *args: str, source: CommitInfo, expected_head: str, **more: object
    ) -> object:
        foreign = put(self._here.local_store, {"data/foreign.txt": "theirs"})
        both = self._here.local_store.stage(REPOSITORY, foreign.id, "both")
        write(both, {"data/out.txt": "ours"})
        return self._here.local_store.publish(
            REPOSITORY,
            BRANCH,
            source=both.commit("both", {}),
            expected_head=foreign.id,
            metadata=cast("dict[str, str]", more["metadata"]),
            message="",
            timeout_s=5,
        )


def test_a_commit_that_slips_into_the_merge_is_told_loudly(here: Rig, publisher: Publisher) -> None:
    """Nothing of it is lost, but what was published is not what was staged."""
    publisher._store = Racing(here).as_store()

    with pytest.raises(TerminalAttemptError) as raised:
        publisher.publish(staged(here))
    assert raised.value.code == Code.LOST_RACE
    assert "another commit reached branch 'main'" in raised.value.reason
    assert outcomes(here) == ["lost_race"]
    assert "data/foreign.txt" in contents(here.local_store, here.head().id)


def supersede(here: Rig, lease: Lease) -> None:
    """Let another worker have the task."""
    here.local_queue.give_back(lease)
    with closing(here.another_queue("another")) as queue:
        assert queue.poll(FILES.name, count=1, wait_s=0)


def merge(here: Rig, content: CommitInfo, made: Publication) -> CommitInfo:
    """Publish as an earlier delivery did, or a merge that was thought lost."""
    head = here.head()
    return here.local_store.publish(
        REPOSITORY,
        BRANCH,
        source=content,
        expected_head=head.id,
        metadata=made.metadata(expected_head=head.id),
        message="Publish",
        timeout_s=5,
    )


class TestReplace:
    @pytest.fixture
    def older(self, here: Rig, lease: Lease) -> CommitInfo:
        """What an earlier delivery of the task left on the branch."""
        made = publication(lease, here, uuid="older").model_copy(
            update={"token": lease.token.model_copy(update={"poll_count": 0})}
        )
        return merge(here, staged(here, "older"), made)

    def test_it_has_exactly_our_content_on_top_of_theirs(
        self, here: Rig, publisher: Publisher, older: CommitInfo
    ) -> None:
        content = staged(here)

        merged = publish(publisher, content)

        assert here.head() == merged
        assert merged.parents[0] == older.id
        assert merged.tree == content.tree
        assert publisher.replaced
        assert outcomes(here) == ["replaced"]

    def test_without_changes_the_inputs_content_is_put_back(
        self, here: Rig, publisher: Publisher, older: CommitInfo
    ) -> None:
        merged = publish(publisher, here.start)

        assert merged.tree == here.start.tree
        assert merged.parents[0] == older.id

    def test_the_same_content_is_published_all_the_same(
        self, here: Rig, publisher: Publisher, older: CommitInfo
    ) -> None:
        """What is on the branch then is ours, and says so."""
        content = here.local_store.resolve(REPOSITORY, older.parents[1])

        merged = publish(publisher, content)

        assert merged.id != older.id
        assert merged.tree == older.tree

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_lost_answer_makes_no_second_one(
        self, here: Rig, publisher: Publisher, older: CommitInfo, when: str
    ) -> None:
        fault: Callable[..., None] = getattr(here.store, when)
        fault("publish", raising(LOST_ANSWER), nth=1)

        merged = publish(publisher, staged(here))

        assert here.head() == merged
        assert here.publications() == 2
        assert here.store.calls("replacement") == 1

    def test_what_others_made_of_it_is_not_replaced(
        self, here: Rig, publisher: Publisher, older: CommitInfo
    ) -> None:
        here.store.before("publish", lambda: put(here.local_store, {"data/x": "theirs"}), nth=1)

        with pytest.raises(TerminalAttemptError) as raised:
            publisher.publish(staged(here))
        assert raised.value.code == Code.HEAD_MOVED
        assert "data/x" in contents(here.local_store, here.head().id)


class TestUpload:
    @pytest.fixture
    def workspace(self, here: Rig, tmp_path: Path) -> Workspace:
        directory = tmp_path / "ws"
        directory.mkdir()
        workspace = Workspace(
            directory, store=here.local_store, repository=REPOSITORY, prefix="data"
        )
        workspace.download(
            here.start.id,
            limits=Limits(objects=10),
            threads=2,
            retry=self.retry(),
            check=lambda: None,
        )
        return workspace

    @pytest.fixture
    def stage(self, here: Rig) -> Stage:
        return here.store.as_store().stage(REPOSITORY, here.start.id, "stage")

    @staticmethod
    def retry() -> Retry:
        return Retry(
            StoreUnavailable,
            tries=3,
            first_s=1,
            cap_s=4,
            factor=2,
            clock=HastyClock(),
            stop=threading.Event(),
            check=lambda: None,
        )

    def send(self, here: Rig, workspace: Workspace, stage: Stage, **fields: object) -> None:
        check = cast("Callable[[], None]", fields.get("check", lambda: None))
        upload(
            workspace.changes(),
            workspace,
            stage,
            store=here.local_store,
            threads=2,
            retry=self.retry(),
            check=check,
        )

    def test_what_changed_is_on_the_stage_and_nothing_else(
        self, here: Rig, workspace: Workspace, stage: Stage
    ) -> None:
        (workspace.directory / "new").mkdir()
        (workspace.directory / "new/file").write_text("1")
        (workspace.directory / "in.txt").unlink()

        self.send(here, workspace, stage)

        commit = stage.commit("", {})
        assert contents(here.local_store, commit.id) == {
            "data/new/file": b"1",
            "other/kept.txt": b"kept",
        }
        assert here.store.calls("stage.write") == here.store.calls("stage.delete") == 1

    @pytest.mark.parametrize("method", ["stage.write", "stage.delete"])
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_calls_are_tried_again(
        self, here: Rig, workspace: Workspace, stage: Stage, method: str, when: str
    ) -> None:
        (workspace.directory / "in.txt").rename(workspace.directory / "moved.txt")
        fault: Callable[..., None] = getattr(here.store, when)
        fault(method, raising(AWAY), nth=1)

        self.send(here, workspace, stage)

        found = contents(here.local_store, stage.commit("", {}).id, "data/")
        assert found == {"data/moved.txt": b"input"}

    def test_a_file_that_grows_meanwhile_is_not_published(
        self, here: Rig, workspace: Workspace, stage: Stage
    ) -> None:
        path = workspace.directory / "out.txt"
        path.write_text("1")
        here.store.before("stage.write", lambda: path.write_text("1 and more"))

        with pytest.raises(RetryableAttemptError) as raised:
            self.send(here, workspace, stage)
        assert raised.value.code == Code.WORKSPACE_CHANGED
        assert "'out.txt'" in raised.value.reason

    def test_a_file_that_shrinks_meanwhile_is_not_published_and_not_sent_again(
        self, here: Rig, workspace: Workspace, stage: Stage
    ) -> None:
        """It looks like a connection that broke, and no other try would find more."""
        path = workspace.directory / "out.txt"
        path.write_text("1 and more")
        here.store.before("stage.write", lambda: path.write_text("1"))

        with pytest.raises(RetryableAttemptError) as raised:
            self.send(here, workspace, stage)
        assert raised.value.code == Code.WORKSPACE_CHANGED
        assert "'out.txt' changed in size" in raised.value.reason
        assert here.store.calls("stage.write") == 1

    def test_a_file_that_became_a_link_meanwhile_is_not_published(
        self, here: Rig, workspace: Workspace, stage: Stage
    ) -> None:
        path = workspace.directory / "out.txt"
        path.write_text("1")

        def swap() -> None:
            path.unlink()
            path.symlink_to("/etc/passwd")

        with pytest.raises(RetryableAttemptError) as raised:
            self.send(here, workspace, stage, check=swap)
        assert raised.value.code == Code.WORKSPACE_CHANGED

    def test_what_was_stored_damaged_is_stored_again(self, here: Rig, workspace: Workspace) -> None:
        (workspace.directory / "out.txt").write_text("text")
        beneath = here.local_store.stage(REPOSITORY, here.start.id, "stage")

        class Damaging(Faulty):
            tries = 0

            def __getattr__(self, name: str) -> object:
                found = super().__getattr__(name)
                if name != "write":
                    return found

                def call(key: str, source: object, size: int) -> object:
                    stored: ObjectInfo = found(key, source, size)
                    Damaging.tries += 1
                    damaged = {"checksum": "0" * 40} if Damaging.tries == 1 else {}
                    return stored.model_copy(update=damaged)

                return call

        self.send(here, workspace, cast("Stage", Damaging(beneath)))

        assert Damaging.tries == 2

    def test_it_stops_when_it_is_told_to(
        self, here: Rig, workspace: Workspace, stage: Stage
    ) -> None:
        (workspace.directory / "out.txt").write_text("1")

        with pytest.raises(InterruptedError):
            self.send(here, workspace, stage, check=raising(InterruptedError()))

    def test_it_stops_within_a_file(self, here: Rig, workspace: Workspace, stage: Stage) -> None:
        (workspace.directory / "out.txt").write_text("1")

        def stop_in_it() -> None:
            if here.store.calls("stage.write"):
                raise AttemptAbandoned(Code.CANCELLED, "another has it")

        with pytest.raises(AttemptAbandoned, match="another has it"):
            self.send(here, workspace, stage, check=stop_in_it)
        with pytest.raises(NothingToCommit):
            stage.commit("", {})


def test_a_moved_head_is_decided_about_anew(here: Rig, publisher: Publisher) -> None:
    """Whoever says that the branch moved may be wrong by the time it is looked at."""
    here.store.before("publish", raising(HeadMoved(BRANCH, here.start.id, None)), nth=1)

    assert publish(publisher, staged(here)) == here.head()
