"""The calls the store makes, in terms of lakefs-sdk; nothing else knows its classes.

Every method takes `into`, which makes the error to raise when the call fails. Importing this module
loads the SDK; `LakeFSStore` defers it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import BinaryIO, TypeVar

from pydantic import BaseModel

from perago_worker.adapters.lakefs.mapping import (
    PAGE,
    CurrentUser,
    Difference,
    Entry,
    NoAnswer,
    Page,
    Repository,
    ToError,
    one_line,
)
from perago_worker.adapters.lakefs.presigned import Presigned
from perago_worker.adapters.lakefs.sdk import (
    BranchCreation,
    BranchesApi,
    Commit,
    CommitCreation,
    CommitsApi,
    Merge,
    ObjectError,
    ObjectsApi,
    PathList,
    RefsApi,
)
from perago_worker.adapters.lakefs.settings import LakeFSSettings
from perago_worker.adapters.lakefs.transport import Transport
from perago_worker.events import Listener

B = TypeVar("B", bound=BaseModel)


class Api:
    """The calls the store makes to one server. Safe to use from any thread."""

    def __init__(self, settings: LakeFSSettings, *, listener: Listener | None = None) -> None:
        self._transport = transport = Transport(settings, listener=listener)
        self._presigned = Presigned(transport, settings, listener=listener)
        self._branches = BranchesApi(transport.client)
        self._commits = CommitsApi(transport.client)
        self._objects = ObjectsApi(transport.client)
        self._refs = RefsApi(transport.client)

    def whoami(self, *, into: ToError) -> None:
        """Ask who we are; fails without valid credentials."""
        self._get(CurrentUser, ("user",), {}, into=into)

    def require_repository(self, repository: str, *, into: ToError) -> None:
        """Fail when there is no such repository."""
        self._get(Repository, ("repositories", repository), {}, into=into)

    def commit(self, repository: str, ref: str, *, into: ToError) -> Commit:
        """Return the commit that any kind of reference leads to."""
        return self._transport.call(self._commits.get_commit, repository, ref, into=into)

    def log(
        self, repository: str, ref: str, *, after: str | None, amount: int, into: ToError
    ) -> list[Commit]:
        """Return up to `amount` first-parent ancestors of a reference, those older than `after`."""
        answer = self._transport.call(
            self._refs.log_commits,
            repository,
            ref,
            after=after,
            amount=amount,
            limit=True,  # without it the server reads one commit more, to tell whether there is one
            first_parent=True,
            into=into,
        )
        commits: list[Commit] = answer.results
        return commits

    def branches(
        self, repository: str, *, prefix: str, show_hidden: bool, into: ToError
    ) -> Iterator[str]:
        """Yield the names of branches."""
        after = ""
        while True:
            page = self._transport.call(
                self._branches.list_branches,
                repository,
                prefix=prefix,
                after=after,
                amount=PAGE,
                show_hidden=show_hidden,
                into=into,
            )
            yield from (branch.id for branch in page.results)
            if not page.pagination.has_more:
                return
            after = page.pagination.next_offset

    def create_branch(self, repository: str, name: str, *, source: str, into: ToError) -> None:
        """Create a hidden branch at commit `source`."""
        creation = BranchCreation(name=name, source=source, force=False, hidden=True)
        self._transport.tell(self._branches.create_branch, repository, creation, into=into)

    def delete_branch(self, repository: str, name: str, *, into: ToError) -> None:
        """Delete a branch, with what was not committed on it."""
        self._transport.tell(self._branches.delete_branch, repository, name, into=into)

    def commit_branch(
        self,
        repository: str,
        branch: str,
        *,
        message: str,
        metadata: Mapping[str, str],
        into: ToError,
    ) -> Commit:
        """Commit what a branch holds."""
        creation = CommitCreation(
            message=message, metadata=dict(metadata), date=None, allow_empty=False, force=False
        )
        return self._transport.call(self._commits.commit, repository, branch, creation, into=into)

    def commit_content(
        self,
        repository: str,
        branch: str,
        *,
        content: str,
        message: str,
        metadata: Mapping[str, str],
        into: ToError,
    ) -> Commit:
        """Commit a whole content, by its meta-range, in place of what a branch holds.

        The server does not check the meta-range: only ever pass one that it has just returned.
        """
        creation = CommitCreation(
            message=message, metadata=dict(metadata), date=None, allow_empty=True, force=False
        )
        return self._transport.call(
            self._commits.commit,
            repository,
            branch,
            creation,
            source_metarange=content,
            into=into,
        )

    def merge(
        self,
        repository: str,
        source: str,
        branch: str,
        *,
        message: str,
        metadata: Mapping[str, str],
        allow_empty: bool,
        timeout_s: float,
        into: ToError,
    ) -> str:
        """Merge a commit into a branch and return the id of the merge."""
        merge = Merge(
            message=message,
            metadata=dict(metadata),
            strategy=None,  # a conflict means that the head moved, and is for the caller to solve
            force=False,
            allow_empty=allow_empty,
            squash_merge=False,  # the source stays a parent, where later attempts look for it
        )
        answer = self._transport.call(
            self._refs.merge_into_branch,
            repository,
            source,
            branch,
            merge,
            timeout_s=timeout_s,
            into=into,
        )
        return answer.reference

    def _get(
        self, kind: type[B], path: tuple[str, ...], query: Mapping[str, str], *, into: ToError
    ) -> B:
        body = self._transport.get(*path, query=query, into=into)
        try:
            return kind.model_validate_json(body)
        except ValueError as error:
            raise into(NoAnswer(one_line(str(error)))) from error

    # --- objects ----------------------------------------------------------------------------------

    def page(
        self, repository: str, commit: str, *, prefix: str, after: str, into: ToError
    ) -> Page[Entry]:
        """Return one page of the objects whose keys begin with `prefix`."""
        query = {
            "prefix": prefix,
            "after": after,
            "amount": str(PAGE),
            "user_metadata": "false",
            "presign": "false",
        }
        path = ("repositories", repository, "refs", commit, "objects", "ls")
        return self._get(Page[Entry], path, query, into=into)

    def differences(
        self, repository: str, base: str, commit: str, *, prefix: str, after: str, into: ToError
    ) -> Page[Difference]:
        """Return one page of how the objects of `commit` differ from those of `base`."""
        query = {
            "type": "two_dot",  # by default the server compares with the common ancestor
            "prefix": prefix,
            "after": after,
            "amount": str(PAGE),
            "include_right_stats": "true",
        }
        path = ("repositories", repository, "refs", base, "diff", commit)
        return self._get(Page[Difference], path, query, into=into)

    def download(
        self,
        repository: str,
        commit: str,
        key: str,
        *,
        sink: BinaryIO,
        start: int,
        size: int | None,
        listed_size: int | None,
        into: ToError,
    ) -> int:
        """Write an object, or a range of it, to `sink` and return the number of bytes."""
        path = ("repositories", repository, "refs", commit, "objects")
        if self._presigned.pays(listed_size):
            read = self._presigned.download(
                *path, key=key, sink=sink, start=start, size=size, into=into
            )
            if read is not None:
                return read
        return self._transport.download(
            *path, query={"path": key}, sink=sink, start=start, size=size, into=into
        )

    def upload(
        self,
        repository: str,
        branch: str,
        key: str,
        *,
        source: BinaryIO,
        size: int,
        into: ToError,
    ) -> Entry:
        """Store `size` bytes of `source` and return what the server says it stored."""
        path = ("repositories", repository, "branches", branch)
        stored = self._presigned.upload(*path, key=key, source=source, size=size, into=into)
        if stored is not None:
            return stored
        body = self._transport.upload(
            *path, "objects", query={"path": key}, source=source, size=size, into=into
        )
        try:
            return Entry.model_validate_json(body)
        except ValueError as error:
            raise into(NoAnswer(one_line(str(error)))) from error

    def delete(
        self, repository: str, branch: str, keys: list[str], *, into: ToError
    ) -> list[ObjectError]:
        """Delete up to `PAGE` objects and return an error for each that was not."""
        paths = PathList(paths=keys)
        answer = self._transport.call(
            self._objects.delete_objects, repository, branch, paths, into=into
        )
        errors: list[ObjectError] = answer.errors
        return errors

    def close(self) -> None:
        """Close idle connections now and busy ones when their calls end."""
        self._presigned.close()
        self._transport.close()
