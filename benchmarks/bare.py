"""What the servers allow: the same bytes and calls through a bare pool of connections.

Downloads go to files, because that is what a workspace is. Nothing is verified, unless it is asked
for: what a checksum costs is then part of what the machine allows.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from benchmarks.platform import THREADS, LakeFS, each

RANGE_BYTES = 64 << 20
CHUNK_BYTES = 1 << 20


def download_seconds(
    lakefs: LakeFS, repository: str, ref: str, prefix: str, *, verified: bool = False
) -> float:
    """Time listing a prefix and reading its objects over 8 connections.

    Large objects are read in ranges; `verified`, each in one go, its MD5 computed on the way.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as created:
        folder = Path(created)
        started_at = time.perf_counter()
        listing = lakefs.listing(repository, ref, prefix)
        files = [folder / str(number) for number in range(len(listing))]

        def get(part: tuple[int, int, int]) -> None:
            number, start, end = part
            key, size = listing[number]
            ranged = {"Range": f"bytes={start}-{end - 1}"} if end - start < size else {}
            answer = lakefs.call(
                "GET", "repositories", repository, "refs", ref, "objects",
                query={"path": key}, headers=ranged, stream=True,
            )  # fmt: skip
            digest = hashlib.md5(usedforsecurity=False)
            with files[number].open("r+b" if ranged else "wb") as file:
                file.seek(start)
                for chunk in answer.stream(CHUNK_BYTES):
                    if verified:
                        digest.update(chunk)
                    file.write(chunk)
            answer.release_conn()

        longest = sys.maxsize if verified else RANGE_BYTES
        for file, (_, size) in zip(files, listing, strict=True):
            if size > longest:
                with file.open("wb") as empty:
                    os.truncate(empty.fileno(), size)
        each(get, _ranges([size for _, size in listing], longest), threads=THREADS)
        return time.perf_counter() - started_at


def _ranges(sizes: list[int], longest: int) -> Iterator[tuple[int, int, int]]:
    for number, size in enumerate(sizes):
        for start in range(0, max(size, 1), longest):
            yield number, start, min(size, start + longest)


def publish_seconds(
    lakefs: LakeFS, place: Mapping[str, str], prefix: str, sizes: Sequence[int]
) -> float:
    """Time putting objects on a branch of their own, over 8 connections, committing and merging.

    With the calls that a publication makes besides: a look at the branch's head, a look at the
    merge, and the end of the branch. `place` is a task's workspace.
    """
    repository, branch = place["repository"], place["branch"]
    with tempfile.TemporaryDirectory(prefix="bench-") as created:
        files = [Path(created) / str(number) for number in range(len(sizes))]
        for file, size in zip(files, sizes, strict=True):
            _fill(file, size)
        stage = f"bench-{uuid.uuid4().hex[:12]}"
        at = ("repositories", repository)

        def put(number: int) -> None:
            with files[number].open("rb") as file:
                key = f"{prefix}/d{number // 100:03}/f{number:05}.bin"
                lakefs.upload(repository, stage, key, file, sizes[number])

        started_at = time.perf_counter()
        lakefs.branch(repository, stage, place["ref"])
        each(put, range(len(sizes)), threads=THREADS)
        commit = lakefs.commit(repository, stage)
        lakefs.json("GET", *at, "refs", branch, "commits", query={"amount": "1"})
        merge = lakefs.json("POST", *at, "refs", commit, "merge", branch, send={"message": "m"})
        lakefs.json("GET", *at, "commits", merge["reference"])
        lakefs.call("DELETE", *at, "branches", stage)
        return time.perf_counter() - started_at


def _fill(path: Path, size: int) -> None:
    file: BinaryIO
    with path.open("wb") as file:
        block = os.urandom(min(size, CHUNK_BYTES))
        left = size
        while left > 0:
            left -= file.write(block[:left])
