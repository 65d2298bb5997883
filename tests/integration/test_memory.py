"""The memory that a large object costs: the same as any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.servers.object_storage import BUCKET, LakeFSOnObjectStore
from deploy.servers.servers import LakeFSAccess
from perago_worker.adapters.lakefs import LakeFSSettings
from tests.contract.lakefs_harness import open_harness

pytestmark = pytest.mark.servers

SIZE = int(os.environ.get("PERAGO_TEST_TRANSFER_BYTES", "536870912"))
ROOM = 64 * 1024**2


def transferred(
    access: LakeFSAccess,
    directory: Path,
    size: int,
    *,
    namespace: str,
    part_size: int = LakeFSSettings.presign_part_bytes,
) -> dict[str, int]:
    """Move an object both ways in a process of its own; return what memory that took."""
    with open_harness(access, namespace=namespace) as harness:
        repository = harness.repository()
    command = [sys.executable, "-m", "tests.integration.transferring"]
    done = subprocess.run(
        [*command, str(size), str(part_size), str(directory), repository],
        capture_output=True,
        check=False,
        text=True,
        env={
            **os.environ,
            "PERAGO_TEST_LAKEFS_ENDPOINT": access.endpoint,
            "PERAGO_TEST_LAKEFS_ACCESS_KEY_ID": access.access_key_id,
            "PERAGO_TEST_LAKEFS_SECRET_ACCESS_KEY": access.secret_access_key,
        },
    )
    assert done.returncode == 0, done.stderr
    grown: dict[str, int] = json.loads(done.stdout)
    return grown


@pytest.mark.timeout(600)
def test_a_large_object_is_never_in_memory(lakefs: LakeFSAccess, tmp_path: Path) -> None:
    """512 MiB; PERAGO_TEST_TRANSFER_BYTES tries another size."""
    grown = transferred(lakefs, tmp_path, SIZE, namespace="local:/")
    print(f"{SIZE} bytes took {grown}")  # noqa: T201 -- the figure, for whoever asks with -s
    assert max(grown.values()) <= ROOM


@pytest.mark.parametrize("part_size", [1024**3, 96 * 1024**2], ids=["whole", "in parts"])
def test_nor_is_one_that_passes_lakefs_by(
    lakefs_on_object_store: LakeFSOnObjectStore, tmp_path: Path, part_size: int
) -> None:
    grown = transferred(
        lakefs_on_object_store.lakefs.access,
        tmp_path,
        128 * 1024**2,
        namespace=f"s3://{BUCKET}",
        part_size=part_size,
    )
    assert max(grown.values()) <= ROOM
