"""Keys to git trees and back.

A key is a path from the root of the tree. Git cannot hold every key that an object store can: a
key that is empty, has an empty, `.`, `..` or `.git` component, or is below another object is
refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pygit2
from pygit2.enums import DeltaStatus, DiffOption, FileMode

from perago_worker.adapters.local.store_loose import blob_digest
from perago_worker.errors import NotFound, StoreRefused
from perago_worker.models import Change, ObjectInfo

_FILES = (FileMode.BLOB, FileMode.BLOB_EXECUTABLE)
_ANY_BLOB = pygit2.Oid(hex=blob_digest(0).hexdigest())


def check_key(key: str) -> None:
    """Refuse a key that git cannot hold, by asking git.

    Raises:
        StoreRefused: It cannot.
    """
    try:
        _check_text(key)
        if "" in key.split("/"):  # the one thing that git itself does not look for
            raise ValueError("a key cannot have an empty component")
        pygit2.Index().add(pygit2.IndexEntry(key, _ANY_BLOB, FileMode.BLOB))
    except (pygit2.GitError, OSError, ValueError) as error:
        raise StoreRefused(f"git cannot hold an object with the key {key!r}") from error


def walk(repo: pygit2.Repository, tree: pygit2.Tree, prefix: str) -> Iterator[ObjectInfo]:
    """Yield the objects whose keys begin with `prefix`, in byte order of their keys.

    Git sorts a directory among its siblings as if its name ended in a slash, so that walking a tree
    depth first is in the order of the full keys.

    Raises:
        StoreRefused: There is a symbolic link or a submodule among them.
    """
    return _walk(repo, tree, "", prefix)


def compare(
    repo: pygit2.Repository, before: pygit2.Tree, after: pygit2.Tree, prefix: str
) -> Iterator[Change]:
    """Yield how objects whose keys begin with `prefix` differ, in byte order of their keys.

    Raises:
        StoreRefused: One of them has become a symbolic link or a submodule.
    """
    differences = before.diff_to_tree(after, flags=DiffOption.INCLUDE_TYPECHANGE)
    for delta in differences.deltas:
        key = delta.new_file.raw_path.decode("utf-8", "replace")
        if key.startswith(prefix):
            yield Change(key=key, now=_object_now(repo, key, delta))


def find_blob(tree: pygit2.Tree, key: str) -> pygit2.Oid:
    """Return the id of an object's content.

    Raises:
        NotFound: There is no such object.
        StoreRefused: The key is that of a symbolic link or a submodule.
    """
    try:
        _check_text(key)
        entry = tree[key]
    except (KeyError, ValueError) as error:
        raise NotFound("object", key) from error
    if entry.filemode == FileMode.TREE:
        raise NotFound("object", key)
    _check_file(key, entry.filemode)
    return entry.id


def changed_tree(
    repo: pygit2.Repository, base: pygit2.Tree, changes: Mapping[str, str | None]
) -> pygit2.Oid:
    """Write the tree that results from changes to `base` and return its id.

    What does not change keeps its place, also what is no regular file; an object that is rewritten
    keeps its executable bit.

    Args:
        changes: Key to the id of the new content, None to remove the object.

    Raises:
        StoreRefused: An object would be below another one.
    """
    index = _without_removed(base, changes)
    entries = [_entry(index, key, blob) for key, blob in changes.items() if blob is not None]
    expected = len(index) + sum(entry.path not in index for entry in entries)
    for entry in entries:
        index.add(entry)  # pushes out of the way what cannot be beside it
    if len(index) != expected:
        before = {str(each.path) for each in _without_removed(base, changes)}
        raise StoreRefused(_collision(before | {key for key, blob in changes.items() if blob}))
    return index.write_tree(repo)


def _without_removed(base: pygit2.Tree, changes: Mapping[str, str | None]) -> pygit2.Index:
    index = pygit2.Index()
    index.read_tree(base)
    for key, blob in changes.items():
        if blob is None and _has(index, key):
            index.remove(key)
    return index


def _walk(
    repo: pygit2.Repository, tree: pygit2.Tree, above: str, prefix: str
) -> Iterator[ObjectInfo]:
    for entry in tree:
        key = above + (entry.raw_name or b"").decode("utf-8", "replace")
        if isinstance(entry, pygit2.Tree):
            key += "/"
            if key.startswith(prefix) or prefix.startswith(key):
                yield from _walk(repo, entry, key, prefix)
        elif key.startswith(prefix):
            _check_file(key, entry.filemode)
            _, size = repo.odb.read_header(entry.id)
            yield ObjectInfo(key=key, size=size, checksum=str(entry.id))


def _object_now(repo: pygit2.Repository, key: str, delta: pygit2.DiffDelta) -> ObjectInfo | None:
    if delta.status == DeltaStatus.DELETED:
        return None
    _check_file(key, delta.new_file.mode)
    _, size = repo.odb.read_header(delta.new_file.id)
    return ObjectInfo(key=key, size=size, checksum=str(delta.new_file.id))


def _check_file(key: str, mode: int) -> None:
    if mode not in _FILES:
        raise StoreRefused(f"{key!r} is a symbolic link or a submodule, not a regular file")


def _check_text(key: str) -> None:
    key.encode()
    if "\0" in key:  # would end the key as far as git sees it, and so name another object
        raise ValueError("a key cannot hold a zero character")


def _has(index: pygit2.Index, key: str) -> bool:
    try:
        _check_text(key)
    except ValueError:
        return False
    return key in index


def _entry(index: pygit2.Index, key: str, blob: str) -> pygit2.IndexEntry:
    mode = index[key].mode if key in index else FileMode.BLOB
    return pygit2.IndexEntry(key, pygit2.Oid(hex=blob), mode if mode in _FILES else FileMode.BLOB)


def _collision(keys: set[str]) -> str:
    for key in sorted(keys):
        parts = key.split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            if above in keys:
                return f"{key!r} cannot be below {above!r}, which is an object itself"
    return "two objects cannot be beside each other"
