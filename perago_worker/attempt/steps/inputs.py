"""Steps before anything is moved: is the input valid, does it exist, could its result be published?"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from perago_worker.attempt.codes import Code
from perago_worker.attempt.complaints import complaints
from perago_worker.attempt.context import Attempt
from perago_worker.errors import TaskDefinitionError, TerminalAttemptError
from perago_worker.models import Publication, WorkspaceInput


def receive(attempt: Attempt) -> None:
    """Validate the task's input, before anything is asked of a server."""
    raw = attempt.lease.input
    if attempt.definition.has_workspace:
        attempt.input = _read_workspace(raw)
    attempt.params = _read_params(raw, attempt)
    attempt.params_digest = _digest(attempt.params)
    attempt.directory = attempt.leaving.enter_context(attempt.tools.directories.attempt())


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
    """Find the commit that the input names."""
    attempt.input_commit = attempt.retry(
        attempt.tools.store.resolve, attempt.input.repository, attempt.input.ref
    )


def precheck(attempt: Attempt) -> None:
    """Find out whether the attempt could publish at all, before hours of work."""
    lease = attempt.lease
    attempt.publication = Publication(
        uuid=str(uuid.uuid4()),
        workflow_id=lease.workflow_id,
        task_id=lease.task_id,
        lineage=str(lease.lineage),
        token=lease.token,
        input_ref=attempt.input_commit.id,
        params_digest=attempt.params_digest,
    )
    attempt.retry(attempt.publisher().check_head)
