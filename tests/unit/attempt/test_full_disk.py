"""A disk that fills up while files are written: told as that, and nothing is left of them.

The kernel itself refuses: a process may be limited in how large its files grow, and takes writes up
to that size, as a full disk does. Each test is a process of its own, since the limit is.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

FETCH = """
import io, os, resource, sys
from pathlib import Path
from perago_worker.adapters.local.store import LocalStore
from perago_worker.attempt.download import fetch

root, room = Path(sys.argv[1]), int(sys.argv[2])
store, content = LocalStore(root / "store"), os.urandom(3_000_000)
(root / "store").mkdir()
base = store.create_repository("data")
stage = store.stage("data", base.id, "perago-1")
stage.write("ws/file", io.BytesIO(content), len(content))
commit = stage.commit("One file", {})
(info,) = store.list("data", commit.id, "ws/")
folder = root / "ws"
folder.mkdir()

no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (room, no_limit[1]))
try:
    fetch(store, "data", commit.id, info, folder / "file")
except OSError as error:
    print(error.strerror)
assert not list(folder.iterdir()), list(folder.iterdir())

resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
fetch(store, "data", commit.id, info, folder / "file")
assert (folder / "file").read_bytes() == content
assert [path.name for path in folder.iterdir()] == ["file"]
"""


@pytest.mark.parametrize("room", [0, 1, 1_500_000, 2_999_999])
def test_a_file_that_does_not_fit_leaves_nothing_and_is_fetched_when_it_does(
    tmp_path: Path, room: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FETCH, str(tmp_path), str(room)],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "File too large"), done.stderr
