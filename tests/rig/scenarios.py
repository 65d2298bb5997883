"""Short stories of two attempts, each with the one turn that a part of the protocol exists for.

Every function plays its story in a world of its own and raises `AssertionError` when it does not
end as it must; what must hold in every story is the judge's.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from perago_worker.adapters.local.store import LocalStore
from perago_worker.adapters.local.store_stage import LocalStage
from perago_worker.models import CommitInfo, ObjectInfo
from tests.rig.bodies import KINDS, Deed
from tests.rig.crew import Running
from tests.rig.invariants import Judge
from tests.rig.machine import Places
from tests.rig.stepping import Fate, Stepper
from tests.rig.world import World
from tests.support import REPOSITORY, contents, put, write

KIND = KINDS[0]
FOLDER = "a/"
EXPIRES_S = 61


@contextmanager
def told(deeds: list[Deed] | None = None) -> Iterator[tuple[World, Judge]]:
    """Offer a world with one task, and judge it at the end, at rest."""
    world = Places.new_world()
    judge = Judge(world)
    try:
        world.submit(KIND, deeds or ["write"])
        yield world, judge
        assert world.settle(), "the task does not end"
        judge.check_end()
    finally:
        world.close()


def begin(world: World, worker: int = 0, **fields: Any) -> Running:
    """Let a worker take the task."""
    (running,) = world.worker(worker).poll(KIND, **fields)
    return running


def status(world: World) -> tuple[str, str]:
    """Return the newest task's status and the first word of its reason."""
    task = world.tasks()[-1]
    return task.status, task.reason.partition(":")[0]


# --- leases ---------------------------------------------------------------------------------------


def delivered_twice_to_one_name() -> None:
    """Two processes under one id: only the poll count tells their deliveries apart."""
    with told() as (world, judge):
        world.worker(0, name="same")
        world.worker(1, name="same")
        first = begin(world)
        first.run("body", Fate.GO)
        world.redeliver(KIND)
        begin(world, 1)
        first.stepper.finish()
        judge.check(world.tasks())
        assert world.head() == world.start, "the superseded delivery has published"


def rerun_within_a_millisecond() -> None:
    """Run again at the very moment of its first delivery: only the worker's id tells."""
    with told() as (world, judge):
        first = begin(world)
        first.run("body", Fate.GO)
        world.rerun(world.tasks()[0])
        begin(world, 1, after_s=0.0)
        first.stepper.finish()
        judge.check(world.tasks())
        assert world.head() == world.start, "the superseded delivery has published"


def rerun_by_the_same_name() -> None:
    """Run again by a process of the same id, first delivery again: only the start time tells."""
    with told() as (world, judge):
        world.worker(0, name="same")
        world.worker(1, name="same")
        first = begin(world)
        first.run("body", Fate.GO)
        world.rerun(world.tasks()[0])
        begin(world, 1, after_s=1.0)
        first.stepper.finish()
        judge.check(world.tasks())
        assert world.head() == world.start, "the superseded delivery has published"


def lease_lost_before_the_merge() -> None:
    """The lease ends after the stage is ready, and somebody else is at work."""
    with told() as (world, judge):
        first = begin(world)
        first.run("commit", Fate.GO)
        world.clock.advance(EXPIRES_S)
        begin(world, 1).run("body", Fate.GO)
        first.stepper.finish()
        judge.check(world.tasks())
        assert world.head() == world.start, "the superseded attempt has published"


def workflow_ended_under_the_body() -> None:
    """A heartbeat finds out, and the attempt does no more work."""
    with told() as (world, _):
        first = begin(world)
        first.stepper.run_to("body")
        world.operator.terminate_workflow(world.tasks()[0].workflow_id, "not wanted")
        first.beat()
        assert not first.stepper.run_to("stage"), "the attempt goes on with a lease that is lost"


