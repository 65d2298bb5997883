"""What a workspace store says about its commits and objects."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field


class CommitInfo(BaseModel):
    """One commit.

    Attributes:
        id: Full commit id.
        parents: Parent ids; the first is the commit the branch was at before.
        metadata: Key to value, as given when the commit was made.
        tree: Opaque identity of the whole content: equal trees hold equal objects.
        message: The commit message.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    parents: tuple[str, ...]
    metadata: Mapping[str, str] = Field(default_factory=dict)
    tree: str
    message: str = ""


class ObjectInfo(BaseModel):
    """One stored object.

    Attributes:
        key: Full key within the repository, `/`-separated, exactly as stored; may be hostile.
        size: Bytes.
        checksum: What the store's `new_digest` yields over the content, or an opaque token where
            the object reached the store by another way; see `verifiable`.
        verifiable: Whether `checksum` has the form that `new_digest` yields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    size: int
    checksum: str
    verifiable: bool = True


class Change(BaseModel):
    """What became of one object between two commits.

    Attributes:
        key: Full key within the repository.
        now: The object as the later-named commit holds it; None when that commit does not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    now: ObjectInfo | None
