"""A lakeFS that signs addresses: bytes pass it by, and everything else stays as it is."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from deploy.servers.object_storage import BUCKET, LakeFSOnObjectStore, lakefs_settings
from deploy.servers.servers import LakeFSServer
from perago_worker.attempt.backoff import Retry
from perago_worker.attempt.download import fetch
from perago_worker.attempt.ranges import MIN_RANGED_BYTES, Lanes
from perago_worker.attempt.transfer import DigestingReader
from perago_worker.errors import StoreUnavailable
from tests.contract.lakefs_harness import LakeFSHarness, open_harness, open_presigned
from tests.rig.fault_proxy import FaultProxy, Sent
from tests.support import HastyClock

pytestmark = pytest.mark.servers

SIGNED = "X-Amz-Signature="
PART = 5 * 1024**2
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


class Relay(FaultProxy):
    """Stands before the object store; something happens to one request for a part.

    Attributes:
        parts: The numbers of the parts that were sent, in their order.
    """

    def __init__(self, target: str) -> None:
        self.parts: list[int] = []
        self.breaks: tuple[int, str] = (0, "")
        super().__init__(target)

    def note(self, method: str, target: str, body: bytes) -> tuple[Sent, str]:
        sent, _ = super().note(method, target, body)
        number = int(parse_qs(urlsplit(target).query).get("partNumber", ["0"])[0])
        if method != "PUT" or not number:
            return sent, ""
        first_time = number not in self.parts
        self.parts.append(number)
        return sent, self.breaks[1] if first_time and number == self.breaks[0] else ""


@pytest.fixture
def relay(lakefs_on_object_store: LakeFSOnObjectStore) -> Iterator[Relay]:
    with closing(Relay(lakefs_on_object_store.store.url)) as relay:
        yield relay


@pytest.fixture
def relayed(
    lakefs_on_object_store: LakeFSOnObjectStore, relay: Relay, tmp_path: Path
) -> Iterator[LakeFSHarness]:
    """Another lakeFS over the same object store, whose signed addresses lead through the relay."""
    settings = lakefs_settings(lakefs_on_object_store.store)
    settings["LAKEFS_BLOCKSTORE_S3_PRE_SIGNED_ENDPOINT"] = relay.url
    server = LakeFSServer(tmp_path / "lakefs", settings=settings)
    server.start()
    try:
        with open_harness(
            server.access,
            namespace=f"s3://{BUCKET}",
            presign_from_bytes=0,
            presign_part_bytes=PART,
            request_timeout_s=5.0,
        ) as harness:
            yield harness
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("number", "action"), [(1, "reset_before"), (2, "reset_after"), (3, "503"), (2, "closed_after")]
)
def test_a_part_that_breaks_is_sent_again_and_no_other(
    relayed: LakeFSHarness, relay: Relay, number: int, action: str
) -> None:
    content = os.urandom(2 * PART + 12_345)
    relay.breaks = (number, action)
    store, repository = relayed.store, relayed.repository()
    stage = store.stage(repository, store.head(repository, "main").id, "perago-presigned")
    reader = DigestingReader(
        io.BytesIO(content), store.new_digest(len(content)), repeats=quick_retry().repeats
    )

    stored = stage.write("ws/file", reader.as_binary(), len(content))

    assert sorted(relay.parts) == sorted([1, 2, 3, number])
    assert stored.checksum == hashlib.md5(content, usedforsecurity=False).hexdigest()
    into = io.BytesIO()
    commit = stage.commit("One object", {}).id
    assert store.read(repository, commit, "ws/file", into) == len(content)
    assert into.getvalue() == content


def quick_retry() -> Retry:
    return Retry(
        StoreUnavailable,
        tries=3,
        first_s=1.0,
        cap_s=30.0,
        factor=4.0,
        clock=HastyClock(),
        stop=threading.Event(),
        check=lambda: None,
    )


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
