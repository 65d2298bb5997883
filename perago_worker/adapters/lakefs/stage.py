"""A hidden branch of a lakeFS repository, as the private place one attempt writes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from perago_worker.adapters.lakefs.mapping import (
    PAGE,
    Answered,
    ToError,
    commit_error,
    commit_info,
    object_info,
    one_line,
    shown,
    store_error,
)
from perago_worker.errors import NotFound, NothingToCommit, StoreError, StoreRefused
from perago_worker.models import CommitInfo, ObjectInfo

if TYPE_CHECKING:  # loading the SDK takes its time; see `LakeFSStore`
    from perago_worker.adapters.lakefs.api import Api
    from perago_worker.adapters.lakefs.sdk import Commit


class LakeFSStage:
    """`Stage` over a hidden branch."""

    def __init__(self, api: Api, repository: str, *, base: str, name: str) -> None:
        self._api = api
        self._repository = repository
        self._base = base
        self._name = name

    @property
    def name(self) -> str:
        """Name of the hidden branch."""
        return self._name

    def write(self, key: str, source: BinaryIO, size: int) -> ObjectInfo:
        """Store `size` bytes of `source` under `key`; what `source` raises is passed on."""
        _require_utf8(key)
        entry = self._api.upload(
            self._repository,
            self._name,
            key,
            source=source,
            size=size,
            into=self._into(f"writing {shown(key)}"),
        )
        return object_info(entry)

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, 1,000 to a call."""
        for key in keys:
            _require_utf8(key)
        for start in range(0, len(keys), PAGE):
            batch = list(keys[start : start + PAGE])
            into = self._into(f"deleting {len(batch)} objects")
            for error in self._api.delete(self._repository, self._name, batch, into=into):
                failure = Answered(error.status_code, one_line(error.message))
                raise self._into(f"deleting {shown(error.path or '')}")(failure)

    def commit(self, message: str, metadata: Mapping[str, str]) -> CommitInfo:
        """Freeze the stage's content as a commit whose parent is the stage's base."""
        into = partial(
            commit_error,
            stage=self._name,
            doing=f"committing stage {self._name!r}",
            missing=self._absent,
        )
        try:
            commit = self._api.commit_branch(
                self._repository, self._name, message=message, metadata=metadata, into=into
            )
        except NothingToCommit:
            # Nothing since the last commit, which is ours when the answer to it was lost.
            commit = self._head()
            if commit.id.startswith(self._base):
                raise
        return commit_info(commit)

    def _head(self) -> Commit:
        into = self._into("reading the commit")
        return self._api.log(self._repository, f"{self._name}@", after=None, amount=1, into=into)[0]

    def _into(self, doing: str) -> ToError:
        return partial(store_error, doing=f"{doing} on stage {self._name!r}", missing=self._absent)

    def _absent(self) -> StoreError:
        return NotFound("branch", self._name)


def _require_utf8(key: str) -> None:
    # JSON and URLs would carry a lone surrogate as some other key.
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise StoreRefused(f"key {shown(key)} cannot be written as UTF-8") from error
