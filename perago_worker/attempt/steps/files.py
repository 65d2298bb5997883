"""Steps that bring the workspace's files and check them before and after the body."""

from __future__ import annotations

from perago_worker.attempt.cache_entries import DISK_FULL
from perago_worker.attempt.cache_fill import CacheFill
from perago_worker.attempt.cache_use import CacheUse
from perago_worker.attempt.codes import Code
from perago_worker.attempt.context import Attempt
from perago_worker.attempt.manifest import Manifest
from perago_worker.attempt.meter import TransferMeter
from perago_worker.attempt.refresh import UnfitError
from perago_worker.attempt.removal import remove_tree
from perago_worker.attempt.shelf import Kept
from perago_worker.attempt.workspace import Fetched, Workspace
from perago_worker.errors import NotFound, RetryableAttemptError, StoreRefused
from perago_worker.events import CacheUsed, Transferred, WorkspaceBrought, WorkspaceNotKept
from perago_worker.guards import check_guardrails


def download(attempt: Attempt) -> None:
    """Bring the workspace's files at the input commit; where one is kept, what it lacks."""
    spec = attempt.definition.workspace
    assert spec is not None  # noqa: S101 -- the step is only in the lists of workspace tasks
    tools = attempt.tools
    use = CacheUse(tools.directories.cache) if tools.directories.cache.on else None
    attempt.workspace = Workspace(
        attempt.directory.workspace,
        store=tools.store,
        repository=attempt.input.repository,
        prefix=spec.prefix,
        meter=TransferMeter(
            attempt.lease, "download", listener=tools.listener, now=tools.clock.now
        ),
        cache=use,
    )
    attempt.leaving.callback(_keep, attempt, spec.prefix)
    started_at = tools.clock.now()
    try:
        fetched = _refreshed(attempt, spec.prefix) or _downloaded(attempt)
    finally:
        if use is not None:
            tools.listener.on_event(CacheUsed(attempt.lease, use.lookups, use.hit_bytes))
            _cache_files(attempt)
    size = sum(file.size for file in attempt.workspace.manifest.values())
    tools.listener.on_event(
        Transferred(
            attempt.lease,
            "download",
            objects=fetched.objects,
            bytes=fetched.bytes,
            seconds=tools.clock.now() - started_at,
            skipped_bytes=size - fetched.bytes,
        )
    )


def _refreshed(attempt: Attempt, prefix: str) -> Fetched | None:
    """Take a kept workspace and bring it up to date; None when there is none that can be used."""
    tools, repository = attempt.tools, attempt.input.repository
    commit = attempt.input_commit.id
    kept = tools.directories.shelf.take(repository=repository, prefix=prefix, commit=commit)
    if kept is None:
        tools.listener.on_event(WorkspaceBrought(attempt.lease, "cold"))
        return None
    try:
        kept.directory.rename(attempt.directory.workspace)  # which is empty
        fetched = attempt.workspace.refresh(
            kept,
            commit,
            limits=tools.settings.limits,
            threads=tools.settings.transfer_threads,
            retry=attempt.retry,
            check=attempt.stop.check,
        )
    except (UnfitError, NotFound, StoreRefused, RetryableAttemptError, OSError) as error:
        # Whatever is wrong with the commit, a download says it better.
        tools.listener.on_event(WorkspaceBrought(attempt.lease, "unfit", _words(error)))
        remove_tree(kept.directory)
        _make_empty(attempt)
        return None
    finally:
        if kept.seal is not None:
            kept.seal.end()
    tools.listener.on_event(WorkspaceBrought(attempt.lease, "warm"))
    return fetched


def _downloaded(attempt: Attempt) -> Fetched:
    """Download everything; where the disk is full, once more without what is kept on it."""
    try:
        return _download(attempt)
    except OSError as error:
        if error.errno not in DISK_FULL or not attempt.tools.directories.make_room():
            raise
        _make_empty(attempt)
        return _download(attempt)


def _download(attempt: Attempt) -> Fetched:
    settings = attempt.tools.settings
    return attempt.workspace.download(
        attempt.input_commit.id,
        limits=settings.limits,
        threads=settings.transfer_threads,
        retry=attempt.retry,
        check=attempt.stop.check,
    )


def _make_empty(attempt: Attempt) -> None:
    directory = attempt.directory.workspace
    remove_tree(directory)
    directory.mkdir(mode=0o700)


def _keep(attempt: Attempt, prefix: str) -> None:
    """Keep the workspace of an attempt that went well: it holds what its output commit holds."""
    if attempt.output_ref is None:
        return
    unchanged = attempt.code in {Code.NO_OP, Code.READ_ONLY}
    kept = Kept(
        directory=attempt.directory.workspace,
        repository=attempt.input.repository,
        prefix=prefix,
        commit=attempt.input_commit.id if unchanged else attempt.output_ref,
        manifest=_manifest_after(attempt),
        markers=frozenset(attempt.workspace.markers),
    )
    try:
        reason = attempt.tools.directories.shelf.put(kept)
    except OSError as error:  # the next attempt downloads, that is all
        reason = _words(error)
    if reason:
        attempt.tools.listener.on_event(WorkspaceNotKept(attempt.lease, reason))


def _cache_files(attempt: Attempt) -> None:
    """Have whoever needs the same objects next find them on the disk.

    Those that were read are added while the attempt goes on, those it published at its end.
    """
    cache = attempt.tools.directories.cache
    if not cache.on:
        return
    fill = CacheFill(cache, attempt.directory.workspace, stop=attempt.tools.shut_down)
    fill.start(attempt.workspace.brought)
    attempt.leaving.callback(_finish, attempt, fill)


def _finish(attempt: Attempt, fill: CacheFill) -> None:
    """Add the rest; the attempt is reported, and a worker that drains does not wait for this."""
    fill.finish(stop=attempt.tools.draining)
    if attempt.output_ref is not None:
        fill.add(attempt.uploaded)


def _manifest_after(attempt: Attempt) -> Manifest:
    """Return what the workspace holds once its changes are published."""
    manifest = dict(attempt.workspace.manifest)
    if attempt.changes is not None:
        for path in attempt.changes.deleted:
            manifest.pop(path, None)
        manifest.update(attempt.uploaded)
    return manifest


def _words(error: Exception) -> str:
    """Return what an error says, without the path it is about."""
    return (error.strerror or "") if isinstance(error, OSError) else str(error)


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
