#!/usr/bin/env python3
"""Run a command where a one-node Kubernetes can be started, and leave nothing of it behind.

    python deploy/node/enclosed.py COMMAND...       # as root

The command gets a network, mounts and processes of its own, and PERAGO_NODE_DIR: a folder with the
images, for the node's data. The end of the command, however it comes, is the end of all processes
it has started, and of their addresses and mounts; then the folder and the control groups go too.
What has to be built is built before: Kubernetes from its Go module, the servers, the images.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    # Run as a file, this is part of no package: let it find the modules beside it by their names.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from deploy import image, render
from deploy.node.install import binaries, check_packages, save_images
from deploy.servers.install import install
from deploy.servers.tools import ServersError, say

NAMESPACES = [
    # The first ends the others when this process is killed.
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--net", "--mount", "--propagation", "private"),
    *("--pid", "--fork", "--kill-child", "--mount-proc"),
]

# Not `exec`: as process 1 the shell reaps what its descendants leave. What is kept in the folders
# of mounts would stay outside otherwise: containerd, kubelet and CNI have names of their own there.
INSIDE = """
mount --make-rshared /
for folder in /run /var/lib /var/log; do mount -t tmpfs node "$folder"; done
ip link set lo up
"$@"
exit $?
"""

PREFIX = "perago-node-"
GROUPS = Path("/sys/fs/cgroup")
GONE_TIMEOUT_S = 20.0

WATCHES = Path("/proc/sys/fs/inotify/max_user_instances")
ENOUGH_WATCHES = 1024
"""Kubernetes takes some hundred; without them containerd starts and cannot run pods."""


def main(command: Sequence[str]) -> int:
    """Prepare, run the command, clear away; return the command's exit code."""
    if not command:
        say(__doc__ or "")
        return 2
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    held = _lock(folder)
    watches = WATCHES.read_text()
    try:
        check_packages()
        install()
        programs = binaries()
        render.tool("helm")
        save_images(folder)
        _make_groups(folder.name)
        if int(watches) < ENOUGH_WATCHES:
            WATCHES.write_text(str(ENOUGH_WATCHES))
        environment = {
            **os.environ,
            "PERAGO_NODE_DIR": str(folder),
            "PATH": f"{programs}:{os.environ.get('PATH', os.defpath)}",
        }
        shell = ["bash", "-euc", INSIDE, "bash"]
        enclosed = [*NAMESPACES, *shell, *command]
        return subprocess.run(enclosed, env=environment, check=False).returncode  # noqa: S603 -- what was asked for
    except (ServersError, image.ImageError) as failed:
        say(str(failed))
        return 1
    finally:
        if WATCHES.read_text() != watches:
            WATCHES.write_text(watches)
        _remove(folder)
        os.close(held)


def _sweep() -> None:
    """Remove what killed predecessors left; their processes are gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            held = _lock(folder)
        except BlockingIOError:
            continue
        _remove(folder)
        os.close(held)


def _lock(folder: Path) -> int:
    """Hold a folder for as long as this process lives and the descriptor is open."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise
    return held


def _remove(folder: Path) -> None:
    _remove_groups(folder.name)
    shutil.rmtree(folder, ignore_errors=True)


def _roots() -> list[Path]:
    """Return where control groups begin: once for each controller, or once for all (version 2)."""
    if (GROUPS / "cgroup.controllers").exists():
        return [GROUPS]
    return [entry for entry in GROUPS.iterdir() if entry.is_dir() and not entry.is_symlink()]


def _make_groups(name: str) -> None:
    for root in _roots():
        (root / name).mkdir()


def _remove_groups(name: str) -> None:
    for root in _roots():
        # From the inside out; the files in them are the kernel's.
        for group, _, _ in os.walk(root / name, topdown=False):
            _remove_group(Path(group))


def _remove_group(group: Path) -> None:
    give_up_at = time.monotonic() + GONE_TIMEOUT_S
    while True:
        try:
            group.rmdir()
        except OSError:  # processes that were killed are in it until they are gone
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.1)
        else:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
