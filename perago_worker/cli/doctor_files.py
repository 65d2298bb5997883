"""What a worker needs for its files: room, a local disk, leases, watches."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from perago_worker.attempt.seal import MAX_FOLDERS
from perago_worker.attempt.watch import CHANGES, Watcher
from perago_worker.cli.check import nearest_that_is_there
from perago_worker.cli.diagnosis import Diagnosis
from perago_worker.config import WorkerConfig

LOW_SHARE = 0.1
LOW_BYTES = 1 << 30
"""Less free than both of these is little; alerts look at the same share."""
NOTHING_BYTES = 64 << 20

FICLONE = 0x40049409
"""Source: linux/fs.h."""

REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "fuse.sshfs", "glusterfs"})

INOTIFY = Path("/proc/sys/fs/inotify")
"""Source: inotify(7)."""


def examine_files(diagnosis: Diagnosis, config: WorkerConfig, *, slots: int) -> None:
    """Look at where workspaces are, for a worker with so many slots."""
    _disk(diagnosis, config.workspace.root)
    _file_system(diagnosis, config)
    warm = config.workspace.warm
    with suppress(OSError):  # the folders were looked at, and told of
        place = nearest_that_is_there(config.workspace.root)
        if kept := slots if warm is None else warm:
            examine_watching(diagnosis, place, kept=kept)


def examine_watching(
    diagnosis: Diagnosis,
    place: Path,
    *,
    kept: int,
    open_watcher: Callable[[], Watcher] = Watcher,
) -> None:
    """Look at whether kept workspaces can be watched, of which there are `kept` at most.

    Args:
        place: A folder, which is watched for a moment.
        open_watcher: Takes an instance of inotify, as a worker does.
    """
    found = (
        f"{_limit('instances')} instances and {_limit('watches')} watches for each user; "
        f"a worker needs 1 and at most {kept * MAX_FOLDERS}"
    )
    try:
        with closing(open_watcher()) as watcher:
            watcher.watch([os.fspath(place)], CHANGES).end()
    except OSError as error:
        what = "instance" if error.errno == errno.EMFILE else "watch"
        diagnosis.warn(
            "inotify",
            f"{found}; there is no {what} to be had: {error.strerror}",
            why="A kept workspace that is not watched has every file looked at before the next "
            "attempt, which takes longer; nothing else changes.",
            todo="raise fs.inotify.max_user_instances or fs.inotify.max_user_watches, or end what "
            "else this user runs that watches files",
        )
    else:
        diagnosis.ok("inotify", found)


def _limit(what: str) -> str:
    try:
        return (INOTIFY / f"max_user_{what}").read_text().strip()
    except OSError:
        return "an unknown number of"


def _disk(diagnosis: Diagnosis, root: Path) -> None:
    try:
        place = nearest_that_is_there(root)
        usage, inodes = shutil.disk_usage(place), os.statvfs(place)
    except OSError as error:
        diagnosis.warn(
            "disk",
            f"cannot be looked at: {error.strerror}",
            why="Attempts fail with disk_full when there is no room.",
            todo=f"look at {root} as the worker's user",
        )
        return
    share = usage.free / usage.total if usage.total else 1.0
    found = f"{usage.free / 2**30:.1f} GiB free ({share:.0%}) for {root}"
    if inodes.f_files and inodes.f_favail < 10_000:
        found += f", and room for {inodes.f_favail} files"
    why = "Attempts fail with disk_full when there is no room."
    todo = "make room, set workspace.warm lower, or name another disk by workspace.root"
    if usage.free < NOTHING_BYTES or (inodes.f_files and not inodes.f_favail):
        diagnosis.fail("disk", found, why=why, todo=todo)
    elif share < LOW_SHARE and usage.free < LOW_BYTES:
        diagnosis.warn("disk", found, why=why, todo=todo)
    else:
        diagnosis.ok("disk", found)


def _file_system(diagnosis: Diagnosis, config: WorkerConfig) -> None:
    root = config.workspace.root
    kind = _kind_of_file_system(root)
    if kind in REMOTE:
        diagnosis.warn(
            "file system",
            f"{root} is on {kind}",
            why="Workspaces are made of many small files, and owners are told by locks.",
            todo="name a local folder by workspace.root",
        )
    try:
        place = nearest_that_is_there(root)
        with tempfile.TemporaryDirectory(prefix="perago-doctor-", dir=place) as folder:
            leases, reflinks = _takes_leases(Path(folder)), _reflinks(Path(folder))
    except OSError:
        return  # the folders were looked at, and told of
    if config.workspace.warm != 0 and not leases:
        diagnosis.warn(
            "leases",
            f"{kind or 'the file system'} at {root} gives no leases on files",
            why="Without them a workspace cannot be kept for the next attempt: each is downloaded.",
            todo="name a folder on a local disk by workspace.root, or set workspace.warm = 0",
        )
    else:
        diagnosis.ok("leases", "files can be told from those still being written")
    diagnosis.ok("reflinks", _what_reflinks_are_for(reflinks, cache_bytes=config.cache_bytes))


def _what_reflinks_are_for(supported: bool, *, cache_bytes: int) -> str:
    found = "supported" if supported else "not supported"
    if not cache_bytes:
        return f"{found}; of use for the content cache only, which is off (workspace.cache_max)"
    if supported:
        return f"{found}: files and their entries in the content cache share their room"
    return f"{found}: files and their entries in the content cache are copies and take room each"


def _takes_leases(folder: Path) -> bool:
    file = folder / "lease"
    file.touch()
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _reflinks(folder: Path) -> bool:
    (folder / "from").write_bytes(b"x" * 4096)
    with (folder / "from").open("rb") as source, (folder / "to").open("wb") as target:
        try:
            fcntl.ioctl(target, FICLONE, source.fileno())
        except OSError:
            return False
    return True


def _kind_of_file_system(path: Path) -> str:
    """Return the type of the file system a path is on; empty when it cannot be told."""
    best, kind = "", ""
    with suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, mounted_at, found, *_ = line.split(" ")
            place = mounted_at.encode().decode("unicode_escape")
            if path.is_relative_to(place) and len(place) >= len(best):
                best, kind = place, found
    return kind
