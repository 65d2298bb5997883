"""A lakeFS that signs addresses: bytes pass it by, and everything else stays as it is."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.servers.object_storage import LakeFSOnObjectStore
from perago_worker.attempt.download import fetch
from perago_worker.attempt.ranges import MIN_RANGED_BYTES, Lanes
from perago_worker.errors import StoreUnavailable
from tests.contract.lakefs_harness import LakeFSHarness, open_presigned

pytestmark = pytest.mark.servers

SIGNED = "X-Amz-Signature="
SMALL = os.urandom(10_000)
LARGE = os.urandom(MIN_RANGED_BYTES + 12_345)


@pytest.fixture
def harness(lakefs_on_object_store: LakeFSOnObjectStore) -> Iterator[LakeFSHarness]:
    with open_presigned(lakefs_on_object_store, request_timeout_s=5.0) as harness:
        yield harness


class Requests:
    """The requests by signed addresses that the object store has answered since."""

    def __init__(self, servers: LakeFSOnObjectStore) -> None:
        self._log = servers.store.log_path
        self._seen = self._log.stat().st_size

    def count(self, method: str) -> int:
        with self._log.open("rb") as log:
            log.seek(self._seen)
            lines = log.read().decode(errors="replace").splitlines()
        return sum(f"{method} /" in line and SIGNED in line for line in lines)


def stored(harness: LakeFSHarness, content: bytes) -> tuple[str, str]:
    """Return repository and commit of one object `ws/file`."""
    store, repository = harness.store, harness.repository()
    stage = store.stage(repository, store.head(repository, "main").id, "perago-presigned")
    stage.write("ws/file", io.BytesIO(content), len(content))
    return repository, stage.commit("One object", {}).id


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_bytes_pass_lakefs_by_and_are_verified(
    harness: LakeFSHarness,
    lakefs_on_object_store: LakeFSOnObjectStore,
    tmp_path: Path,
    content: bytes,
) -> None:
    """In one piece or in parts, lakeFS lists the checksum of the content."""
    requests = Requests(lakefs_on_object_store)
    repository, commit = stored(harness, content)
    assert requests.count("PUT") == -(-len(content) // (5 * 1024**2))

    (info,) = harness.store.list(repository, commit, "ws/")
    assert info.checksum == hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert info.verifiable
    target = tmp_path / "file"
    assert fetch(harness.store, repository, commit, info, target, lanes=Lanes(8)) == info.checksum
    assert target.read_bytes() == content
    assert requests.count("GET") == (1 if content is SMALL else -(-len(content) // 16 // 1024**2))


def test_it_can_be_switched_off(lakefs_on_object_store: LakeFSOnObjectStore) -> None:
    requests = Requests(lakefs_on_object_store)
    with open_presigned(lakefs_on_object_store, presign=False) as harness:
        repository, commit = stored(harness, SMALL)
        into = io.BytesIO()
        assert harness.store.read(repository, commit, "ws/file", into) == len(SMALL)
    assert into.getvalue() == SMALL
    assert requests.count("PUT") == requests.count("GET") == 0


def test_an_object_store_that_does_not_answer_is_unavailable_until_it_does(
    lakefs_on_object_store: LakeFSOnObjectStore,
) -> None:
    with open_presigned(lakefs_on_object_store, request_timeout_s=1.0) as harness:
        repository, commit = stored(harness, SMALL)
        lakefs_on_object_store.store.pause()
        try:
            with pytest.raises(StoreUnavailable) as caught:
                harness.store.read(repository, commit, "ws/file", io.BytesIO())
        finally:
            lakefs_on_object_store.store.resume()
        assert SIGNED not in str(caught.value)
        into = io.BytesIO()
        assert harness.store.read(repository, commit, "ws/file", into) == len(SMALL)
    assert into.getvalue() == SMALL
