"""`WorkspaceStore` over lakeFS: reading commits, staging beside a branch, publishing by merge."""

from __future__ import annotations

import builtins
import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from perago_worker.adapters.lakefs.fence_level import FenceLevels
from perago_worker.adapters.lakefs.mapping import (
    PAGE,
    Answered,
    E,
    Failure,
    Page,
    ToError,
    change,
    commit_info,
    object_info,
    publish_error,
    shown,
    store_error,
)
from perago_worker.adapters.lakefs.settings import LakeFSSettings
from perago_worker.adapters.lakefs.stage import LakeFSStage
from perago_worker.adapters.tls import TlsFileError, check_files
from perago_worker.errors import (
    ConfigError,
    ConfigProblem,
    NotFound,
    PublishUnknown,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from perago_worker.events import Listener
from perago_worker.models import Change, CommitInfo, ObjectInfo
from perago_worker.models.publication import EXPECTED_HEAD
from perago_worker.ports import Digest, FenceLevel, Stage

if TYPE_CHECKING:  # loading the SDK takes its time; see `LakeFSStore`
    from perago_worker.adapters.lakefs.api import Api

FIRST_LOOK = 4
"""Commits read at first in search of one: most often it is the branch's head, or what a retry finds
below a publication of its own. Reading 200 takes ten times as long."""

STAGE_PREFIX = "perago-"
"""What the names of our stages begin with."""

# Names go into paths and references, where `..`, `~1` and `@` would mean something else.
# Source: lakeFS, pkg/validator.
_REPOSITORY = re.compile(r"[a-z0-9][a-z0-9-]{2,62}")
_BRANCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_COMMIT = re.compile(r"[0-9a-f]{1,64}")


class LakeFSStore:
    """`WorkspaceStore` over one lakeFS server.

    Nothing is loaded or connected before the first call: lakefs-sdk takes a part of a second to
    load, which a worker can spend while it polls. `ping` does it early.
    """

    def __init__(self, settings: LakeFSSettings, *, listener: Listener | None = None) -> None:
        self._settings = settings
        self._listener = listener
        self._connecting = threading.Lock()
        self._connected: Api | None = None
        self._fence_levels = FenceLevels(self, timeout_s=settings.request_timeout_s)

    @classmethod
    def open(cls, settings: LakeFSSettings, *, listener: Listener | None = None) -> LakeFSStore:
        """Return a store over the server that `settings` name. Makes no call.

        `listener` is told of every request.

        Raises:
            ConfigError: A file with certificates or a key cannot be used.
        """
        try:
            check_files(settings.tls)
        except TlsFileError as problem:
            where, key = str(problem.file), f"store.{problem.key}"
            raise ConfigError([ConfigProblem(where, key, problem.message)]) from problem
        return cls(settings, listener=listener)

    def ping(self) -> None:
        """Ask the server who we are, which proves the credentials too."""
        missing = partial(StoreUnavailable, "lakeFS does not know the call for who we are")
        self._api.whoami(into=partial(store_error, doing="asking who we are", missing=missing))

    # --- commits and branches ---------------------------------------------------------------------

    def resolve(self, repository: str, ref: str) -> CommitInfo:
        """Return the commit whose id is `ref`, or begins with it and no other's does."""
        absent = _require(_COMMIT, ref, NotFound("commit", ref))
        into = self._into(f"reading commit {ref!r}", repository, absent)
        commit = self._api.commit(_checked(repository), ref, into=into)
        if not commit.id.startswith(ref):  # the server found a branch or tag of that name
            raise absent
        return commit_info(commit)

    def head(self, repository: str, branch: str) -> CommitInfo:
        """Return the commit a branch is at."""
        return self.history(repository, branch, limit=1)[0]

    def history(
        self, repository: str, branch: str, *, limit: int, until: str | None = None
    ) -> builtins.list[CommitInfo]:
        """Return the first-parent chain of a branch, newest first, at most `limit` commits."""
        absent = _require(_BRANCH, branch, NotFound("branch", branch))
        into = partial(
            _branch_error, into=self._into(f"reading branch {branch!r}", repository, absent)
        )
        # With `@` a name is a branch's and nothing else; tags and commit ids are refused.
        ref = f"{branch}@"
        commits: list[CommitInfo] = []
        most = PAGE if until is None else FIRST_LOOK
        while (wanted := min(limit - len(commits), most)) > 0:
            after = commits[-1].id if commits else None
            page = self._api.log(_checked(repository), ref, after=after, amount=wanted, into=into)
            found = [commit_info(commit) for commit in page]
            commits += found
            if len(found) < wanted or any(commit.id == until for commit in found):
                break
            most = PAGE
        return commits

    # --- objects ----------------------------------------------------------------------------------

    def list(self, repository: str, commit: str, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose keys begin with `prefix`, in key order, 1,000 to a call."""
        absent = _require(_COMMIT, commit, NotFound("commit", commit))
        into = self._into(f"listing {shown(prefix)} at {commit}", repository, absent)
        page = partial(self._api.page, _checked(repository), commit, prefix=prefix, into=into)
        yield from map(object_info, _each(lambda after: page(after=after), prefix))

    def changes(self, repository: str, base: str, commit: str, prefix: str) -> Iterator[Change]:
        """Yield how the objects under a prefix differ between commits, 1,000 to a call."""
        for each in (base, commit):
            _require(_COMMIT, each, NotFound("commit", each))
        missing = partial(self._absent_difference, repository, base, commit)
        doing = f"comparing {shown(prefix)} at {base} and {commit} in {repository!r}"
        into = partial(store_error, doing=doing, missing=missing)
        page = partial(
            self._api.differences, _checked(repository), base, commit, prefix=prefix, into=into
        )
        yield from map(change, _each(lambda after: page(after=after), prefix))

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
        """Write an object's bytes to `into`, streaming; what `into` raises is passed on."""
        _require(_COMMIT, commit, NotFound("commit", commit))
        missing = partial(self._absent_object, repository, commit, key)
        if not key:  # the server takes it for a malformed call
            raise missing()
        return self._api.download(
            _checked(repository),
            commit,
            key,
            sink=into,
            start=start,
            size=size,
            listed_size=listed_size,
            into=partial(store_error, doing=f"reading {shown(key)} at {commit}", missing=missing),
        )

    @property
    def seeks(self) -> bool:
        """Return True; see the port."""
        return True

    def new_digest(self, size: int) -> Digest:  # noqa: ARG002 -- other stores need it
        """Return an MD5, which is what lakeFS shows of objects uploaded to it."""
        return hashlib.md5(usedforsecurity=False)

    # --- stages -----------------------------------------------------------------------------------

    def stage(self, repository: str, base: str, name: str) -> Stage:
        """Open a hidden branch at commit `base`."""
        absent = _require(_COMMIT, base, NotFound("commit", base))
        _require_stage(name)
        into = self._into(f"opening stage {name!r}", repository, absent)
        self._api.create_branch(_checked(repository), name, source=base, into=into)
        return LakeFSStage(self._api, repository, base=base, name=name)

    def replacement(
        self,
        repository: str,
        *,
        on: CommitInfo,
        content: CommitInfo,
        name: str,
        message: str,
        metadata: Mapping[str, str],
    ) -> CommitInfo:
        """Commit the meta-range of one commit on top of another, on a hidden branch."""
        self.stage(repository, on.id, name)
        # Read again: a meta-range that the server does not know would make the branch unreadable.
        tree = self.resolve(repository, content.id).tree
        into = self._into(f"committing on stage {name!r}", repository, NotFound("branch", name))
        commit = self._api.commit_content(
            repository, name, content=tree, message=message, metadata=metadata, into=into
        )
        return commit_info(commit)

    def fence_level(self, repository: str, commit: str) -> FenceLevel:
        """Return `hook` where the fence is and works, else `verify`; see `fence_level`."""
        return self._fence_levels.level(repository, commit)

    def drop_stage(self, repository: str, name: str) -> None:
        """Remove a stage's branch; its commits stay, and can be published by their ids."""
        _require_stage(name)
        absent = NotFound("branch", name)
        into = self._into(f"dropping stage {name!r}", repository, absent)
        try:
            self._api.delete_branch(_checked(repository), name, into=into)
        except NotFound as error:
            if error is not absent:
                raise

    def stages(self, repository: str) -> builtins.list[str]:
        """Return the names of the hidden branches that are named as our stages are."""
        # The server does not say which branches are hidden, only shows them or not. Hidden ones
        # first: a branch that appears between the two calls must not be taken for a stage.
        named, visible = (
            list(
                self._api.branches(
                    _checked(repository),
                    prefix=STAGE_PREFIX,
                    show_hidden=show_hidden,
                    into=self._into("listing branches", repository, None),
                )
            )
            for show_hidden in (True, False)
        )
        return [name for name in named if name not in set(visible)]

    # --- publishing -------------------------------------------------------------------------------

    def publish(
        self,
        repository: str,
        branch: str,
        *,
        source: CommitInfo,
        expected_head: str,
        metadata: Mapping[str, str],
        message: str,
        timeout_s: float,
        allow_unchanged: bool = False,
    ) -> CommitInfo:
        """Merge a staged commit, by its id, into a branch that is at `expected_head`.

        A compare-and-swap where the source holds the action of `fence`; elsewhere a commit made
        meanwhile becomes the first parent, or conflicts.
        """
        _require(_BRANCH, branch, NotFound("branch", branch))
        if timeout_s <= 0:
            raise StoreUnavailable(f"publishing to {branch!r}: no time is left for the merge")
        into = partial(
            publish_error,
            branch=branch,
            expected_head=expected_head,
            doing=f"publishing to branch {branch!r}",
            missing=partial(self._absent_in_merge, repository, branch, source.id),
        )
        # The fence compares what the metadata say; callers that say nothing are fenced too.
        fenced = {EXPECTED_HEAD: expected_head, **metadata}
        merge = self._api.merge(
            _checked(repository),
            source.id,
            branch,
            message=message,
            metadata=fenced,
            allow_empty=allow_unchanged,
            timeout_s=timeout_s,
            into=into,
        )
        try:
            return self.resolve(repository, merge)
        except StoreError as error:
            raise PublishUnknown(
                f"branch {branch!r} was merged into, but merge {merge} cannot be read"
            ) from error

    @property
    def api(self) -> Api:
        """The calls beneath the port, for commands that administer repositories."""
        return self._api

    def close(self) -> None:
        """Release connections."""
        with self._connecting:
            api, self._connected = self._connected, None
        if api is not None:
            api.close()

    # --- what is missing --------------------------------------------------------------------------

    def _into(self, doing: str, repository: str, absent: NotFound | None) -> ToError:
        missing = partial(self._absent, repository, absent)
        return partial(store_error, doing=f"{doing} in {repository!r}", missing=missing)

    def _absent(self, repository: str, absent: NotFound | None) -> StoreError:
        """Tell a missing repository from something that is missing in it."""
        missing = NotFound("repository", repository)
        if absent is None:
            return missing
        doing = f"reading repository {repository!r}"
        into = partial(store_error, doing=doing, missing=lambda: missing)
        self._api.require_repository(repository, into=into)
        return absent

    def _absent_object(self, repository: str, commit: str, key: str) -> StoreError:
        self.resolve(repository, commit)
        return NotFound("object", key)

    def _absent_difference(self, repository: str, base: str, commit: str) -> StoreError:
        self.resolve(repository, base)
        return NotFound("commit", commit)

    def _absent_in_merge(self, repository: str, branch: str, source: str) -> StoreError:
        self.head(repository, branch)
        return NotFound("commit", source)

    @property
    def _api(self) -> Api:
        # The lock covers the loading too: other callers can do nothing before it is done.
        with self._connecting:
            if self._connected is None:
                from perago_worker.adapters.lakefs.api import Api

                self._connected = Api(self._settings, listener=self._listener)
            return self._connected


def _each(page: Callable[[str], Page[E]], prefix: str) -> Iterator[E]:
    """Yield what the pages hold that `page` returns for the key after which they begin."""
    after = ""
    while True:
        answer = page(after)
        yield from answer.results
        if not answer.pagination.has_more:
            return
        # Keys that are not UTF-8 are shown under names that sort elsewhere, and a listing that goes
        # on from such a name might never end.
        if answer.pagination.next_offset <= after:
            raise StoreRefused(
                f"the listing of {prefix!r} does not get past key "
                f"{shown(answer.pagination.next_offset)}, which is not stored as valid UTF-8"
            )
        after = answer.pagination.next_offset


def _require(pattern: re.Pattern[str], name: str, absent: NotFound) -> NotFound:
    if not pattern.fullmatch(name):
        raise absent
    return absent


def _require_stage(name: str) -> None:
    # Stages are dropped by name, and a name like this is no other branch's.
    if not (name.startswith(STAGE_PREFIX) and _BRANCH.fullmatch(name)):
        raise StoreRefused(f"a stage cannot be named {name!r}: it must begin with {STAGE_PREFIX!r}")


def _checked(repository: str) -> str:
    _require(_REPOSITORY, repository, NotFound("repository", repository))
    return repository


def _branch_error(failure: Failure, *, into: ToError) -> StoreError:
    """Treat the 400 for a name that is a tag's or a commit's like the 404 for nobody's."""
    if isinstance(failure, Answered) and failure.status == 400 and failure.by_lakefs:
        return into(replace(failure, status=404))
    return into(failure)
