"""Ways to break the product on purpose, each a thing that somebody might do in good faith.

Every function takes away one precaution, for as long as the patch it is given lasts. What they
replace is named in full, so that renaming it shows here at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pygit2
import pytest

from perago_worker.adapters.local import queue as local_queue
from perago_worker.adapters.local.store import LocalStore
from perago_worker.adapters.local.store_git import commit_info, find_commit
from perago_worker.adapters.local.store_stage import add_commit
from perago_worker.attempt import fence, layout, publish, upload, workspace
from perago_worker.attempt.codes import Code
from perago_worker.attempt.fence import Decision, PublishOn, Replace
from perago_worker.attempt.lease_keeper import BeatResult, LeaseKeeper
from perago_worker.attempt.manifest import FileState
from perago_worker.attempt.publish import Publisher
from perago_worker.attempt.stage_name import StageName
from perago_worker.attempt.steps import inputs, publication
from perago_worker.attempt.workspace import Workspace
from perago_worker.errors import PublishUnknown, TerminalAttemptError
from perago_worker.models import CommitInfo, Lease, ObjectInfo, Observation, Publication, Token
from perago_worker.ports import Stage, WorkspaceStore

Patch = pytest.MonkeyPatch


# --- the identity of a lease ----------------------------------------------------------------------


def _without(patch: Patch, lease_field: str, task_field: str) -> None:
    """Leave a field out of the comparison of a lease with the record."""
    original = local_queue._judge

    def judge(task: Any, lease: Lease, *, retried: bool) -> Observation:
        alike = lease.model_copy(update={lease_field: getattr(task, task_field)})
        return original(task, alike, retried=retried)

    patch.setattr(local_queue, "_judge", judge)


def no_poll_count(patch: Patch) -> None:
    """Compare all but the poll count."""
    _without(patch, "poll_count", "poll_count")


def no_start_time(patch: Patch) -> None:
    """Compare all but the start time."""
    _without(patch, "start_time_ms", "start_ms")


def no_worker_id(patch: Patch) -> None:
    """Compare all but the worker's id."""
    _without(patch, "worker_id", "worker_id")


# --- keeping a lease ------------------------------------------------------------------------------


def no_confirmation(patch: Patch) -> None:
    """Send the merge without asking for the lease once more."""
    patch.setattr(LeaseKeeper, "confirm", lambda _: None)


def loss_ignored(patch: Patch) -> None:
    """Extend the lease in heartbeats without looking whose it is."""

    def beat(self: LeaseKeeper, *, due: float) -> BeatResult:
        self._queue.extend(self._lease)
        return "held"

    patch.setattr(LeaseKeeper, "beat", beat)


def heartbeats_beside_the_report(patch: Patch) -> None:
    """Let heartbeats go on whatever else the attempt is writing."""

    def beat(self: LeaseKeeper, *, due: float) -> BeatResult:
        return self._observe_and_extend()[0]

    patch.setattr(LeaseKeeper, "beat", beat)


# --- deciding -------------------------------------------------------------------------------------


def always_on_the_head(patch: Patch) -> None:
    """Publish on whatever the branch is at."""

    def decide(chain: Sequence[CommitInfo], ours: Publication) -> Decision:
        return PublishOn(chain[0])

    patch.setattr(fence, "decide", decide)
    patch.setattr(publish, "decide", decide)


def no_order_of_deliveries(patch: Patch) -> None:
    """Take every delivery for newer than every other."""
    patch.setattr(Token, "__lt__", lambda *_: True)


def any_workflow_replaced(patch: Patch) -> None:
    """Take every workflow's publications for our own workflow's."""
    original = fence._decide_above

    def decide_above(head: CommitInfo, above: Sequence[CommitInfo], ours: Publication) -> Decision:
        claimed = {"perago-workflow-id": ours.workflow_id}
        alike = [
            commit.model_copy(update={"metadata": {**commit.metadata, **claimed}})
            for commit in above
        ]
        return original(head, alike, ours)

    patch.setattr(fence, "_decide_above", decide_above)


