"""How the lakeFS adapter behaves when the network or the server does not, over real sockets."""

from __future__ import annotations

import errno
import io
import logging
import socket
import subprocess
import sys
import threading
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pytest

from perago_worker.adapters.lakefs import LakeFSSettings, LakeFSStore
from perago_worker.errors import (
    NotFound,
    PublishUnknown,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from perago_worker.models import CommitInfo
from tests.unit.scripted_server import (
    Act,
    HangupError,
    Request,
    ScriptedServer,
    answer,
    cut_off,
    cut_off_after,
    serving,
)

KEY_ID = "AKIAEXAMPLEEXAMPLE"
SECRET = "a-secret-that-must-not-be-seen"  # noqa: S105 -- of a server that lives for one test
COMMIT = "c" * 64
SOURCE = CommitInfo(id="d" * 64, parents=(COMMIT,), tree="e" * 64)
COMMIT_JSON = {
    "id": COMMIT,
    "parents": [],
    "committer": "admin",
    "message": "",
    "creation_date": 1,
    "meta_range_id": "e" * 64,
}


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    with serving() as start:
        yield start


@pytest.fixture
def silence() -> Iterator[Act]:
    """Take the request and say nothing until the test is over."""
    over = threading.Event()

    def act(request: Request, out: socket.socket) -> None:
        request.read_body()
        over.wait()
        raise HangupError

    yield act
    over.set()


@pytest.fixture
def store_over() -> Iterator[Callable[..., LakeFSStore]]:
    stores: list[LakeFSStore] = []

    def connect(endpoint: str, **changes: Any) -> LakeFSStore:
        values: dict[str, Any] = {
            "endpoint": endpoint,
            "access_key_id": KEY_ID,
            "secret_access_key": SECRET,
            "presign": False,  # would ask the server for its configuration first
        }
        store = LakeFSStore.open(LakeFSSettings(**(values | changes)))
        stores.append(store)
        return store

    yield connect
    for store in stores:
        store.close()


def publish(store: LakeFSStore, timeout_s: float = 30.0) -> CommitInfo:
    return store.publish(
        "data",
        "main",
        source=SOURCE,
        expected_head=COMMIT,
        metadata={"a": "b"},
        message="publish",
        timeout_s=timeout_s,
    )


def write(store: LakeFSStore, source: BinaryIO | None = None, size: int = 5) -> None:
    store.stage("data", COMMIT, "perago-1").write("ws/a b", source or io.BytesIO(b"hello"), size)


CALLS: dict[str, tuple[Callable[[LakeFSStore], object], type[StoreError]]] = {
    "ping": (lambda store: store.ping(), StoreUnavailable),
    "resolve": (lambda store: store.resolve("data", COMMIT), StoreUnavailable),
    "head": (lambda store: store.head("data", "main"), StoreUnavailable),
    "list": (lambda store: list(store.list("data", COMMIT, "")), StoreUnavailable),
    "read": (lambda store: store.read("data", COMMIT, "a", io.BytesIO()), StoreUnavailable),
    "stage": (lambda store: store.stage("data", COMMIT, "perago-1"), StoreUnavailable),
    "stages": (lambda store: store.stages("data"), StoreUnavailable),
    "drop_stage": (lambda store: store.drop_stage("data", "perago-1"), StoreUnavailable),
    "publish": (publish, PublishUnknown),
}
STAGE_CALLS: dict[str, Callable[[LakeFSStore], object]] = {
    "write": write,
    "delete": lambda store: store.stage("data", COMMIT, "perago-1").delete(["a"]),
    "commit": lambda store: store.stage("data", COMMIT, "perago-1").commit("m", {}),
}
each_call = pytest.mark.parametrize(("call", "error"), CALLS.values(), ids=CALLS)
each_stage_call = pytest.mark.parametrize("call", STAGE_CALLS.values(), ids=STAGE_CALLS)

created = answer(201, b"c" * 64, Content_Type="text/html")


# --- nothing is sent twice ------------------------------------------------------------------------


@each_call
def test_a_call_that_was_not_answered_is_not_sent_again(
    serve: Any, store_over: Any, call: Callable[[LakeFSStore], object], error: type[StoreError]
) -> None:
    server = serve(cut_off)
    with pytest.raises(error):
        call(store_over(server.endpoint))
    assert len(server.requests) == 1


@each_stage_call
def test_a_call_on_a_stage_that_was_not_answered_is_not_sent_again(
    serve: Any, store_over: Any, call: Callable[[LakeFSStore], object]
) -> None:
    """The connection is warm here, which is where an HTTP client is most tempted to try again."""
    server = serve(created, cut_off)
    with pytest.raises(StoreUnavailable):
        call(store_over(server.endpoint))
    assert len(server.requests) == 2


@each_call
def test_a_server_that_asks_to_come_back_later_is_not_obeyed_here(
    serve: Any, store_over: Any, call: Callable[[LakeFSStore], object], error: type[StoreError]
) -> None:
    """The caller knows the deadline, and whether the call may be made again."""
    server = serve(answer(503, {"message": "Slow down"}, Retry_After="0"))
    with pytest.raises(StoreUnavailable, match="Slow down"):
        call(store_over(server.endpoint))
    assert len(server.requests) == 1


@each_call
def test_a_redirect_is_not_followed(
    serve: Any, store_over: Any, call: Callable[[LakeFSStore], object], error: type[StoreError]
) -> None:
    """Credentials go to the configured server only."""
    elsewhere = serve(answer(200, COMMIT_JSON))
    server = serve(answer(302, b"", Location=f"{elsewhere.endpoint}/login"))
    with pytest.raises(StoreRefused, match="redirects elsewhere"):
        call(store_over(server.endpoint))
    assert elsewhere.requests == []


# --- nobody waits for ever ------------------------------------------------------------------------


@each_call
@pytest.mark.key("store.request_timeout")
def test_silence_ends_a_call(
    serve: Any,
    store_over: Any,
    silence: Act,
    call: Callable[[LakeFSStore], object],
    error: type[StoreError],
) -> None:
    store = store_over(serve(silence).endpoint, request_timeout_s=0.2)
    with pytest.raises(error):
        call(store) if error is StoreUnavailable else publish(store, timeout_s=0.2)


@each_stage_call
def test_silence_ends_a_call_on_a_stage(
    serve: Any, store_over: Any, silence: Act, call: Callable[[LakeFSStore], object]
) -> None:
    store = store_over(serve(created, silence).endpoint, request_timeout_s=0.2)
    with pytest.raises(StoreUnavailable):
        call(store)


def test_silence_within_an_object_ends_its_download(
    serve: Any, store_over: Any, silence: Act
) -> None:
    def half(request: Request, out: socket.socket) -> None:
        out.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        silence(request, out)

    store = store_over(serve(half).endpoint, request_timeout_s=0.2)
    with pytest.raises(StoreUnavailable):
        store.read("data", COMMIT, "a", io.BytesIO())


@pytest.mark.key("publish.merge_timeout")
def test_a_merge_waits_for_as_long_as_it_is_told(serve: Any, store_over: Any) -> None:
    """The merge has a budget of its own, longer than that of other calls."""
    slow = threading.Event()

    def late(request: Request, out: socket.socket) -> None:
        slow.wait(0.4)
        answer(200, {"reference": COMMIT})(request, out)

    server = serve(late, answer(200, COMMIT_JSON))
    store = store_over(server.endpoint, request_timeout_s=0.1, connect_timeout_s=0.1)
    assert publish(store, timeout_s=30).id == COMMIT


def test_a_merge_without_time_left_is_not_sent(serve: Any, store_over: Any) -> None:
    server = serve(cut_off)
    with pytest.raises(StoreUnavailable, match="no time is left"):
        publish(store_over(server.endpoint), timeout_s=0.0)
    assert server.requests == []


def test_a_server_that_is_slow_to_take_bytes_is_not_taken_for_one_that_is_away(
    serve: Any, store_over: Any
) -> None:
    """An upload stalls for longer than a connection may take to be made."""
    content = bytes(32 * 1024 * 1024)
    stall = threading.Event()

    def slow(request: Request, out: socket.socket) -> None:
        stall.wait(0.4)
        answer(201, {"path": "ws/a b", "checksum": "x", "size_bytes": len(content)})(request, out)

    # The client is told, so that it makes a new connection and does not run into the closing one.
    last = answer(201, b"c" * 64, Content_Type="text/html", Connection="close")

    def created_and_closed(request: Request, out: socket.socket) -> None:
        last(request, out)
        raise HangupError

    server = serve(created_and_closed, slow)
    store = store_over(server.endpoint, connect_timeout_s=0.1)
    stage = store.stage("data", COMMIT, "perago-1")
    assert stage.write("ws/a b", io.BytesIO(content), len(content)).size == len(content)


# --- what was certainly not sent, and what may have been ------------------------------------------


@pytest.fixture
def nobody() -> str:
    """An endpoint where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@each_call
def test_a_server_that_is_away_certainly_did_nothing(
    store_over: Any, nobody: str, call: Callable[[LakeFSStore], object], error: type[StoreError]
) -> None:
    with pytest.raises(StoreUnavailable, match="cannot connect"):
        call(store_over(nobody))


def test_a_name_that_does_not_resolve_is_a_server_that_is_away(store_over: Any) -> None:
    with pytest.raises(StoreUnavailable, match="cannot connect"):
        publish(store_over("http://lakefs.invalid:8000"))


def test_a_merge_whose_commit_cannot_be_read_may_be_published(serve: Any, store_over: Any) -> None:
    server = serve(answer(200, {"reference": COMMIT}), cut_off)
    with pytest.raises(PublishUnknown, match="cannot be read"):
        publish(store_over(server.endpoint))


def test_an_answer_cut_off_after_its_status_leaves_a_merge_unknown(
    serve: Any, store_over: Any
) -> None:
    server = serve(cut_off_after(b'HTTP/1.1 200 OK\r\nContent-Length: 80\r\n\r\n{"refer'))
    with pytest.raises(PublishUnknown):
        publish(store_over(server.endpoint))


# --- answers that are not lakeFS's ----------------------------------------------------------------

PARSED = {name: call for name, call in CALLS.items() if name not in ("read", "stage", "drop_stage")}
"""Any bytes are an object, and the text that answers the other two says nothing that is needed."""

PAGE = b"<!doctype html><html><title>Welcome</title></html>"


@pytest.mark.parametrize("content", [PAGE, b"[1, 2]", b"null", b"{}", b'{"results": 5}', b"\xff"])
@pytest.mark.parametrize(("call", "error"), PARSED.values(), ids=PARSED)
def test_a_success_that_is_not_lakefs_own_is_no_answer(
    serve: Any,
    store_over: Any,
    call: Callable[[LakeFSStore], object],
    error: type[StoreError],
    content: bytes,
) -> None:
    store = store_over(serve(answer(200, content, Content_Type="text/html")).endpoint)
    with pytest.raises(error):
        call(store)


@each_call
def test_a_page_that_says_not_found_does_not_speak_for_lakefs(
    serve: Any, store_over: Any, call: Callable[[LakeFSStore], object], error: type[StoreError]
) -> None:
    store = store_over(serve(answer(404, PAGE, Content_Type="text/html")).endpoint)
    with pytest.raises(StoreUnavailable, match="is the endpoint right"):
        call(store)


def test_a_gateway_that_answers_in_another_encoding_leaves_a_merge_unknown(
    serve: Any, store_over: Any
) -> None:
    store = store_over(serve(answer(502, "Passerelle erronée".encode("latin-1"))).endpoint)
    with pytest.raises(PublishUnknown):
        publish(store)


# --- downloads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
    ids=["length", "chunked"],
)
def test_an_object_that_ends_early_is_not_taken_for_a_short_one(
    serve: Any, store_over: Any, head: bytes
) -> None:
    server = serve(cut_off_after(head))
    with pytest.raises(StoreUnavailable):
        store_over(server.endpoint).read("data", COMMIT, "a", io.BytesIO())
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "reply", [(200, b"0123456789", {}), (206, b"0123", {"Content_Range": "bytes 0-3/10"})]
)
def test_an_answer_that_is_not_the_range_asked_for_is_not_taken_for_it(
    serve: Any, store_over: Any, reply: tuple[int, bytes, dict[str, str]]
) -> None:
    """Proxies may leave the header out; the bytes would be those of another place."""
    status, body, headers = reply
    server = serve(answer(status, body, **headers))
    into = io.BytesIO()
    with pytest.raises(StoreUnavailable, match="not the range"):
        store_over(server.endpoint).read("data", COMMIT, "a", into, start=3, size=4)
    assert into.getvalue() == b""
    assert server.requests[0].headers["range"] == "bytes=3-6"


def test_what_the_receiving_file_raises_is_passed_on(serve: Any, store_over: Any) -> None:
    """A full disk is not the server's fault."""

    class Full(io.RawIOBase):
        def write(self, data: object, /) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    server = serve(answer(200, b"hello"))
    with pytest.raises(OSError, match="No space left"):
        store_over(server.endpoint).read("data", COMMIT, "a", Full())


def test_compressed_objects_arrive_as_they_are_stored(serve: Any, store_over: Any) -> None:
    server = serve(answer(200, b"\x1f\x8bhello", Content_Encoding="gzip"))
    into = io.BytesIO()
    assert store_over(server.endpoint).read("data", COMMIT, "a", into) == 7
    assert into.getvalue() == b"\x1f\x8bhello"


def test_objects_come_over_connections_that_are_kept(serve: Any, store_over: Any) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    server = serve(answer(200, b"hello"), lambda _, out: out.sendall(chunked), answer(200, b""))
    store = store_over(server.endpoint)
    assert [store.read("data", COMMIT, "a", io.BytesIO()) for _ in range(3)] == [5, 5, 0]
    assert len(server.connections) == 1


def test_a_connection_is_kept_when_an_object_is_refused(serve: Any, store_over: Any) -> None:
    server = serve(answer(503, {"message": "later"}), answer(200, b"hello"))
    store = store_over(server.endpoint)
    with pytest.raises(StoreUnavailable, match="later"):
        store.read("data", COMMIT, "a", io.BytesIO())
    assert store.read("data", COMMIT, "a", io.BytesIO()) == 5
    assert len(server.connections) == 1


def test_what_was_not_read_of_an_object_is_not_taken_for_the_next(
    serve: Any, store_over: Any
) -> None:
    class Full(io.RawIOBase):
        def write(self, data: object, /) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    server = serve(answer(200, bytes(8 * 1024**2)), answer(200, b"hello"))
    store, into = store_over(server.endpoint), io.BytesIO()
    with pytest.raises(OSError, match="No space left"):
        store.read("data", COMMIT, "a", Full())
    assert store.read("data", COMMIT, "a", into) == 5
    assert into.getvalue() == b"hello"
    assert len(server.connections) == 2


def test_a_part_beyond_the_end_of_an_object_is_empty(serve: Any, store_over: Any) -> None:
    server = serve(answer(416, b"no such range"), answer(200, b"hello"))
    store, into = store_over(server.endpoint), io.BytesIO()
    assert store.read("data", COMMIT, "a", into, start=9) == 0
    assert store.read("data", COMMIT, "a", into) == 5
    assert into.getvalue() == b"hello"
    assert len(server.connections) == 2


def test_an_object_is_asked_for_as_it_is_stored(serve: Any, store_over: Any) -> None:
    server = serve(answer(200, b"hello"))
    store_over(server.endpoint).read("data", COMMIT, "ä b/c?d", io.BytesIO())
    (request,) = server.requests
    assert request.target.partition("?")[2] == "path=%C3%A4%20b%2Fc%3Fd"
    assert request.headers["host"] == server.endpoint.removeprefix("http://")
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["authorization"].startswith("Basic ")
    assert request.headers["user-agent"].startswith("perago-worker/")


def test_a_listing_that_does_not_get_on_is_ended(serve: Any, store_over: Any) -> None:
    """Keys that are not UTF-8 are listed under names that sort before what follows them."""
    page = {
        "pagination": {"has_more": True, "next_offset": "ws/\ufffd"},
        "results": [{"path": "ws/\ufffd", "checksum": "x", "size_bytes": 1}],
    }
    server = serve(answer(200, page))
    with pytest.raises(StoreRefused, match="not stored as valid UTF-8"):
        list(store_over(server.endpoint).list("data", COMMIT, "ws/"))
    assert len(server.requests) == 2


def test_a_history_longer_than_a_page_goes_on_where_the_page_ended(
    serve: Any, store_over: Any
) -> None:
    def page(numbers: range) -> Act:
        commits = [COMMIT_JSON | {"id": f"{number:064x}"} for number in numbers]
        pagination = {
            "has_more": False,
            "next_offset": "",
            "results": len(commits),
            "max_per_page": 1000,
        }
        return answer(200, {"pagination": pagination, "results": commits})

    server = serve(page(range(1000)), page(range(1000, 1003)))
    history = store_over(server.endpoint).history("data", "main", limit=1500)
    assert [commit.id for commit in history] == [f"{number:064x}" for number in range(1003)]
    assert len(server.requests) == 2
    assert f"after={999:064x}&amount=500&" in server.targets[1]


# --- uploads --------------------------------------------------------------------------------------

stored = answer(201, {"path": "ws/a b", "checksum": "x", "size_bytes": 5})


def test_an_upload_is_the_bytes_and_nothing_around_them(serve: Any, store_over: Any) -> None:
    server = serve(created, stored)
    write(store_over(server.endpoint), io.BytesIO(b"hello and more"))
    upload = server.requests[1]
    token = b64encode(f"{KEY_ID}:{SECRET}".encode()).decode()
    assert server.targets[1] == (
        "POST /api/v1/repositories/data/branches/perago-1/objects?path=ws%2Fa%20b"
    )
    assert upload.body == b"hello"
    assert upload.headers["content-length"] == "5"
    assert upload.headers["content-type"] == "application/octet-stream"
    assert upload.headers["authorization"] == f"Basic {token}"
    assert upload.headers["user-agent"].startswith("perago-worker/")
    assert "transfer-encoding" not in upload.headers


def test_a_file_that_ends_early_is_not_stored_as_a_short_one(serve: Any, store_over: Any) -> None:
    server = serve(created, stored)
    with pytest.raises(StoreUnavailable, match="ended 3 bytes before"):
        write(store_over(server.endpoint), io.BytesIO(b"he"))


@pytest.mark.parametrize(
    "head", [b'HTTP/1.1 500 Said\r\nContent-Length: 24\r\n\r\n{"message": "disk full"}\n', b""]
)
def test_a_server_that_gives_up_half_way_stores_nothing(
    serve: Any, store_over: Any, head: bytes
) -> None:
    """Its disk is full: it says so, or just ends, while bytes are still on their way."""

    def give_up(request: Request, out: socket.socket) -> None:
        request.stream.read(100_000)
        out.sendall(head)
        raise HangupError

    store = store_over(serve(created, give_up, created, stored).endpoint)
    size = 50_000_000
    with pytest.raises(StoreUnavailable):
        write(store, io.BytesIO(bytes(size)), size)
    write(store)


def test_what_the_file_to_upload_raises_is_passed_on(serve: Any, store_over: Any) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1, /) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    server = serve(created, stored)
    with pytest.raises(OSError, match="Input/output error"):
        write(store_over(server.endpoint), Broken())  # type: ignore[arg-type]


