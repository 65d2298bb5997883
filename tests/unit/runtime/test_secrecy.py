"""What a body can see of the worker that started it, as the same user."""

from __future__ import annotations

import subprocess
import sys

from tests.support import ROOT

LOOK = """
import ctypes, os, subprocess
from perago_worker.runtime.secrecy import PR_SET_DUMPABLE, keep_to_itself

if os.getuid() == 0:  # who may look into everything
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # which the change of the user undid

def look():
    seen = subprocess.run(["cat", f"/proc/{os.getpid()}/environ"], capture_output=True)
    return b"canary" in seen.stdout

print(look())
keep_to_itself()
keep_to_itself()
print(look())
print(bool(os.listdir("/proc/self/fd")), bool(open("/proc/self/stat").read()))
"""


def test_the_environment_of_the_worker_is_its_own() -> None:
    """Where a child could read it before. The worker itself still can look at what it measures."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "SECRET": "canary", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == ["True", "False", "True", "True"]