def any_parameters_adopted(patch: Patch) -> None:
    """Adopt a result without looking at what parameters it is of."""
    original = fence.adoptable

    def adoptable(found: Replace, ours: Publication, end_of: Any) -> bool:
        digest = found.publications[0].params_digest
        return original(found, ours.model_copy(update={"params_digest": digest}), end_of)

    patch.setattr(inputs, "adoptable", adoptable)


def reruns_adopted(patch: Patch) -> None:
    """Adopt what the same task published before it was run again on purpose."""
    original = fence.adoptable

    def adoptable(found: Replace, ours: Publication, end_of: Any) -> bool:
        token = found.publications[0].token
        return original(found, ours.model_copy(update={"token": token}), end_of)

    patch.setattr(inputs, "adoptable", adoptable)


# --- publishing -----------------------------------------------------------------------------------


def no_verification(patch: Patch) -> None:
    """Take a merge for what was asked for."""
    patch.setattr(Publisher, "_verify", lambda *_: None)


def unknown_is_failure(patch: Patch) -> None:
    """Give up when a merge was not answered."""
    original = Publisher._merge

    def merge(self: Publisher, *given: Any) -> CommitInfo:
        try:
            return original(self, *given)
        except PublishUnknown as unknown:
            raise TerminalAttemptError(Code.PUBLISH_FAILED, str(unknown)) from unknown

    patch.setattr(Publisher, "_merge", merge)


def unknown_is_success(patch: Patch) -> None:
    """Take a merge that was not answered for done."""
    original = Publisher._merge

    def merge(self: Publisher, source: CommitInfo, *given: Any) -> CommitInfo:
        try:
            return original(self, source, *given)
        except PublishUnknown:
            return source

    patch.setattr(Publisher, "_merge", merge)


def no_op_without_looking(patch: Patch) -> None:
    """Take the input for the output when the body changed nothing, whatever the branch holds."""
    original = Publisher.publish

    def publish_changes(self: Publisher, content: CommitInfo) -> CommitInfo | None:
        if content.id == self._publication.input_ref:
            return None
        return original(self, content)

    patch.setattr(Publisher, "publish", publish_changes)


def branch_reset(patch: Patch) -> None:
    """Put the branch where it is wanted, wherever it is."""

    def publish_by_force(
        self: LocalStore,
        repository: str,
        branch: str,
        *,
        source: CommitInfo,
        expected_head: str,
        metadata: dict[str, str],
        message: str,
        **_: object,
    ) -> CommitInfo:
        repo = self._repository(repository).open()
        staged = find_commit(repo, source.id)
        parents = [pygit2.Oid(hex=expected_head), staged.id]
        merge = add_commit(repo, staged.tree_id, parents, message, metadata)
        repo.references.create(f"refs/heads/{branch}", merge.id, force=True)
        return commit_info(merge)

    patch.setattr(LocalStore, "publish", publish_by_force)


# --- stages and files -----------------------------------------------------------------------------


def one_stage_name(patch: Patch) -> None:
    """Name the stage after the logical task alone."""
    original = StageName.new

    def new(lease: Lease, input_ref: str, *, created_at: float) -> StageName:
        name = original(lease, input_ref, created_at=0.0)
        return StageName(name.work, 0, 0, "task", "00000000")

    patch.setattr(StageName, "new", new)


def stages_kept(patch: Patch) -> None:
    """Forget the stage once it is published."""
    patch.setattr(publication, "_drop", lambda *_: None)


def any_key(patch: Patch) -> None:
    """Take keys for paths."""

    def place(self: Any, path: str, _: ObjectInfo) -> bool:
        (self._root / path).parent.mkdir(parents=True, exist_ok=True)
        return True

    patch.setattr(workspace, "relative_path", lambda key, prefix: key.removeprefix(prefix))
    patch.setattr(layout.Layout, "place", place)


def no_checksums(patch: Patch) -> None:
    """Take an object for stored once the store has answered."""

    def upload_file(
        path: str, size: int, found: Workspace, stage: Stage, _: WorkspaceStore
    ) -> FileState:
        with Path(found.directory / path).open("rb") as file, suppress(ValueError):
            stage.write(found.key(path), file, size)
        return FileState(size, 0, 0, 0, "")

    patch.setattr(upload, "_upload_file", upload_file)
