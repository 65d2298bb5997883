"""Removing directories, whatever a body has made of them."""

from __future__ import annotations

import os
import stat
import uuid
from contextlib import suppress
from pathlib import Path


def remove_tree(path: Path) -> None:
    """Remove a directory with all it holds, also where a body took away the permission to.

    Follows no symbolic link. Does nothing when the directory does not exist.
    """
    with suppress(FileNotFoundError):
        _empty(path)
        path.rmdir()


def _empty(root: Path) -> None:
    """Remove what a directory holds, however deep it is."""
    # Neither `shutil.rmtree`, which calls itself for every level, nor long paths, which the kernel
    # refuses: a body can nest directories deeper than both reach. Directories that hold more than
    # files are moved up to the root until none is left.
    root.chmod(stat.S_IRWXU)
    while folders := _remove_files(root):
        for folder in folders:
            for inner in _remove_files(folder):
                inner.rename(root / uuid.uuid4().hex)
            folder.rmdir()


def _remove_files(folder: Path) -> list[Path]:
    """Remove what is no directory in a folder; return the directories, ready to be emptied."""
    folders = []
    with os.scandir(folder) as entries:
        for entry in list(entries):
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                path.chmod(stat.S_IRWXU)
                folders.append(path)
            else:
                path.unlink()
    return folders
