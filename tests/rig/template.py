"""What worlds are copies of, and where they are."""

from __future__ import annotations

import os
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from perago_worker.adapters.local.queue import LocalQueue
from perago_worker.adapters.local.store import LocalStore
from perago_worker.adapters.system import SystemClock
from perago_worker.taskdef import build_taskdef
from tests.rig.bodies import KINDS
from tests.support import BRANCH, REPOSITORY, put

FILES = {
    f"{folder}/{name}": name for folder in ("a", "b", "other") for name in ("in.txt", "drop.txt")
}


def fast_folder() -> Path:
    """Return a new folder, in memory where the machine has such a place for files."""
    shared = Path("/dev/shm")  # noqa: S108 -- the place is shared, the folder in it is not
    parent = shared if os.access(shared, os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="perago-rig-", dir=parent))


@cache
def _taskdefs() -> tuple[dict[str, Any], ...]:
    return tuple(build_taskdef(kind) for kind in KINDS)


class Template:
    """An empty queue that knows the tasks, and a store with one commit; worlds are copies."""

    def __init__(self, folder: Path) -> None:
        with closing(LocalQueue(folder / "queue.db", clock=SystemClock(), worker_id="none")) as to:
            for taskdef in _taskdefs():
                to.register_taskdef(taskdef)
        store = LocalStore(folder / "store")
        store.create_repository(REPOSITORY, branch=BRANCH)
        put(store, FILES)
        found = [path.relative_to(folder) for path in sorted(folder.rglob("*"))]
        self._folders = [path for path in found if (folder / path).is_dir()]
        files = [path for path in found if (folder / path).is_file()]
        # What is never written to again need not be copied.
        self._kept = {path: folder / path for path in files if "objects" in path.parts}
        self._copied = {path: (folder / path).read_bytes() for path in {*files} - {*self._kept}}

    def copy(self, root: Path) -> None:
        """Make a world's files in an empty folder."""
        at = f"{root}/"  # joining paths takes as long as making files
        for path in self._folders:
            os.mkdir(f"{at}{path}")  # noqa: PTH102
        for path, original in self._kept.items():
            os.link(original, f"{at}{path}")
        for path, content in self._copied.items():
            with open(f"{at}{path}", "wb") as file:  # noqa: PTH123
                file.write(content)
