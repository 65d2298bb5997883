"""What a process has in memory, written to a file by itself: a core without a crash.

From inside, because nobody but a privileged user may look into a body's process from outside.
"""

from __future__ import annotations

import ctypes
from pathlib import Path


def write_memory(target: Path) -> None:
    """Write all readable memory but the unchangeable pages of files, one mapping after the other.

    The kernel reads it on behalf of `write`, so that what cannot be read is an error and no crash.
    """
    libc = ctypes.CDLL(None)
    libc.write.restype = ctypes.c_ssize_t
    mappings = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    with target.open("wb", buffering=0) as file:
        for place, permissions, _, _, inode, *_ in mappings:
            if "r" not in permissions or ("w" not in permissions and inode != "0"):
                continue
            address, end = (int(each, 16) for each in place.split("-"))
            while address < end:
                length = ctypes.c_size_t(end - address)
                written = libc.write(file.fileno(), ctypes.c_void_p(address), length)
                if written <= 0:
                    break
                address += written
