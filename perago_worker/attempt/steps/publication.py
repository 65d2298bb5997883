"""Steps from what the body left behind to a commit on the branch."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import suppress

from perago_worker.attempt.codes import Code
from perago_worker.attempt.context import Attempt
from perago_worker.attempt.keys import show
from perago_worker.attempt.meter import TransferMeter
from perago_worker.attempt.stage_name import StageName
from perago_worker.attempt.upload import upload
from perago_worker.errors import NothingToCommit, StoreError, StoreUnavailable
from perago_worker.events import StageLeft, Transferred
from perago_worker.models import Publication
from perago_worker.models.publication import MAX_RECORDED_RESULT_BYTES
from perago_worker.ports import Stage

SENTINEL_FOLDER = "_perago/heads"
"""Where sentinels are, one for each branch."""


def changes(attempt: Attempt) -> None:
    """Find out what the body changed."""
    attempt.changes = attempt.workspace.changes()


def stage(attempt: Attempt) -> None:
    """Put the changes on a hidden branch and freeze them as a commit."""
    if not attempt.changes:
        return
    attempt.publication = _settled(attempt)
    tools = attempt.tools
    opened = _open_stage(attempt)
    started_at = tools.clock.now()
    written = attempt.changes.written.values()
    meter = TransferMeter(attempt.lease, "upload", listener=tools.listener, now=tools.clock.now)
    meter.expect(len(written), sum(written))
    attempt.uploaded = upload(
        attempt.changes,
        attempt.workspace,
        opened,
        store=tools.store,
        threads=tools.settings.transfer_threads,
        retry=attempt.retry,
        check=attempt.stop.check,
        meter=meter,
    )
    if tools.settings.sentinel and attempt.fence == "verify":
        attempt.retry(_write_sentinel, attempt, opened)
    publication = attempt.publication
    with suppress(NothingToCommit):  # files were rewritten with what they held
        attempt.staged = attempt.retry(
            opened.commit,
            f"Stage {attempt.lease.task_type} of workflow {attempt.lease.workflow_id}",
            publication.metadata(expected_head=publication.input_ref),
        )
    if attempt.changes.deleted:
        _verify_deletions(attempt, attempt.changes.deleted)
    tools.listener.on_event(
        Transferred(
            attempt.lease,
            "upload",
            objects=len(written),
            bytes=sum(written),
            seconds=tools.clock.now() - started_at,
            skipped_bytes=attempt.changes.kept_bytes,
        )
    )


def _verify_deletions(attempt: Attempt, deleted: Sequence[str]) -> None:
    """Make sure that what was deleted is not in the staged commit; uploads are verified already.

    A store answers alike whether a deletion did anything, so the commit itself is asked: in one
    call.

    Raises:
        StoreUnavailable: Something is still there.
    """
    workspace, staged = attempt.workspace, attempt.staged

    def gone() -> set[str]:
        if staged is None:
            return set()
        store, base = attempt.tools.store, attempt.input_commit.id
        changes = store.changes(attempt.input.repository, base, staged.id, workspace.prefix)
        return {change.key for change in changes if change.now is None}

    missing = {workspace.key(path) for path in deleted} - attempt.retry(gone)
    if missing:
        raise StoreUnavailable(f"object {show(min(missing))} was deleted and is still there")


def _settled(attempt: Attempt) -> Publication:
    """Return the publication with what was not known before the body: its result, if it is small.

    And with the token of the newest delivery: the task may have been delivered again meanwhile.
    """
    result = None
    if attempt.tools.settings.record_result:
        text = json.dumps(attempt.result, separators=(",", ":"), ensure_ascii=False)
        result = text if len(text.encode()) <= MAX_RECORDED_RESULT_BYTES else None
    return attempt.publication.model_copy(update={"result": result, "token": attempt.lease.token})


def _write_sentinel(attempt: Attempt, stage: Stage) -> None:
    """Write bytes that no other publication writes where every publication writes.

    Two that race then conflict, where nothing better keeps them apart.
    """
    content = f"{attempt.publication.uuid}\n".encode()
    key = f"{SENTINEL_FOLDER}/{attempt.input.branch}"
    stage.write(key, io.BytesIO(content), len(content))


def _open_stage(attempt: Attempt) -> Stage:
    """Open a stage under a new name at every try: one whose answer was lost may exist, too."""

    def open_new() -> Stage:
        name = _name_stage(attempt)
        return attempt.tools.store.stage(attempt.input.repository, attempt.input_commit.id, name)

    return attempt.retry(open_new)


def _name_stage(attempt: Attempt) -> str:
    """Return a new name for a stage, to be dropped at the end whether it was made or not."""
    created_at = attempt.tools.clock.time()
    name = str(StageName.new(attempt.lease, attempt.input_commit.id, created_at=created_at))
    attempt.leaving.callback(_drop, attempt, name)
    return name


def _drop(attempt: Attempt, name: str) -> None:
    """Remove a stage, best effort: the attempt has been reported, and stages can be swept later."""
    tools = attempt.tools
    for wait_s in (0.5, 2.0, None):
        try:
            tools.store.drop_stage(attempt.input.repository, name)
        except StoreUnavailable:
            if wait_s is None or tools.clock.wait(tools.shut_down, wait_s):
                break
        except StoreError:
            break
        else:
            return
    tools.listener.on_event(StageLeft(attempt.lease, attempt.input.repository, name))


def publish(attempt: Attempt) -> None:
    """Make the staged content the branch's, or make sure that there is nothing to publish.

    Without changes the branch has to hold what the input holds: it does, unless an earlier attempt
    published and was not heard of; then the input's content is put back on top of it.
    """
    attempt.publication = _settled(attempt)
    publisher = attempt.publisher(new_stage_name=lambda: _name_stage(attempt))
    merged = publisher.publish(attempt.staged or attempt.input_commit)
    if merged is None:
        attempt.code, attempt.output_ref = Code.NO_OP, attempt.input.ref
    else:
        attempt.code = Code.REPLACED if publisher.replaced else Code.PUBLISHED
        attempt.output_ref = merged.id