def heartbeat_beside_the_report() -> None:
    """A heartbeat that is due while the report is sent must not be under way when it arrives."""
    with told() as (world, _):
        first = begin(world)
        first.stepper.run_to("complete")
        keeper = first.attempt.keeper
        beat = Stepper(lambda: keeper.beat(due=0.0))
        beat.run_to("extend")
        first.stepper.finish()
        beat.finish()


# --- publishing -----------------------------------------------------------------------------------


class SlippingStore(LocalStore):
    """A store that cannot compare and swap, in whose merges somebody else's commit slips in."""

    def __init__(self, world: World) -> None:
        super().__init__(world.root / "store")
        self._plain = world.store

    def publish(self, repository: str, branch: str, **fields: Any) -> CommitInfo:
        """Merge on top of a commit that was made within the call."""
        head = put(self._plain, {"other/slipped.txt": "in"})
        stage = self.stage(repository, head.id, "slipped")
        write(stage, contents(self, fields["source"].id, FOLDER))
        source = stage.commit("merge", {})
        self.drop_stage(repository, "slipped")
        fields.update(source=source, expected_head=head.id)
        return super().publish(repository, branch, **fields)


def commit_slipped_into_the_merge() -> None:
    """A store without compare-and-swap lets one through: the attempt says so, and has failed."""
    world = Places.new_world()
    try:
        world.store = SlippingStore(world)
        world.submit(KIND, ["write"])
        begin(world).stepper.finish()
        assert status(world) == ("FAILED_WITH_TERMINAL_ERROR", "lost_race")
    finally:
        world.close()


def rerun_below_another_workflow() -> None:
    """Another workflow has built on the output: running the first again must not undo its work."""
    with told() as (world, judge):
        begin(world).stepper.finish()
        world.submit(KIND, ["write"])
        begin(world).stepper.finish()
        world.rerun(world.tasks()[0])
        begin(world).stepper.finish()
        judge.check(world.tasks())
        assert world.tasks()[0].status == "FAILED_WITH_TERMINAL_ERROR"


def death_before_the_merge() -> None:
    """The stage of a worker that died is in nobody's way."""
    with told() as (world, _):
        begin(world).run("publish", Fate.DIE_BEFORE)
        world.clock.advance(EXPIRES_S)
        begin(world, 1).stepper.finish()
        assert status(world)[0] == "COMPLETED"


def nothing_left_of_a_good_attempt() -> None:
    """An attempt that ends by itself leaves nothing to be swept."""
    with told() as (world, _):
        begin(world).stepper.finish()
        assert world.store.stages(REPOSITORY) == []


def merge_landed_without_an_answer() -> None:
    """It is found on the branch, and the task completes by this same attempt."""
    with told() as (world, _):
        first = begin(world)
        first.run("publish", Fate.LOSE_ANSWER)
        first.stepper.finish()
        assert [task.status for task in world.tasks()] == ["COMPLETED"]
        assert len(world.history()) == 2


def merge_that_never_arrived() -> None:
    """It is not found on the branch, and sent again."""
    with told() as (world, judge):
        first = begin(world)
        first.run("publish", Fate.LOSE_CALL)
        first.stepper.finish()
        judge.check(world.tasks())
        assert [task.status for task in world.tasks()] == ["COMPLETED"]


def merge_that_arrives_late() -> None:
    """Somebody else has committed meanwhile: the late merge changes nothing."""
    with told() as (world, judge):
        begin(world).run("publish", Fate.HOLD)
        world.commit_foreign("a")
        world.release(0)
        judge.check(world.tasks())


# --- adoption and running again -------------------------------------------------------------------


def other_parameters_on_the_retry() -> None:
    """A result of other parameters is not what this attempt would work for."""
    with told() as (world, judge):
        begin(world).run("complete", Fate.DIE_BEFORE)
        world.clock.advance(EXPIRES_S)
        world.operator.depth(KIND.name)  # lets the timeout take effect
        world.change_orders(world.tasks()[-1].task_id, ["same"])
        begin(world, 1).stepper.finish()
        judge.check(world.tasks())
        assert status(world)[0] == "COMPLETED"


