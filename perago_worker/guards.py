"""Guards: what must hold in a workspace before the body runs, and after it.

Authors list them in `WorkspaceSpec(pre=..., post=...)`; the worker checks them, and so can a test.

What counts, and why: a workspace is a set of files to its store, which knows neither empty
directories nor symbolic links. So `require_glob` counts regular files; `forbid_glob` looks wider,
because a guard that forbids must not be slipped past: it finds anything that is not a directory,
and a directory when there is something in it. Symbolic links are never followed, so that nothing
outside the workspace can satisfy a guard.

Patterns are matched case by case, names that begin with a dot included: `*` any run of characters,
`?` one, `[a-z]` and `[!a-z]` a set, none of them a `/`; `**` as a whole part is any number of
directories, and at the end every file below.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path

from perago_worker.errors import (
    GuardrailViolation,
    PostGuardrailViolation,
    PreGuardrailViolation,
)
from perago_worker.models import WorkspaceGuardrail
from perago_worker.models.guard import DEFAULT_MIN_COUNT, canonical_path

_VIOLATIONS = {"pre": PreGuardrailViolation, "post": PostGuardrailViolation}

_SHOWN_MATCHES = 3
"""A reason is one line of at most 500 characters, so it names some matches, not all."""


def require_file(path: str | PathLike[str]) -> WorkspaceGuardrail:
    """Return a guard that wants a regular file at `path`.

    Raises:
        TaskDefinitionError: `path` is not a plain path relative to the workspace.
    """
    return WorkspaceGuardrail(kind="require_file", path=canonical_path(path))


def require_dir(path: str | PathLike[str]) -> WorkspaceGuardrail:
    """Return a guard that wants a directory at `path`; an empty one will do.

    Raises:
        TaskDefinitionError: `path` is not a plain path relative to the workspace.
    """
    return WorkspaceGuardrail(kind="require_dir", path=canonical_path(path))


def require_glob(
    pattern: str | PathLike[str],
    *,
    min_count: int = DEFAULT_MIN_COUNT,
    max_count: int | None = None,
) -> WorkspaceGuardrail:
    """Return a guard that wants from `min_count` to `max_count` regular files to match `pattern`.

    Args:
        pattern: See the module's description.
        min_count: 0 leaves only the upper bound.
        max_count: None is no upper bound.

    Raises:
        TaskDefinitionError: `pattern` is not a plain path relative to the workspace.
        pydantic.ValidationError: A count is negative, the counts contradict each other, or `**` is
            only a piece of a part. Also a ValueError.
    """
    return WorkspaceGuardrail(
        kind="require_glob", path=canonical_path(pattern), min_count=min_count, max_count=max_count
    )


def forbid_glob(pattern: str | PathLike[str]) -> WorkspaceGuardrail:
    """Return a guard that wants nothing to match `pattern`.

    Raises:
        TaskDefinitionError: `pattern` is not a plain path relative to the workspace.
        pydantic.ValidationError: `**` is only a piece of a part. Also a ValueError.
    """
    return WorkspaceGuardrail(kind="forbid_glob", path=canonical_path(pattern))


def check_guardrails(root: Path, guardrails: Sequence[WorkspaceGuardrail], phase: str) -> None:
    """Check every guard against the directory `root`, and report all that do not hold together.

    Args:
        root: The workspace. It may be reached through a symbolic link; nothing in it is.
        guardrails: Checked in this order.
        phase: `pre` or `post`, for the class of the error; any other word only for its message.

    Raises:
        PreGuardrailViolation: A guard does not hold, and `phase` is `pre`.
        PostGuardrailViolation: A guard does not hold, and `phase` is `post`.
        GuardrailViolation: A guard does not hold, and `phase` is something else.
        OSError: The workspace cannot be read.
    """
    if not guardrails:
        return
    if not root.is_dir():
        problems = ["the workspace directory does not exist"]
    else:
        found = ((guard, _problem(root, guard)) for guard in guardrails)
        problems = [f"{guard.label()} {problem}" for guard, problem in found if problem]
    if problems:
        violation = _VIOLATIONS.get(phase, GuardrailViolation)
        raise violation(f"{phase} guardrail {'; '.join(problems)}")


def _problem(root: Path, guard: WorkspaceGuardrail) -> str | None:
    match guard.kind:
        case "require_file":
            return _wrong_kind(root, guard.path, stat.S_IFREG, "file")
        case "require_dir":
            return _wrong_kind(root, guard.path, stat.S_IFDIR, "directory")
        case "require_glob":
            return _wrong_count(root, guard)
        case "forbid_glob":
            return _forbidden(root, guard.path)


def _wrong_kind(root: Path, path: str, wanted: int, name: str) -> str | None:
    current = root
    mode = 0
    for part in path.split("/"):
        current = current / part
        try:
            mode = current.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return f"found no such {name}"
        if stat.S_ISLNK(mode):
            link = current.relative_to(root).as_posix()
            return f"found the symbolic link {link!r}, which is not followed"
    return None if stat.S_IFMT(mode) == wanted else f"found something that is not a {name}"


def _wrong_count(root: Path, guard: WorkspaceGuardrail) -> str | None:
    matches = [path for path, entry in _matches(root, guard.path) if _is_file(entry)]
    count, low, high = len(matches), guard.min_count or 0, guard.max_count
    if count < low:
        return f"matched {count} files, fewer than min_count={low}"
    if high is not None and count > high:
        return f"matched {count} files, more than max_count={high}: {_sample(matches)}"
    return None


def _forbidden(root: Path, pattern: str) -> str | None:
    matches = [path for path, entry in _matches(root, pattern) if _holds_something(entry)]
    return f"matched {len(matches)}: {_sample(matches)}" if matches else None


def _sample(paths: Sequence[str]) -> str:
    shown = sorted(paths)[:_SHOWN_MATCHES]
    return ", ".join(map(repr, shown)) + (", ..." if len(paths) > len(shown) else "")


def _matches(root: Path, pattern: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield everything that `pattern` matches, each once, as path relative to `root` and entry."""
    seen = set()
    for path, entry in _walk(root, "", tuple(pattern.split("/"))):
        if path not in seen:
            seen.add(path)
            yield path, entry


def _walk(
    directory: str | Path, prefix: str, parts: tuple[str, ...]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    head, rest = parts[0], parts[1:]
    if head == "**" and rest:
        yield from _walk(directory, prefix, rest)  # no directory at all is a number of them, too
    for entry in _entries(directory):
        path = prefix + entry.name
        deeper = entry.is_dir(follow_symlinks=False)
        if head == "**":
            if deeper:
                yield from _walk(entry.path, f"{path}/", parts)
            elif not rest:
                yield path, entry
        elif fnmatchcase(entry.name, head):
            if not rest:
                yield path, entry
            elif deeper:
                yield from _walk(entry.path, f"{path}/", rest)


def _entries(directory: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []  # a process that the body left behind removed it between two looks


def _is_file(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False)


def _holds_something(entry: os.DirEntry[str]) -> bool:
    if not entry.is_dir(follow_symlinks=False):
        return True
    return any(_holds_something(child) for child in _entries(entry.path))