def test_a_key_that_is_not_unicode_is_refused_before_it_becomes_another(
    serve: Any, store_over: Any
) -> None:
    server = serve(created)
    stage = store_over(server.endpoint).stage("data", COMMIT, "perago-1")
    with pytest.raises(StoreRefused, match="UTF-8"):
        stage.write("ws/\udcff", io.BytesIO(b""), 0)
    with pytest.raises(StoreRefused, match="UTF-8"):
        stage.delete(["ws/a", "ws/\udcff"])
    assert len(server.requests) == 1


def test_a_commit_whose_answer_was_lost_is_found_when_it_is_asked_for_again(
    serve: Any, store_over: Any
) -> None:
    made = COMMIT_JSON | {"id": "f" * 64, "parents": [COMMIT]}
    pagination = {"has_more": False, "next_offset": "", "results": 1, "max_per_page": 1000}
    server = serve(
        created,
        cut_off,
        answer(400, {"message": "commit: no changes"}),
        answer(200, {"pagination": pagination, "results": [made]}),
    )
    stage = store_over(server.endpoint).stage("data", COMMIT, "perago-1")
    with pytest.raises(StoreUnavailable):
        stage.commit("m", {})
    assert stage.commit("m", {}).id == made["id"]


@pytest.mark.parametrize(
    ("status", "error"), [(403, StoreRefused), (500, StoreUnavailable), (404, NotFound)]
)
def test_a_deletion_names_the_key_that_was_not_deleted(
    serve: Any, store_over: Any, status: int, error: type[StoreError]
) -> None:
    errors = [{"status_code": status, "message": "cannot", "path": "ws/kept"}]
    server = serve(created, answer(200, {"errors": errors}))
    stage = store_over(server.endpoint).stage("data", COMMIT, "perago-1")
    with pytest.raises(error):
        stage.delete(["ws/gone", "ws/kept"])


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "/", "/api/v1", "/api/v1/"])
def test_the_endpoint_may_name_the_api_or_not(serve: Any, store_over: Any, suffix: str) -> None:
    server = serve(answer(200, {"user": {"id": "admin", "creation_date": 1}}))
    store_over(server.endpoint + suffix).ping()
    assert server.targets == ["GET /api/v1/user"]


