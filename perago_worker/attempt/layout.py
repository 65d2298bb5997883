"""Which directories a workspace has, and which keys ask for two things of one name."""

from __future__ import annotations

from pathlib import Path

from perago_worker.attempt.keys import KeyRefused, show
from perago_worker.attempt.manifest import FOLDER_MODE
from perago_worker.models import ObjectInfo


class Layout:
    """Makes directories, and finds keys that ask for a file and a directory of the same name.

    Attributes:
        markers: Workspace paths of the directory markers seen.
    """

    def __init__(self, root: Path) -> None:
        self.markers: set[str] = set()
        self._root = root
        self._files: set[str] = set()
        self._folders: set[str] = {""}

    def place(self, path: str, info: ObjectInfo) -> bool:
        """Prepare for one object; return whether it is a file rather than a directory marker."""
        is_marker = not path or path.endswith("/")
        if is_marker and info.size:
            raise KeyRefused(
                f"object key {show(info.key)} cannot be a file: it ends in '/' and holds "
                f"{info.size} bytes"
            )
        folder = path.rstrip("/") if is_marker else path.rpartition("/")[0]
        self._ensure_folder(folder, info)
        if is_marker:
            self.markers.add(path)
            return False
        if path in self._folders:
            raise _both(info, path)
        self._files.add(path)
        return True

    def _ensure_folder(self, folder: str, info: ObjectInfo) -> None:
        if folder in self._folders:
            return
        parent = folder.rpartition("/")[0]
        self._ensure_folder(parent, info)
        if folder in self._files:
            raise _both(info, folder)
        made = self._root / folder
        made.mkdir()
        made.chmod(FOLDER_MODE)  # whatever the umask is
        self._folders.add(folder)


def _both(info: ObjectInfo, path: str) -> KeyRefused:
    return KeyRefused(
        f"object key {show(info.key)} cannot be a file: {show(path)} would be a file and a "
        "directory at once"
    )
