"""Steps that bring the workspace's files and check them before and after the body."""

from __future__ import annotations

from perago_worker.attempt.context import Attempt
from perago_worker.attempt.workspace import Workspace
from perago_worker.events import Transferred
from perago_worker.guards import check_guardrails


def download(attempt: Attempt) -> None:
    """Bring the workspace's files at the input commit."""
    spec = attempt.definition.workspace
    assert spec is not None  # noqa: S101 -- the step is only in the lists of workspace tasks
    tools = attempt.tools
    attempt.workspace = Workspace(
        attempt.directory.workspace,
        store=tools.store,
        repository=attempt.input.repository,
        prefix=spec.prefix,
    )
    started_at = tools.clock.now()
    attempt.workspace.download(
        attempt.input_commit.id,
        limits=tools.settings.limits,
        threads=tools.settings.transfer_threads,
        retry=attempt.retry,
        check=attempt.stop.check,
    )
    files = attempt.workspace.manifest.values()
    tools.listener.on_event(
        Transferred(
            attempt.lease,
            "download",
            objects=len(files),
            bytes=sum(file.size for file in files),
            seconds=tools.clock.now() - started_at,
        )
    )


def pre_guards(attempt: Attempt) -> None:
    """Check what the body needs to find."""
    spec = attempt.definition.workspace
    if spec is not None:
        check_guardrails(attempt.directory.workspace, spec.pre, "pre")


def post_guards(attempt: Attempt) -> None:
    """Check what the body left."""
    spec = attempt.definition.workspace
    if spec is not None:
        check_guardrails(attempt.directory.workspace, spec.post, "post")