def test_the_endpoint_may_lie_below_a_path() -> None:
    settings = LakeFSSettings(
        endpoint="https://example.com/lakefs/", access_key_id=KEY_ID, secret_access_key=SECRET
    )
    assert settings.base_url == "https://example.com/lakefs/api/v1"


def test_credentials_are_seen_nowhere(
    serve: Any, store_over: Any, caplog: pytest.LogCaptureFixture
) -> None:
    token = b64encode(f"{KEY_ID}:{SECRET}".encode()).decode()
    server = serve(answer(401, {"message": "error authenticating request"}))
    store = store_over(server.endpoint)
    with caplog.at_level(logging.DEBUG):
        for call, _ in CALLS.values():
            with pytest.raises(StoreRefused, match="the access key was refused") as refusal:
                call(store)
            seen = "".join(traceback.format_exception(refusal.value))
            assert not [secret for secret in (KEY_ID, SECRET, token) if secret in seen]
    settings = LakeFSSettings(endpoint="http://h", access_key_id=KEY_ID, secret_access_key=SECRET)
    seen = caplog.text + repr(settings) + repr(store) + str(vars(store))
    assert not [secret for secret in (KEY_ID, SECRET, token) if secret in seen]


@pytest.mark.parametrize("name", ["..", "../other", "UPPER", "a", "", "data/../other"])
def test_a_repository_that_cannot_be_named_so_is_not_asked_for(
    serve: Any, store_over: Any, name: str
) -> None:
    """Such a name, put into a path, might lead to another repository."""
    server = serve(cut_off)
    store = store_over(server.endpoint)
    with pytest.raises(NotFound, match="repository"):
        store.head(name, "main")
    with pytest.raises(NotFound, match="repository"):
        list(store.list(name, COMMIT, ""))
    assert server.requests == []


