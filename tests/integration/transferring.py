"""A process of its own that moves one large object both ways and tells its memory.

    python -m tests.integration.transferring BYTES PART_BYTES DIRECTORY REPOSITORY

The server is named by PERAGO_TEST_LAKEFS_*. Prints, as JSON, by how many bytes the memory of the
process exceeded at most what it was before, for the way up and the way down.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from perago_worker.adapters.lakefs import LakeFSSettings, LakeFSStore
from perago_worker.attempt.download import fetch
from perago_worker.attempt.ranges import Lanes
from perago_worker.attempt.scan import open_regular
from perago_worker.attempt.transfer import DigestingReader
from perago_worker.ports import Stage

STATUS = Path("/proc/self/status")
REFERENCES = Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # proc_pid_clear_refs(5)


def main(size: int, part_size: int, directory: Path, repository: str) -> dict[str, int]:
    """Move objects of 1 MiB, to have everything loaded, then the large one."""
    store = LakeFSStore.open(
        LakeFSSettings(
            endpoint=os.environ["PERAGO_TEST_LAKEFS_ENDPOINT"],
            access_key_id=os.environ["PERAGO_TEST_LAKEFS_ACCESS_KEY_ID"],
            secret_access_key=os.environ["PERAGO_TEST_LAKEFS_SECRET_ACCESS_KEY"],
            request_timeout_s=120.0,
            presign_part_bytes=part_size,
        )
    )
    stage = store.stage(repository, store.head(repository, "main").id, "perago-transferring")
    send(store, stage, directory, "warm", 1024**2)
    commit = stage.commit("Warm", {})
    bring(store, repository, commit.id, directory, "warm")

    with Peak() as up:
        send(store, stage, directory, "large", size)
    commit = stage.commit("Large", {})
    store.drop_stage(repository, stage.name)
    with Peak() as down:
        bring(store, repository, commit.id, directory, "large")
    store.close()
    return {"up": up.bytes, "down": down.bytes}


def send(store: LakeFSStore, stage: Stage, directory: Path, name: str, size: int) -> None:
    """Write a file of that size and store it."""
    path = directory / name
    with path.open("wb") as file:
        for start in range(0, size, 1024**2):
            file.write(start.to_bytes(8) * (1024**2 // 8))
    with open_regular(path) as file:
        reader = DigestingReader(file, store.new_digest(size))
        assert stage.write(f"ws/{name}", reader.as_binary(), size).size == size


def bring(store: LakeFSStore, repository: str, commit: str, directory: Path, name: str) -> None:
    """Bring an object to where its file is, in ranges if it is large."""
    (info,) = store.list(repository, commit, f"ws/{name}")
    fetch(store, repository, commit, info, directory / name, lanes=Lanes(8))


class Peak:
    """Measures by how much memory grows at most."""

    def __enter__(self) -> Peak:
        REFERENCES.write_text(FORGET_PEAK)
        self._before = kilobytes("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = (kilobytes("VmHWM") - self._before) * 1024


def kilobytes(field: str) -> int:
    """Read a field of the process's status."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    size, part_size, directory, repository = sys.argv[1:]
    grown = main(int(size), int(part_size), Path(directory), repository)
    sys.stdout.write(json.dumps(grown))
