"""Objects by signed addresses: where they may lead, and what happens when they lead nowhere."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from perago_worker.adapters.lakefs import LakeFSSettings, LakeFSStore
from perago_worker.adapters.lakefs.storage import Storage, Unusable, may_be_reached
from perago_worker.attempt.transfer import DigestingReader
from perago_worker.errors import NotFound, StoreUnavailable
from perago_worker.events import RequestFinished
from tests.support import Recorder, raising
from tests.unit.scripted_server import Act, ScriptedServer, answer, cut_off, cut_off_after, serving

SECRET = "a-secret-that-must-not-be-seen"  # noqa: S105 -- of a server that lives for one test
SIGNATURE = "X-Amz-Signature=0123456789abcdef"
COMMIT = "c" * 64
OFFER = {
    "storage_config": {
        "blockstore_type": "s3",
        "pre_sign_support": True,
        "pre_sign_multipart_upload": True,
    }
}
CONTENT = b"hello"
CHECKSUM = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
ENTRY = {"path": "ws/a", "checksum": CHECKSUM, "size_bytes": len(CONTENT)}
config = answer(200, OFFER)
missing = answer(404, {"message": "not found"})


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    with serving() as start:
        yield start


@pytest.fixture
def store_over() -> Iterator[Callable[..., LakeFSStore]]:
    stores: list[LakeFSStore] = []

    def connect(lakefs: ScriptedServer, **changes: Any) -> LakeFSStore:
        store = LakeFSStore.open(settings(lakefs.endpoint, presign_from_bytes=0, **changes))
        stores.append(store)
        return store

    yield connect
    for store in stores:
        store.close()


def settings(endpoint: str, **changes: Any) -> LakeFSSettings:
    return LakeFSSettings(
        endpoint=endpoint, access_key_id="AKIAEXAMPLE", secret_access_key=SECRET, **changes
    )


def leads_to(server: ScriptedServer | str) -> Act:
    address = server if isinstance(server, str) else f"{server.endpoint}/bucket/x?{SIGNATURE}"
    return answer(302, b"", Location=address)


def staged_at(server: ScriptedServer) -> Act:
    address = f"{server.endpoint}/bucket/x?{SIGNATURE}"
    return answer(200, {"physical_address": "s3://bucket/x", "presigned_url": address})


def read(store: LakeFSStore, **part: int) -> bytes:
    into = io.BytesIO()
    assert store.read("data", COMMIT, "ws/a", into, **part) == len(into.getvalue())
    return into.getvalue()


def write(store: LakeFSStore) -> str:
    stage = store.stage("data", COMMIT, "perago-1")
    return stage.write("ws/a", io.BytesIO(CONTENT), len(CONTENT)).checksum


created = answer(201, b"c" * 64)


# --- reading --------------------------------------------------------------------------------------


def test_an_object_is_read_where_its_address_leads(serve: Any, store_over: Any) -> None:
    objects = serve(answer(200, CONTENT))
    lakefs = serve(config, leads_to(objects))
    store = store_over(lakefs)
    assert [read(store), read(store)] == [CONTENT, CONTENT]
    assert objects.targets == [f"GET /bucket/x?{SIGNATURE}"] * 2
    assert [target.partition("?")[0] for target in lakefs.targets] == [
        "GET /api/v1/config",  # once
        *[f"GET /api/v1/repositories/data/refs/{COMMIT}/objects"] * 2,
    ]


def test_requests_to_the_object_store_are_told_of_without_their_addresses(
    serve: Any,
) -> None:
    objects = serve(answer(200, CONTENT, ETag=f'"{CHECKSUM}"'), answer(503, b""))
    lakefs = serve(config, leads_to(objects), created, staged_at(objects), answer(200, ENTRY))
    recorder = Recorder()
    given = settings(lakefs.endpoint, presign_from_bytes=0)
    with closing(LakeFSStore.open(given, listener=recorder)) as store:
        read(store)
        with pytest.raises(StoreUnavailable):
            write(store)

    told = [e for e in recorder.of(RequestFinished) if e.service == "storage"]
    assert [(e.operation, e.method, e.status) for e in told] == [
        ("read", "GET", 200),
        ("write", "PUT", 503),
    ]
    assert "Signature" not in str(told)


def test_what_is_known_to_be_small_is_read_through_lakefs(serve: Any, store_over: Any) -> None:
    """To ask for its address costs as much as the object does."""
    lakefs = serve(answer(200, CONTENT))
    store = LakeFSStore.open(settings(lakefs.endpoint, presign_from_bytes=6))
    assert read(store, listed_size=5) == CONTENT
    assert len(lakefs.requests) == 1
    store.close()
    objects = serve(answer(200, CONTENT))
    assert read(store_over(serve(config, leads_to(objects))), listed_size=5) == CONTENT
    assert len(objects.requests) == 1


def test_no_credentials_are_sent_to_the_object_store(serve: Any, store_over: Any) -> None:
    objects = serve(answer(200, CONTENT, ETag=f'"{CHECKSUM}"'))
    read(store_over(serve(config, leads_to(objects))))
    write(store_over(serve(created, config, staged_at(objects), answer(200, ENTRY))))
    assert [request.method for request in objects.requests] == ["GET", "PUT"]
    for request in objects.requests:
        assert set(request.headers) <= {"host", "accept-encoding", "user-agent", "content-length"}
        assert SECRET not in str(request.headers)


def test_a_range_is_asked_for_where_the_address_leads(serve: Any, store_over: Any) -> None:
    part = answer(206, b"ell", Content_Range="bytes 1-3/5")
    objects = serve(part, answer(416, b"<Error/>"))
    store = store_over(serve(config, leads_to(objects)))
    assert read(store, start=1, size=3) == b"ell"
    assert read(store, start=9, size=3) == b""
    assert [request.headers["range"] for request in objects.requests] == ["bytes=1-3", "bytes=9-11"]


@pytest.mark.parametrize(
    "refusal",
    [
        answer(403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message>"),
        answer(404, b"<Error/>"),
        answer(503, b"<Error/>"),
        answer(200, CONTENT[1:3]),  # not the range that was asked for
        answer(307, b"", Location="http://127.0.0.1:9/elsewhere"),
        cut_off,
        cut_off_after(b"HTTP/1.1 2"),
    ],
    ids=["expired", "missing", "overloaded", "whole", "redirect", "silent", "cut"],
)
def test_where_an_address_leads_nowhere_lakefs_is_read_from(
    serve: Any, store_over: Any, refusal: Act
) -> None:
    """And again, without asking for another address; an object store is not asked twice."""
    objects = serve(refusal)
    part = answer(206, b"ell", Content_Range="bytes 1-3/5")
    lakefs = serve(config, leads_to(objects), part)
    store = store_over(lakefs)
    assert read(store, start=1, size=3) == b"ell"
    assert read(store, start=1, size=3) == b"ell"
    assert len(objects.requests) == 1
    assert ["presign=true" in target for target in lakefs.targets] == [False, True, False, False]


def test_an_object_store_that_is_away_is_no_failure(serve: Any, store_over: Any) -> None:
    gone = serve()
    store = store_over(serve(config, leads_to(gone), answer(200, CONTENT)))
    gone.stop()
    assert read(store) == CONTENT


def test_an_object_that_ends_early_is_not_continued_elsewhere(serve: Any, store_over: Any) -> None:
    """Some of it has been written, and only the caller can begin again."""
    objects = serve(cut_off_after(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"))
    lakefs = serve(config, leads_to(objects))
    with pytest.raises(StoreUnavailable, match="the object store") as caught:
        read(store_over(lakefs))
    assert SIGNATURE not in str(caught.value)
    assert len(lakefs.requests) == 2


def test_what_lakefs_does_not_know_is_not_looked_for_elsewhere(serve: Any, store_over: Any) -> None:
    lakefs = serve(config, missing, answer(200, {"id": COMMIT, "parents": [], "committer": "c"}))
    with pytest.raises((NotFound, StoreUnavailable)):
        read(store_over(lakefs))
    assert len(lakefs.requests) == 3  # the last one finds out what is missing


@pytest.mark.parametrize(
    "said",
    [
        answer(200, {"storage_config": {"blockstore_type": "local", "pre_sign_support": False}}),
        answer(200, {}),
        answer(403, {"message": "forbidden"}),
        answer(404, b"no such page"),
        answer(500, b""),
        answer(200, b"<html>"),
    ],
)
def test_where_no_addresses_are_signed_none_is_asked_for(
    serve: Any, store_over: Any, said: Act
) -> None:
    lakefs = serve(said, answer(200, CONTENT))
    assert read(store_over(lakefs)) == CONTENT
    assert not [target for target in lakefs.targets if "presign" in target]


def test_it_can_be_switched_off(serve: Any, store_over: Any) -> None:
    lakefs = serve(answer(200, CONTENT))
    assert read(store_over(lakefs, presign=False)) == CONTENT
    assert len(lakefs.requests) == 1


@pytest.mark.parametrize("said", [answer(200, CONTENT), answer(400, {"message": "not supported"})])
def test_a_server_that_signs_none_after_all_is_read_from(
    serve: Any, store_over: Any, said: Act
) -> None:
    lakefs = serve(config, said, answer(200, CONTENT))
    assert read(store_over(lakefs)) == CONTENT


# --- writing --------------------------------------------------------------------------------------


def test_an_object_is_written_where_its_address_leads(serve: Any, store_over: Any) -> None:
    """And lakeFS is told its checksum, after the object store has shown the same one."""
    objects = serve(answer(200, b"", ETag=f'"{CHECKSUM}"'))
    lakefs = serve(created, config, staged_at(objects), answer(200, ENTRY))
    assert write(store_over(lakefs)) == CHECKSUM
    assert objects.requests[0].body == CONTENT
    assert "transfer-encoding" not in objects.requests[0].headers
    assert json.loads(lakefs.requests[-1].body) == {
        "staging": {"physical_address": "s3://bucket/x"},
        "checksum": CHECKSUM,
        "size_bytes": len(CONTENT),
        "content_type": "application/octet-stream",
    }


def test_a_checksum_that_the_caller_computes_is_not_computed_again(
    serve: Any, store_over: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perago_worker.adapters.lakefs.presigned._md5", raising(AssertionError()))
    objects = serve(answer(200, b"", ETag=f'"{CHECKSUM}"'))
    lakefs = serve(created, config, staged_at(objects), answer(200, ENTRY))
    store = store_over(lakefs)
    reader = DigestingReader(io.BytesIO(CONTENT), store.new_digest(len(CONTENT)))
    stage = store.stage("data", COMMIT, "perago-1")
    assert stage.write("ws/a", reader.as_binary(), len(CONTENT)).checksum == CHECKSUM
    assert json.loads(lakefs.requests[-1].body)["checksum"] == CHECKSUM


@pytest.mark.parametrize("tag", ["0" * 32, "opaque-3", None])
def test_what_the_object_store_does_not_vouch_for_is_not_taken(
    serve: Any, store_over: Any, tag: str | None
) -> None:
    """The object goes through lakeFS at the next try, and so do all others."""
    objects = serve(answer(200, b"", **({} if tag is None else {"ETag": tag})))
    lakefs = serve(created, config, staged_at(objects), created, answer(201, ENTRY))
    store = store_over(lakefs)
    with pytest.raises(StoreUnavailable, match="checksum of what it stored"):
        write(store)
    assert write(store) == CHECKSUM
    assert len(objects.requests) == 1
    assert lakefs.targets[-1].startswith("POST /api/v1/repositories/data/branches/perago-1/objects")


def test_an_object_store_that_refuses_is_written_to_through_lakefs(
    serve: Any, store_over: Any
) -> None:
    """At the next try: the file has been read."""
    objects = serve(answer(403, b"<Error/>"))
    lakefs = serve(created, config, staged_at(objects), created, answer(201, ENTRY))
    store = store_over(lakefs)
    with pytest.raises(StoreUnavailable, match="answered 403") as caught:
        write(store)
    assert SIGNATURE not in str(caught.value)
    assert write(store) == CHECKSUM


def test_an_object_store_that_is_away_is_written_to_through_lakefs(
    serve: Any, store_over: Any
) -> None:
    """At once: nothing of the file has been read."""
    gone = serve()
    lakefs = serve(created, config, staged_at(gone), answer(201, ENTRY))
    gone.stop()
    assert write(store_over(lakefs)) == CHECKSUM


def test_only_what_is_large_enough_is_written_elsewhere(serve: Any, store_over: Any) -> None:
    lakefs = serve(created, answer(201, ENTRY))
    store = LakeFSStore.open(settings(lakefs.endpoint, presign_from_bytes=6))
    assert write(store) == CHECKSUM
    store.close()


def test_parts_that_were_not_completed_are_given_up(serve: Any, store_over: Any) -> None:
    objects = serve(answer(503, b""))
    urls = [f"{objects.endpoint}/x?partNumber={number}&{SIGNATURE}" for number in (1, 2)]
    parts = {"physical_address": "s3://bucket/x", "presigned_urls": urls, "upload_id": "up/1"}
    lakefs = serve(created, config, answer(201, parts), answer(204, b""))
    with pytest.raises(StoreUnavailable, match="answered 503"):
        write(store_over(lakefs, presign_part_bytes=3))
    assert lakefs.targets[-1].startswith("DELETE ")
    assert "/staging/pmpu/up%2F1?path=ws%2Fa" in lakefs.targets[-1]


class Parts:
    """An object store and a lakeFS over which `CONTENT` is stored as `hel` and `lo`.

    Attributes:
        objects: Answers what is sent to it in turn: the first part, then as the test says.
        tries: How often each part is tried.
    """

    def __init__(self, serve: Any, store_over: Any, *then: Act, tries: int = 3) -> None:
        self.objects: ScriptedServer = serve(tagged(b"hel"), *then)
        self.tries = tries
        urls = [self.signed(number) for number in (1, 2)]
        self.begun = {"physical_address": "s3://x", "presigned_urls": urls, "upload_id": "up"}
        self.serve, self.store_over = serve, store_over

    def signed(self, number: int, *, when: str = "") -> str:
        return f"{self.objects.endpoint}/x?partNumber={number}{when}&{SIGNATURE}"

    def write(self, *lakefs: Act) -> str:
        """Write the object, lakeFS answering so after it has begun; return the checksum."""
        self.lakefs = self.serve(created, config, answer(201, self.begun), *lakefs)
        store: LakeFSStore = self.store_over(self.lakefs, presign_part_bytes=3)
        reader = DigestingReader(
            io.BytesIO(CONTENT),
            store.new_digest(len(CONTENT)),
            repeats=lambda: iter([True] * (self.tries - 1) + [False]).__next__,
        )
        stage = store.stage("data", COMMIT, "perago-1")
        checksum = stage.write("ws/a", reader.as_binary(), len(CONTENT)).checksum
        assert checksum == reader.digest.hexdigest()
        return checksum

    @property
    def sent(self) -> list[tuple[str, bytes]]:
        """What the object store was sent: which part, and the bytes."""
        return [
            (request.target.partition("partNumber=")[2].partition("&")[0], request.body)
            for request in self.objects.requests
        ]

    @property
    def asked(self) -> list[str]:
        """What lakeFS was asked for once the upload had begun."""
        return [
            target.partition("?")[0].partition("/staging/")[2] for target in self.lakefs.targets
        ][3:]


def tagged(content: bytes) -> Act:
    tag = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return answer(200, b"", ETag=f'"{tag}"')


BROKEN = [
    answer(503, b"<Error><Code>SlowDown</Code></Error>"),
    answer(403, b"<Error><Message>Request has expired</Message></Error>"),
    cut_off,
]


@pytest.mark.parametrize("broken", BROKEN, ids=["overloaded", "expired", "cut"])
def test_a_part_that_fails_is_sent_again_and_no_other(
    serve: Any, store_over: Any, broken: Act
) -> None:
    """To an address that was signed just now: the first may have expired."""
    parts = Parts(serve, store_over, broken, tagged(b"lo"))
    signed = answer(200, {"presigned_url": parts.signed(2, when="-anew")})
    assert parts.write(signed, answer(200, ENTRY), answer(200, ENTRY)) == CHECKSUM
    assert parts.sent == [("1", b"hel"), ("2", b"lo"), ("2-anew", b"lo")]
    assert parts.asked == ["pmpu/up/parts/2", "pmpu/up", "backing"]


@pytest.mark.parametrize("said", [missing, answer(500, b""), answer(200, b"<html>")])
def test_where_no_other_address_is_signed_the_first_is_used_again(
    serve: Any, store_over: Any, said: Act
) -> None:
    parts = Parts(serve, store_over, cut_off, tagged(b"lo"))
    assert parts.write(said, answer(200, ENTRY), answer(200, ENTRY)) == CHECKSUM
    assert parts.sent == [("1", b"hel"), ("2", b"lo"), ("2", b"lo")]


def test_a_part_is_not_sent_for_ever(serve: Any, store_over: Any) -> None:
    parts = Parts(serve, store_over, answer(503, b""), tries=4)
    with pytest.raises(StoreUnavailable, match="answered 503"):
        parts.write(answer(500, b""))
    assert parts.sent == [("1", b"hel"), *[("2", b"lo")] * 4]
    assert parts.lakefs.targets[-1].startswith("DELETE ")


def test_an_upload_that_is_gone_is_begun_anew(serve: Any, store_over: Any) -> None:
    """By the caller: all parts that it had are gone too."""
    parts = Parts(serve, store_over, answer(404, b"<Error><Code>NoSuchUpload</Code></Error>"))
    with pytest.raises(StoreUnavailable, match="answered 404"):
        parts.write(answer(204, b""))
    assert parts.sent == [("1", b"hel"), ("2", b"lo")]
    assert parts.lakefs.targets[-1].startswith("DELETE ")


def test_a_part_that_is_damaged_is_not_taken(serve: Any, store_over: Any) -> None:
    parts = Parts(serve, store_over, tagged(b"no"))
    with pytest.raises(StoreUnavailable, match="checksum of what it stored"):
        parts.write(answer(204, b""))


def test_parts_are_put_together_though_the_first_try_was_not_answered(
    serve: Any, store_over: Any
) -> None:
    parts = Parts(serve, store_over, tagged(b"lo"))
    done = answer(200, ENTRY)
    assert parts.write(answer(503, b""), answer(503, b""), done, done) == CHECKSUM
    assert parts.asked == ["pmpu/up"] * 3 + ["backing"]


@pytest.mark.parametrize("then", [answer(400, {"message": "no such upload"}), answer(503, b"")])
def test_parts_that_may_have_been_put_together_are_an_unclear_end(
    serve: Any, store_over: Any, then: Act
) -> None:
    """The caller tries the whole again, whatever the other tries say."""
    parts = Parts(serve, store_over, tagged(b"lo"), tries=2)
    with pytest.raises(StoreUnavailable):
        parts.write(answer(503, b""), then, answer(204, b""))
    assert parts.lakefs.targets[-1].startswith("DELETE ")
    assert len(parts.sent) == 2


# --- where addresses may lead ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "elsewhere", "here"),
    [
        ("52.218.1.1", True, True),
        ("10.0.0.7", True, True),  # object stores in the same network
        ("172.16.5.5", True, True),
        ("192.168.1.1", True, True),
        ("2600:1f60::1", True, True),
        ("fd12:3456::1", True, True),
        ("127.0.0.1", False, True),
        ("127.8.8.8", False, True),
        ("::1", False, True),
        ("::ffff:127.0.0.1", False, True),
        ("169.254.169.254", False, False),
        ("169.254.170.2", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("fe80::1", False, False),
        ("fe80::1%eth0", False, False),
        ("fd00:ec2::254", False, False),
        ("100.100.100.200", False, False),
        ("168.63.129.16", False, False),
        ("0.0.0.0", False, False),  # noqa: S104 -- an address to refuse
        ("::", False, False),
        ("224.0.0.1", False, False),
        ("ff02::1", False, False),
    ],
)
def test_where_object_stores_may_be(peer: str, elsewhere: bool, here: bool) -> None:
    assert may_be_reached(peer, loopback=False) is elsewhere
    assert may_be_reached(peer, loopback=True) is here


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("https://127.0.0.1", "http://127.0.0.1:{port}/x"),  # less safe than lakeFS itself
        ("http://lakefs.example", "http://127.0.0.1:{port}/x"),  # this machine
        ("http://lakefs.example", "http://localhost:{port}/x"),
        ("http://lakefs.example", "http://[::ffff:127.0.0.1]:{port}/x"),
        ("http://127.0.0.1", "ftp://127.0.0.1:{port}/x"),
        ("http://127.0.0.1", "file:///etc/passwd"),
        ("http://127.0.0.1", "gopher://127.0.0.1:{port}/x"),
        ("http://127.0.0.1", "//127.0.0.1:{port}/x"),
        ("http://127.0.0.1", "/x"),
        ("http://127.0.0.1", "http:///x"),
        ("http://127.0.0.1", "http://127.0.0.1:notaport/x"),
        ("http://127.0.0.1", "http://[::1/x"),
        ("http://127.0.0.1", ""),
    ],
)
def test_addresses_that_are_not_followed(serve: Any, endpoint: str, address: str) -> None:
    objects = serve(answer(200, CONTENT))
    port = objects.endpoint.rpartition(":")[2]
    storage = Storage(settings(endpoint))
    into = io.BytesIO()
    with pytest.raises(Unusable):
        storage.get(address.format(port=port), into, start=0, size=None)
    assert (into.getvalue(), objects.requests) == (b"", [])
    storage.close()


def test_an_address_that_is_not_followed_is_no_failure(serve: Any, store_over: Any) -> None:
    """As on any other, the bytes come through lakeFS."""
    lakefs = serve(config, leads_to("http://[bad/?" + SIGNATURE), answer(200, CONTENT))
    assert read(store_over(lakefs)) == CONTENT