@pytest.mark.parametrize("name", ["main~1", "main@", "a/b", "-", "", "main$", "héad"])
def test_a_branch_that_cannot_be_named_so_is_not_asked_for(
    serve: Any, store_over: Any, name: str
) -> None:
    """Such a name might be an expression that leads to a commit of another branch."""
    server = serve(cut_off)
    with pytest.raises(NotFound, match="branch"):
        store_over(server.endpoint).head("data", name)
    assert server.requests == []


def test_the_sdk_is_not_loaded_before_it_is_needed() -> None:
    """Loading it takes longer than a worker may take to poll for the first time."""
    script = (
        "import sys; from perago_worker.adapters.lakefs import LakeFSSettings, LakeFSStore; "
        "LakeFSStore.open(LakeFSSettings(endpoint='http://h', access_key_id='a',"
        " secret_access_key='b')).close(); "
        "assert 'perago_worker.adapters.lakefs.sdk' not in sys.modules, 'the SDK is loaded'"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("before", ["", "import lakefs_sdk; "])
def test_the_sdk_is_whole_for_others(before: str) -> None:
    """Task code may share the process, and may import the SDK for itself, before us or after."""
    script = (
        f"{before}import perago_worker.adapters.lakefs.sdk as ours, lakefs_sdk; "
        "assert lakefs_sdk.AuthApi and lakefs_sdk.models.User; "
        f"assert (lakefs_sdk.RefsApi is ours.RefsApi) == {bool(before)}"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
