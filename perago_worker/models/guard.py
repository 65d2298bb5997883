"""The value behind a guard: what has to hold in a workspace before or after the body.

Here is what a guard may say; `perago_worker.guards` makes guards and checks them.
"""

from __future__ import annotations

import re
from os import PathLike, fspath
from pathlib import PurePath
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, field_validator, model_validator

from perago_worker.errors import TaskDefinitionError

GuardrailKind = Literal["require_file", "require_dir", "require_glob", "forbid_glob"]

DEFAULT_MIN_COUNT = 1

_DRIVE = re.compile(r"[A-Za-z]:")


def canonical_path(value: str | PathLike[str]) -> str:
    """Return a guard's path as `/`-separated text, relative to the workspace.

    Args:
        value: Text with `/` separators, or a path object, whose own separators are understood.

    Raises:
        TaskDefinitionError: Nothing, not text, absolute, with a drive letter, a backslash or a NUL
            in it, or with a part that is empty, `.` or `..`.
    """
    if isinstance(value, PurePath):
        text = value.as_posix() if value.parts else ""
    else:
        text = fspath(value) if isinstance(value, PathLike) else value
    if not isinstance(text, str):
        raise TaskDefinitionError(f"guard path {value!r} is not text")
    problem = _problem_with(text)
    if problem:
        raise TaskDefinitionError(
            f"guard path {text!r} {problem}; write it relative to the workspace, "
            "such as 'raw/input.csv'"
        )
    return text


def _problem_with(path: str) -> str | None:
    if not path.strip():
        return "is empty"
    if "\\" in path or "\0" in path:
        return "has a backslash or a NUL in it"
    if path.startswith("/"):
        return "is absolute"
    if _DRIVE.match(path):
        return "begins with a drive letter"
    odd = [part for part in path.split("/") if part in {"", ".", ".."}]
    return f"has {odd[0]!r} as a part" if odd else None


class WorkspaceGuardrail(BaseModel):
    """One thing that has to hold in a workspace.

    Attributes:
        kind: Name of the function that makes such a guard.
        path: Relative to the workspace, canonical; a pattern for the two globs.
        min_count: Fewest files that may match; only for `require_glob`, which defaults to 1.
        max_count: Most files that may match; only for `require_glob`, None is no bound.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: GuardrailKind
    path: str
    min_count: NonNegativeInt | None = None
    max_count: NonNegativeInt | None = None

    @field_validator("path")
    @classmethod
    def _canonicalise(cls, value: str) -> str:
        return canonical_path(value)

    @model_validator(mode="after")
    def _check_pattern(self) -> WorkspaceGuardrail:
        if not self.kind.endswith("_glob"):
            return self
        for part in self.path.split("/"):
            if "**" in part and part != "**":
                raise TaskDefinitionError(
                    f"path {self.path!r} of {self.kind}: '**' stands for whole directories, "
                    f"so it cannot be a piece of {part!r}"
                )
        return self

    @model_validator(mode="after")
    def _check_counts(self) -> WorkspaceGuardrail:
        if self.kind != "require_glob":
            if self.min_count is not None or self.max_count is not None:
                raise TaskDefinitionError(
                    f"{self.kind} takes no min_count or max_count, "
                    f"but they are {self.min_count} and {self.max_count}"
                )
            return self
        if self.min_count is None:
            # The model is frozen, so the default that depends on the kind goes around it.
            object.__setattr__(self, "min_count", DEFAULT_MIN_COUNT)
        if self.max_count is not None and (self.min_count or 0) > self.max_count:
            raise TaskDefinitionError(
                f"min_count {self.min_count} is greater than max_count {self.max_count}"
            )
        return self

    def label(self) -> str:
        """Return how the guard was written, `kind('path')`, for messages."""
        return f"{self.kind}({self.path!r})"
