"""What lakeFS says, in the worker's words. Pure functions: no call is made from here.

Statuses decide. A message decides only where lakeFS 1.84.0 gives one status to answers that differ
in what may be done next: 400 (nothing to commit or merge, others' uncommitted changes, malformed)
and 412 (our fence, another hook).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from pydantic import BaseModel

from perago_worker.adapters.lakefs.fence import head_in_refusal
from perago_worker.errors import (
    HeadMoved,
    NothingToCommit,
    PublishUnknown,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from perago_worker.models import Change, CommitInfo, ObjectInfo

if TYPE_CHECKING:  # loading the SDK takes its time; see `LakeFSStore`
    from perago_worker.adapters.lakefs.sdk import Commit

E = TypeVar("E", bound=BaseModel)

NO_CHANGES = "no changes"
"""Part of the 400 for a commit or merge without effect. Source: lakeFS, graveler.ErrNoChanges."""

DIRTY_BRANCH = "dirty branch"
"""Part of the 400 for a target with uncommitted changes. Source: lakeFS, ErrDirtyBranch."""

PAGE = 1000
"""Most items lakeFS shows or deletes at a time; it answers 400 when asked for more."""

MAX_DETAIL_CHARS = 300
MAX_KEY_CHARS = 200

_MD5 = re.compile(r"[0-9a-f]{32}")
_SERVER_KEY = ".lakefs."


# --- how a call can fail --------------------------------------------------------------------------


@dataclass(frozen=True)
class Answered:
    """The server, or a proxy before it, answered with something other than success.

    Attributes:
        status: HTTP status.
        message: What it said, all of it, on one line.
        by_lakefs: Whether the answer has the form of lakeFS's own; a proxy's has not.
    """

    status: int
    message: str
    by_lakefs: bool = True


@dataclass(frozen=True)
class NotSent:
    """No connection was made, so the call certainly had no effect."""

    detail: str


@dataclass(frozen=True)
class NoAnswer:
    """The call may have been sent, and no answer came or none that makes sense."""

    detail: str


Failure = Answered | NotSent | NoAnswer

ToError = Callable[[Failure], StoreError]
"""Tells what a failed call means to who made it; may make further calls to find out."""


def answered(status: int, body: str | None) -> Answered:
    """Read the body of an answer that is not success."""
    text = body or ""
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if isinstance(content, dict):
        return Answered(status, _line(str(content.get("message", ""))))
    looks_like_html = text.lstrip()[:1] == "<"
    return Answered(status, "an HTML page" if looks_like_html else _line(text), by_lakefs=False)


def one_line(text: str) -> str:
    """Bring text from elsewhere into a form that fits a message."""
    return _cut(_line(text), MAX_DETAIL_CHARS)


def shown(key: str) -> str:
    """Quote a key, which may be long and hold anything, for a message."""
    return _cut(repr(key), MAX_KEY_CHARS)


def _line(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


# --- what a failure means -------------------------------------------------------------------------


def store_error(failure: Failure, *, doing: str, missing: Callable[[], StoreError]) -> StoreError:
    """Tell what a failed call means, for every call but a merge.

    `doing` says what was tried, for the message. `missing` finds out what does not exist and is
    asked when the server says that something does not.
    """
    match failure:
        case NotSent(detail):
            return StoreUnavailable(f"{doing}: cannot connect to lakeFS: {detail}")
        case NoAnswer(detail):
            return StoreUnavailable(f"{doing}: no answer from lakeFS: {detail}")
        case Answered(status=404, by_lakefs=True):
            return missing()
        case Answered(status=404):
            return StoreUnavailable(_said(failure, doing, "not by lakeFS: is the endpoint right?"))
        case Answered(status=408 | 423 | 425 | 429 | 499):
            return StoreUnavailable(_said(failure, doing))
        case Answered(status=status) if status >= 500:
            return StoreUnavailable(_said(failure, doing))
        case Answered():
            return StoreRefused(_said(failure, doing, _advice(failure.status)))


def commit_error(
    failure: Failure, *, stage: str, doing: str, missing: Callable[[], StoreError]
) -> StoreError:
    """Tell what a failed commit means."""
    if isinstance(failure, Answered) and failure.status == 400 and NO_CHANGES in failure.message:
        return NothingToCommit(f"stage {stage!r} holds what its base holds")
    return store_error(failure, doing=doing, missing=missing)


def publish_error(
    failure: Failure,
    *,
    branch: str,
    expected_head: str,
    doing: str,
    missing: Callable[[], StoreError],
) -> StoreError:
    """Tell what a failed merge means: above all, whether it certainly had no effect."""
    match failure:
        case NoAnswer(detail):
            return PublishUnknown(f"{doing}: the merge was sent and not answered: {detail}")
        case Answered(status=429 | 503):
            return StoreUnavailable(_said(failure, doing))
        case Answered(status=status) if status in (408, 499) or status >= 500:
            return PublishUnknown(_said(failure, doing, "the merge may have taken effect"))
        case Answered(status=409):
            return HeadMoved(branch, expected_head, None)
        case Answered(status=412, message=message) if head := head_in_refusal(message):
            return HeadMoved(branch, expected_head, head)
        case Answered(status=400, message=message) if NO_CHANGES in message:
            return HeadMoved(branch, expected_head, None)
        case Answered(status=400, message=message) if DIRTY_BRANCH in message:
            return StoreUnavailable(
                f"{doing}: others hold uncommitted changes on branch {branch!r}; "
                "it can be published to once they have committed or reset them"
            )
        case _:
            return store_error(failure, doing=doing, missing=missing)


def _said(failure: Answered, doing: str, advice: str = "") -> str:
    said = f"{doing}: lakeFS answered {failure.status}"
    return "; ".join(part for part in (said, one_line(failure.message), advice) if part)


def _advice(status: int) -> str:
    if status == 401:
        return "the access key was refused: check the files that hold its id and its secret"
    if status == 403:
        return "check what the access key's owner may do, and the protection of the branch"
    if 300 <= status < 400:
        return "the endpoint redirects elsewhere: configure where it redirects to"
    return ""


# --- what the server tells of its content ---------------------------------------------------------


class CurrentUser(BaseModel):
    """Who we are, as the server answers."""

    user: dict[str, Any]


class Repository(BaseModel):
    """A repository, of which only that it exists is of interest."""

    id: str


class Entry(BaseModel):
    """One object, as listings and uploads show it."""

    path: str
    checksum: str
    size_bytes: int


class _Pagination(BaseModel):
    has_more: bool
    next_offset: str


class Page(BaseModel, Generic[E]):
    """One page of a listing or a diff."""

    pagination: _Pagination
    results: list[E]


class _Stats(BaseModel):
    checksum: str


class Difference(BaseModel):
    """One object that differs between two commits, as diffs show it."""

    path: str
    type: Literal["added", "changed", "removed"]
    size_bytes: int = 0
    right: _Stats | None = None


def change(difference: Difference) -> Change:
    """Describe a change.

    Of an object that is gone the server shows as `right` what it was; only the type tells.
    """
    if difference.type == "removed":
        return Change(key=difference.path, now=None)
    if difference.right is None:
        raise StoreUnavailable(
            f"the lakeFS server does not show what {shown(difference.path)} is now"
        )
    entry = Entry(
        path=difference.path,
        checksum=difference.right.checksum,
        size_bytes=difference.size_bytes,
    )
    return Change(key=difference.path, now=object_info(entry))


def object_info(entry: Entry) -> ObjectInfo:
    """Describe an object.

    lakeFS shows the MD5 of objects that were uploaded to it. Objects that came by other ways carry
    whatever their store called them, such as the tags of multipart uploads, which hold a dash.
    """
    return ObjectInfo(
        key=entry.path,
        size=entry.size_bytes,
        checksum=entry.checksum,
        verifiable=_MD5.fullmatch(entry.checksum) is not None,
    )


def commit_info(commit: Commit) -> CommitInfo:
    """Describe a commit, without what the server adds to its metadata."""
    return CommitInfo(
        id=commit.id,
        parents=tuple(commit.parents),
        metadata=_given(commit.metadata or {}),
        tree=commit.meta_range_id,
        message=commit.message,
    )


def _given(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if not key.startswith(_SERVER_KEY)}
