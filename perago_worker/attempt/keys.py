"""Which object keys can be files in a workspace, and which are refused by name.

A store takes nearly any bytes as a key: `../x`, `/abs`, `a//b`, NUL. None of them may reach the
file system. A key that cannot be a file fails the attempt before the body runs, since leaving it
out would give the body, and then the branch, less than the commit holds.
"""

from __future__ import annotations

import os

MAX_COMPONENT_BYTES = 255
"""Longest file name. Source: NAME_MAX of the common Linux file systems."""

MAX_KEY_BYTES = 1024
"""Longest object key. Source: lakeFS 1.84.0 answers 400 above it."""

RESERVED_FOLDERS = ("_lakefs_actions/", "_perago/")
"""Keys that are no workspace's: the store's hooks, our fence among them, and the sentinels. A body
that could change them could switch off what keeps its own publication safe."""

_SHOWN_CHARS = 120


class KeyRefused(ValueError):
    """A key cannot be a file, or a file cannot be a key; the message names it."""


def show(key: str) -> str:
    """Return a key as it may stand in a one-line message: escaped, and cut when long."""
    text = ascii(key)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…' ({len(key)} characters)"


def key_prefix(prefix: str) -> str:
    """Return the plain string that keys of a workspace prefix begin with (`/` is the whole)."""
    return "" if prefix == "/" else f"{prefix}/"


def is_reserved(key: str) -> bool:
    """Tell whether an object belongs to the repository rather than to a workspace."""
    return key.startswith(RESERVED_FOLDERS)


def relative_path(key: str, prefix: str) -> str:
    """Return where an object's file stands within the workspace, `/`-separated.

    Directory markers (`raw/`) come back with their final slash, the marker of the prefix itself as
    an empty string.

    Args:
        key: The object's key, known to begin with `prefix`.
        prefix: As `key_prefix` returns it.

    Raises:
        KeyRefused: The key cannot be a file.
    """
    path = key[len(prefix) :]
    if not path:
        return path
    complaint = _complaint(path.removesuffix("/"))
    if complaint:
        raise KeyRefused(f"object key {show(key)} cannot be a file: {complaint}")
    return path


def object_key(path: str, prefix: str) -> str:
    """Return the key under which a workspace file is stored.

    Raises:
        KeyRefused: The file's name cannot be a key that a later attempt could download.
    """
    key = prefix + path
    complaint = _complaint(path)
    if is_reserved(key):
        complaint = f"{key.partition('/')[0]} at the root of a repository is not for workspaces"
    elif not complaint and len(os.fsencode(key)) > MAX_KEY_BYTES:
        complaint = f"its key is longer than {MAX_KEY_BYTES} bytes"
    if complaint:
        raise KeyRefused(f"file {show(path)} cannot be stored: {complaint}")
    return key


def _complaint(path: str) -> str:
    if "\0" in path:
        return "it holds a NUL character"
    if any(char == "\N{REPLACEMENT CHARACTER}" or "\ud800" <= char <= "\udfff" for char in path):
        return "it is not valid UTF-8"
    for part in path.split("/"):
        if not part:
            return "it has an empty path component"
        if part in {".", ".."}:
            return f"it has the path component '{part}'"
        if len(part.encode()) > MAX_COMPONENT_BYTES:
            return f"a path component is longer than {MAX_COMPONENT_BYTES} bytes"
    return ""
