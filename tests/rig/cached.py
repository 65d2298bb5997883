"""What a case finds in the cache.

What an attempt adds while its body writes, or before it dies, is chance; cases are told apart by
counting what is read from the store, so what they begin with must be certain.
"""

from __future__ import annotations

from pathlib import Path

from perago_worker.attempt.cache_entries import entry_path
from perago_worker.attempt.directories import CACHE_NAME
from perago_worker.ports import WorkspaceStore


def entry_of(content: bytes, *, work: Path, store: WorkspaceStore) -> Path:
    """Return where the cache of a workspace root keeps an object, whether it does or not."""
    digest = store.new_digest(len(content))
    digest.update(content)
    path = entry_path(work / CACHE_NAME, digest.hexdigest(), len(content))
    assert path is not None, "the store's checksums name contents"
    return Path(path)
