"""Steps before anything is moved: is the input valid, is it there, could a result be published?"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from perago_worker.attempt.codes import Code
from perago_worker.attempt.complaints import complaints
from perago_worker.attempt.context import Attempt
from perago_worker.attempt.fence import CHAIN_LIMIT, Replace, adoptable, short
from perago_worker.errors import QueueError, TaskDefinitionError, TerminalAttemptError
from perago_worker.models import CommitInfo, Publication, WorkspaceInput
from perago_worker.ports import FenceLevel


def receive(attempt: Attempt) -> None:
    """Validate the task's input, before anything is asked of a server."""
    raw = attempt.lease.input
    if attempt.definition.has_workspace:
        attempt.input = _read_workspace(raw)
    attempt.params = _read_params(raw, attempt)
    directories = attempt.tools.directories
    attempt.directory = attempt.leaving.enter_context(
        directories.attempt() if attempt.definition.has_workspace else directories.scratch()
    )


def _read_workspace(raw: Mapping[str, Any]) -> WorkspaceInput:
    try:
        return WorkspaceInput.model_validate(raw.get("workspace"))
    except (ValidationError, TaskDefinitionError) as error:
        raise TerminalAttemptError(
            Code.WORKSPACE_INVALID,
            f"the task input's 'workspace' is not valid: {complaints(error)}",
        ) from error


def _read_params(raw: Mapping[str, Any], attempt: Attempt) -> dict[str, Any]:
    params = raw.get("params")
    if not isinstance(params, dict):
        what = "is missing" if "params" not in raw else f"is a {type(params).__name__}"
        raise TerminalAttemptError(
            Code.PARAMS_INVALID, f"the task input's 'params' {what}; it must be a JSON object"
        )
    try:
        attempt.definition.validate_params(params)
    except ValueError as error:
        raise TerminalAttemptError(
            Code.PARAMS_INVALID, f"the task input's 'params' are not valid: {complaints(error)}"
        ) from error
    return params


def _digest(params: Mapping[str, Any]) -> str:
    canonical = json.dumps(params, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()


def find_input(attempt: Attempt) -> None:
    """Find the commit that the input names.

    Tasks that publish look at the branch first, since there it is in most cases, and one call then
    tells both what the input is and what has become of the branch.
    """
    attempt.chain = () if attempt.definition.read_only else attempt.retry(_read_chain, attempt)
    named = (commit for commit in attempt.chain if commit.id == attempt.input.ref)
    attempt.input_commit = next(named, None) or attempt.retry(
        attempt.tools.store.resolve, attempt.input.repository, attempt.input.ref
    )


def _read_chain(attempt: Attempt) -> Sequence[CommitInfo]:
    target = attempt.input
    return attempt.tools.store.history(
        target.repository, target.branch, limit=CHAIN_LIMIT, until=target.ref
    )


def precheck(attempt: Attempt) -> None:
    """Find out whether the attempt could publish at all, or need not, before hours of work."""
    attempt.fence = _checked_fence(attempt)
    lease = attempt.lease
    attempt.publication = Publication(
        uuid=str(uuid.uuid4()),
        workflow_id=lease.workflow_id,
        task_id=lease.task_id,
        lineage=str(lease.lineage),
        token=lease.token,
        input_ref=attempt.input_commit.id,
        params_digest=_digest(attempt.params),
    )
    allowed = attempt.publisher().decide(attempt.chain)
    if isinstance(allowed, Replace):
        attempt.leftover = allowed.head.id
        if attempt.tools.settings.adopt:
            _adopt_if_possible(attempt, allowed)


def _checked_fence(attempt: Attempt) -> FenceLevel:
    """Return how well the publication will be fenced; refuse when that is not well enough."""
    repository = attempt.input.repository
    level = attempt.retry(attempt.tools.store.fence_level, repository, attempt.input_commit.id)
    if level == "verify" and attempt.tools.settings.require_fence:
        raise TerminalAttemptError(
            Code.FENCE_MISSING,
            f"input commit {short(attempt.input_commit.id)} of '{repository}' has no fence, which "
            "publish.require_fence asks for; run 'perago-worker fence install' for the branch and "
            "start from its new head",
        )
    return level


def _adopt_if_possible(attempt: Attempt, found: Replace) -> None:
    """Take over what an earlier attempt published and could not report: its work is done."""
    try:
        if not adoptable(found, attempt.publication, attempt.tools.queue.ended):
            return
    except QueueError:
        return  # running the body again is always right, only slower
    (publication,) = found.publications
    try:
        result = attempt.definition.validate_result(json.loads(publication.result or ""))
    except ValueError:
        return  # recorded by another version of the task
    attempt.result = result
    attempt.code, attempt.output_ref = Code.ADOPTED, found.head.id
    attempt.done = True
