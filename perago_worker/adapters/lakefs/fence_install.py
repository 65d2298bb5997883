"""Put the fence into a repository, for the commands that administer it.

The action is committed on a hidden branch and merged, as anybody would bring in a change: nobody's
uncommitted work is committed along, hooks of others are asked, and protected branches allow it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from perago_worker.adapters.lakefs.fence import ACTION, ACTION_PATH
from perago_worker.adapters.lakefs.fence_level import (
    drop_probe,
    find_action,
    is_action,
    probe_name,
)
from perago_worker.adapters.lakefs.mapping import DIRTY_BRANCH, Answered, Failure, publish_error
from perago_worker.errors import NotFound, StoreError, StoreRefused
from perago_worker.models import CommitInfo
from perago_worker.ports import WorkspaceStore

if TYPE_CHECKING:  # loading the SDK takes a second; see `LakeFSStore`
    from perago_worker.adapters.lakefs.api import Api

MESSAGE = "Fence publications\n\nThey are merged only on the head that they were made for."

MAX_SHOWN_BYTES = 64 * 1024
"""An action is some hundred bytes; what is larger is not shown."""


@dataclass(frozen=True)
class Found:
    """What is at the place of the action.

    Attributes:
        state: `absent`: nothing; `installed`: our action; `other`: an older one, or somebody's.
        content: Text of another file, as far as it is one and not too large.
        size: Bytes.
    """

    state: Literal["absent", "installed", "other"]
    content: str = ""
    size: int = 0


def look(store: WorkspaceStore, repository: str, commit: str) -> Found:
    """Return what a commit holds at the place of the action."""
    found = find_action(store, repository, commit)
    if found is None:
        return Found("absent")
    if is_action(store, repository, commit, found):
        return Found("installed", ACTION, found.size)
    if found.size > MAX_SHOWN_BYTES:
        return Found("other", "", found.size)
    content = io.BytesIO()
    store.read(repository, commit, ACTION_PATH, content)
    return Found("other", content.getvalue().decode(errors="replace"), found.size)


def install(
    store: WorkspaceStore,
    api: Api,
    repository: str,
    branch: str,
    *,
    head: CommitInfo,
    timeout_s: float,
) -> CommitInfo:
    """Merge our action into a branch and return the merge.

    Args:
        store: The store whose calls `api` makes.
        api: For the merge.
        repository: Its name, known to exist.
        branch: Its name, known to exist.
        head: The branch's head when it was looked at. It may have moved: this is a change like
            any other, and only another change of the same file is in its way.
        timeout_s: Request timeout of the merge.

    Raises:
        HeadMoved: Somebody else changed the action meanwhile.
        StoreRefused: Somebody has uncommitted changes on the branch, or another hook refuses.
        PublishUnknown: No answer came to the merge. Look again.
    """
    name = probe_name()
    try:
        stage = store.stage(repository, head.id, name)
        stage.write(ACTION_PATH, io.BytesIO(ACTION.encode()), len(ACTION.encode()))
        commit = stage.commit(MESSAGE, {})
        merge = api.merge(
            repository,
            commit.id,
            branch,
            message=MESSAGE,
            metadata={},
            allow_empty=False,
            timeout_s=timeout_s,
            into=partial(_merge_error, repository=repository, branch=branch, head=head.id),
        )
    finally:
        drop_probe(store, repository, name)
    return store.resolve(repository, merge)


def _merge_error(failure: Failure, *, repository: str, branch: str, head: str) -> StoreError:
    if isinstance(failure, Answered) and failure.status == 400 and DIRTY_BRANCH in failure.message:
        where = f"lakefs://{repository}/{branch}"
        return StoreRefused(
            f"branch {branch!r} of {repository!r} has uncommitted changes, and lakeFS merges into "
            "no such branch. It was not changed. Have their owner commit them (lakectl commit "
            f"{where}) or drop them (lakectl branch reset {where}), then install again"
        )
    return publish_error(
        failure,
        branch=branch,
        expected_head=head,
        doing=f"merging the fence into branch {branch!r} of {repository!r}",
        missing=partial(NotFound, "branch", branch),
    )