def rerun_of_a_completed_task() -> None:
    """Somebody wants it run again, so its body runs again."""
    with told() as (world, _):
        begin(world).stepper.finish()
        world.rerun(world.tasks()[0])
        begin(world).stepper.finish()
        assert status(world)[0] == "COMPLETED"
        assert len(world.bodies.runs) == 2, "the body did not run again"


def rerun_that_changes_nothing() -> None:
    """What the first run published is not what the second one says: it goes."""
    with told(["write", "nothing"]) as (world, judge):
        begin(world).stepper.finish()
        world.rerun(world.tasks()[0])
        begin(world).stepper.finish()
        assert status(world)[0] == "COMPLETED"
        assert judge.tree(world.head_id()) == judge.tree(world.start.id)


# --- contents -------------------------------------------------------------------------------------


class HostileStore(LocalStore):
    """A store that lists an object whose key leads out of the workspace."""

    def list(self, repository: str, commit: str, prefix: str) -> Iterator[ObjectInfo]:
        """List it after the others."""
        yield from super().list(repository, commit, prefix)
        yield ObjectInfo(key=f"{prefix}../escaped.txt", size=0, checksum="", verifiable=False)

    def read(
        self,
        repository: str,
        commit: str,
        key: str,
        into: BinaryIO,
        *,
        start: int = 0,
        size: int | None = None,
        listed_size: int | None = None,
    ) -> int:
        """Read nothing from it."""
        if key.endswith("escaped.txt"):
            return 0
        return super().read(
            repository, commit, key, into, start=start, size=size, listed_size=listed_size
        )


def key_that_leads_out() -> None:
    """It is refused by name, and nothing is written outside of the workspace."""
    with told() as (world, _):
        world.store = HostileStore(world.root / "store")
        running = begin(world)
        reached = running.stepper.run_to("body")
        outside = running.attempt.directory.workspace.parent / "escaped.txt"
        assert not outside.exists(), "a file was written outside of the workspace"
        assert not reached, "the body was given a workspace with a file missing"
        assert status(world) == ("FAILED_WITH_TERMINAL_ERROR", "key_refused")
        world.store = LocalStore(world.root / "store")


class DamagingStage:
    """A stage that stores the first object wrong, and says what it stored."""

    def __init__(self, stage: LocalStage) -> None:
        self._stage = stage
        self._damaged = False

    def write(self, key: str, source: BinaryIO, size: int) -> ObjectInfo:
        """Store the object, the first one as something else."""
        data = source.read(size)
        if not self._damaged:
            self._damaged = True
            data = b"?" * size
        return self._stage.write(key, io.BytesIO(data), size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)


class DamagingStore(LocalStore):
    """A store with such stages."""

    def stage(self, repository: str, base: str, name: str) -> Any:
        """Open one."""
        return DamagingStage(super().stage(repository, base, name))


def object_stored_damaged() -> None:
    """It is noticed and stored again; what is published is what the body wrote."""
    with told() as (world, judge):
        world.store = DamagingStore(world.root / "store")
        begin(world).stepper.finish()
        judge.check(world.tasks())
        assert status(world)[0] == "COMPLETED"
        world.store = LocalStore(world.root / "store")


ALL: tuple[Callable[[], None], ...] = (
    delivered_twice_to_one_name,
    rerun_within_a_millisecond,
    rerun_by_the_same_name,
    lease_lost_before_the_merge,
    workflow_ended_under_the_body,
    heartbeat_beside_the_report,
    commit_slipped_into_the_merge,
    rerun_below_another_workflow,
    death_before_the_merge,
    nothing_left_of_a_good_attempt,
    merge_landed_without_an_answer,
    merge_that_never_arrived,
    merge_that_arrives_late,
    other_parameters_on_the_retry,
    rerun_of_a_completed_task,
    rerun_that_changes_nothing,
    key_that_leads_out,
    object_stored_damaged,
)
"""Every story."""
