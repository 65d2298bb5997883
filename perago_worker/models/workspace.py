"""Which files a task works on: its declaration, and the references in its input and output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from perago_worker.errors import TaskDefinitionError
from perago_worker.models.guard import WorkspaceGuardrail

REF_TYPE_SPELLINGS = ("ref_type", "refType")
"""Both are read. Workflows in use spell it either way; the first is the name of the field."""


class WorkspaceSpec(BaseModel):
    """The part of a repository that a task's workspace holds, and what must be true of it.

    Attributes:
        prefix: Directory within the repository, without slashes at either end; `/` is all of it.
        pre: Guards checked after the download, before the body.
        post: Guards checked after the body, before anything is published.
        read_only: The task publishes nothing; its output ref is its input ref.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: str = "/"
    pre: list[WorkspaceGuardrail] = Field(default_factory=list)
    post: list[WorkspaceGuardrail] = Field(default_factory=list)
    read_only: bool = False

    @field_validator("prefix")
    @classmethod
    def _normalise_prefix(cls, value: str) -> str:
        text = value.strip()
        if text == "/":
            return text
        prefix = text.lstrip("/")
        if not prefix:
            raise TaskDefinitionError(f"prefix {value!r} is empty; '/' is the whole repository")
        if "\\" in prefix:
            raise TaskDefinitionError(f"prefix {value!r} has a backslash in it; separate with '/'")
        odd = [part for part in prefix.split("/") if part in {"", ".", ".."}]
        if odd:
            raise TaskDefinitionError(
                f"prefix {value!r} has {odd[0]!r} as a part; write a plain directory of the "
                "repository, such as 'features/daily'"
            )
        return prefix


class WorkspaceRef(BaseModel):
    """A commit of a repository, and the branch it is worked on.

    Attributes:
        ref_type: What `ref` is; only commits, which never change, are taken. Read as `refType` too.
        ref: Commit id.
    """

    model_config = ConfigDict(extra="forbid")

    repository: str = Field(min_length=1)
    branch: str = Field(min_length=1)
    ref_type: Literal["commit"]
    ref: str = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _read_either_spelling(cls, data: Any) -> Any:
        name, other = REF_TYPE_SPELLINGS
        if not isinstance(data, Mapping) or other not in data:
            return data
        if name in data:
            raise TaskDefinitionError(
                f"{name} ({data[name]!r}) and {other} ({data[other]!r}) are the same field; "
                "give one of them"
            )
        return {name if key == other else key: value for key, value in data.items()}

    @field_validator("repository", "branch", "ref")
    @classmethod
    def _check_not_blank(cls, value: str, info: Any) -> str:
        if not value.strip():
            raise TaskDefinitionError(f"{info.field_name} {value!r} is blank")
        return value


class WorkspaceInput(WorkspaceRef):
    """The commit a task starts from, and the branch that its changes are published to."""

    def published_output(self, ref: str) -> WorkspaceOutput:
        """Return the output that names commit `ref` of the same repository and branch.

        Raises:
            pydantic.ValidationError: `ref` is blank.
        """
        return WorkspaceOutput(
            repository=self.repository, branch=self.branch, ref_type="commit", ref=ref
        )


class WorkspaceOutput(WorkspaceRef):
    """The commit a task ended with: what it published, or its input when nothing changed."""

    def spelled_like(self, raw: object) -> dict[str, Any]:
        """Return the output as JSON, with `ref_type` spelled as in `raw`, the workspace input.

        A workflow passes the output of one task on to the next, so it gets back what it wrote.
        """
        name, other = REF_TYPE_SPELLINGS
        data = self.model_dump(mode="json")
        if isinstance(raw, Mapping) and other in raw:
            return {other if key == name else key: value for key, value in data.items()}
        return data
