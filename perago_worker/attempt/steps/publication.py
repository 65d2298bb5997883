"""Steps from what the body left behind to a commit on the branch."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress

from perago_worker.attempt.codes import Code
from perago_worker.attempt.context import Attempt
from perago_worker.attempt.publish import upload
from perago_worker.errors import NothingToCommit, StoreError, StoreUnavailable
from perago_worker.events import StageLeft, Transferred
from perago_worker.models.publication import MAX_RECORDED_RESULT_BYTES
from perago_worker.ports import Stage


def changes(attempt: Attempt) -> None:
    """Find out what the body changed."""
    attempt.changes = attempt.workspace.changes()


def stage(attempt: Attempt) -> None:
    """Put the changes on a hidden branch and freeze them as a commit."""
    if not attempt.changes:
        return
    _record_result(attempt)
    tools = attempt.tools
    opened = _open_stage(attempt)
    started_at = tools.clock.now()
    upload(
        attempt.changes,
        attempt.workspace,
        opened,
        store=tools.store,
        threads=tools.settings.transfer_threads,
        retry=attempt.retry,
        check=attempt.stop.check,
    )
    publication = attempt.publication
    with suppress(NothingToCommit):  # files were rewritten with what they held
        attempt.staged = attempt.retry(
            opened.commit,
            f"Stage {publication.lineage}",
            publication.metadata(expected_head=publication.input_ref),
        )
    written = attempt.changes.written.values()
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


def _record_result(attempt: Attempt) -> None:
    """Let the publication carry a small result, so that a later attempt may adopt it."""
    if not attempt.tools.settings.record_result:
        return
    result = json.dumps(attempt.result, separators=(",", ":"), ensure_ascii=False)
    if len(result.encode()) <= MAX_RECORDED_RESULT_BYTES:
        attempt.publication = attempt.publication.model_copy(update={"result": result})


def _open_stage(attempt: Attempt) -> Stage:
    """Open a stage under a new name at every try: one whose answer was lost may exist, too."""

    def open_new() -> Stage:
        name = stage_name(attempt)
        attempt.leaving.callback(_drop, attempt, name)
        return attempt.tools.store.stage(attempt.input.repository, attempt.input_commit.id, name)

    return attempt.retry(open_new)


def stage_name(attempt: Attempt) -> str:
    """Return a new name for a stage: the same beginning for all attempts at the same work."""
    work = f"{attempt.lease.lineage} {attempt.input_commit.id}"
    digest = hashlib.sha256(work.encode()).hexdigest()[:20]
    return f"perago-{digest}-r{attempt.lease.retry_count}-{os.urandom(4).hex()}"


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
    """Make the staged commit the branch's head, or make sure that there is nothing to publish."""
    if attempt.staged is None:
        attempt.retry(attempt.publisher().check_head)
        attempt.code, attempt.output_ref = Code.NO_OP, attempt.input.ref
        return
    merged = attempt.publisher().publish(attempt.staged)
    attempt.code, attempt.output_ref = Code.PUBLISHED, merged.id
