"""What the Conductor adapter puts on the wire, and how it takes what comes back, over real sockets.

The server here plays no Conductor: each test says what it answers.
"""

from __future__ import annotations

import gzip
import json
import logging
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest

from perago_worker.adapters import http_pools
from perago_worker.adapters.conductor import ConductorQueue, ConductorSettings
from perago_worker.adapters.conductor.auth import NO_TOKEN_LIFETIME_S, TOKEN_LIFETIME_S
from perago_worker.adapters.conductor.transport import Request, Transport
from perago_worker.adapters.system import SystemClock
from perago_worker.adapters.tls import TlsSettings
from perago_worker.errors import ConfigError, QueueError, QueueRefused, QueueUnavailable
from perago_worker.models import Held, Lease, Lost, Outcome
from perago_worker.ports import Clock
from tests.clocks import ManualClock

SECRET = "a-secret-that-must-not-be-seen"  # noqa: S105 -- of a server that lives for one test
PAGE = b"<html><body>Please sign in</body></html>"
DONE = Outcome(kind="completed", code="no_workspace", output={})
LEASE = Lease(
    task_type="build",
    workflow_id="workflow-1",
    task_id="task-1",
    reference_name="build_ref",
    retry_count=0,
    poll_count=1,
    worker_id="worker-1",
    start_time_ms=1_000,
    scheduled_time_ms=900,
    response_timeout_s=60,
    input={},
    granted_at=0,
)
RECORD: dict[str, Any] = {
    "taskId": "task-1",
    "workflowInstanceId": "workflow-1",
    "referenceTaskName": "build_ref",
    "status": "IN_PROGRESS",
    "retryCount": 0,
    "pollCount": 1,
    "workerId": "worker-1",
    "startTime": 1_000,
    "scheduledTime": 900,
    "responseTimeoutSeconds": 60,
    "inputData": {},
}


# --- a server that does as it is told -------------------------------------------------------------


@dataclass(frozen=True)
class Received:
    """One request as it arrived; `source` is the port it came from."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    source: int

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """One answer to give; with `write`, what to do with the socket's file instead.

    The connection then ends, unless it `stays`.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    write: Callable[[Any], None] | None = None
    stays: bool = False


def answered(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode())


def text(value: str) -> Reply:
    return Reply(body=value.encode(), content_type="text/plain;charset=UTF-8")


def error(status: int, **fields: Any) -> Reply:
    return answered({"status": status, "message": "it cannot be done", **fields}, status)


BRIEF = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
LOST = Reply(write=lambda _file: None)
"""The request arrived, and the connection ends without an answer."""


class Wire:
    """A server on loopback that answers by `reply` and remembers what it received."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.reply: Callable[[Received], Reply] = lambda _request: answered([])
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.received]

    def use_tls(self, certificate: Path, key: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        wire = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 65536  # an answer sent in pieces waits for the client's acknowledgement

            def _answer(self) -> None:
                path, _, query = self.path.partition("?")
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers.get("content-length", 0)))
                request = Received(self.command, path, query, headers, body, self.client_address[1])
                wire.received.append(request)
                reply = wire.reply(request)
                if reply.write is not None:
                    reply.write(self.wfile)
                    self.wfile.flush()
                    self.close_connection = not reply.stays
                    return
                self.send_response_only(reply.status)  # no Date unless the test gives one
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", reply.content_type)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            do_GET = do_POST = do_PUT = _answer  # noqa: N815 -- names that http.server looks for

            def log_message(self, *_arguments: Any) -> None:
                pass

        return Handler


class Tunnels:
    """A proxy that opens tunnels, or refuses to with an answer; keeps the heads of requests."""

    def __init__(self, answer: str = "") -> None:
        self.heads: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                proxy.heads.append(f"{self.requestline}\r\n{self.headers}")
                self.wfile.write(f"{answer or 'HTTP/1.1 200 OK'}\r\n\r\n".encode())
                if answer:
                    return
                host, _, port = self.path.partition(":")
                with socket.create_connection((host, int(port))) as server:
                    back = threading.Thread(target=copy, args=(server, self.connection))
                    back.start()
                    copy(self.connection, server)
                    back.join()

            def log_message(self, *_arguments: Any) -> None:
                pass

        def copy(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_problem: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    openssl = shutil.which("openssl")
    assert openssl is not None, "needs the openssl command"
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=conductor"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy the tests run behind is not for the server of these tests."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def open_queue() -> Iterator[Callable[..., ConductorQueue]]:
    queues = []

    def open_queue(url: str, *, clock: Clock | None = None, **settings: Any) -> ConductorQueue:
        queue = ConductorQueue.open(
            ConductorSettings(url, **settings), clock=clock or SystemClock(), worker_id="worker-1"
        )
        queues.append(queue)
        return queue

    yield open_queue
    for queue in queues:
        queue.close()


@pytest.fixture
def queue(wire: Wire, open_queue: Callable[..., ConductorQueue]) -> ConductorQueue:
    return open_queue(wire.url)


CALLS = (
    "ping",
    "poll",
    "observe",
    "extend",
    "complete",
    "give_back",
    "append_log",
    "depth",
    "taskdef",
    "register_taskdef",
)


def call_everything(queue: ConductorQueue) -> list[QueueError | None]:
    """Make every call of the port, and return what each raised."""
    arguments: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        "poll": (("build",), {"count": 1, "wait_s": 0}),
        "observe": ((LEASE,), {}),
        "extend": ((LEASE,), {}),
        "complete": ((LEASE, DONE), {}),
        "give_back": ((LEASE,), {}),
        "append_log": ((LEASE, ["line"]), {}),
        "depth": (("build",), {}),
        "taskdef": (("build",), {}),
        "register_taskdef": (({"name": "build"},), {}),
    }
    raised: list[QueueError | None] = []
    for name in CALLS:
        positional, named = arguments.get(name, ((), {}))
        try:
            getattr(queue, name)(*positional, **named)
            raised.append(None)
        except QueueError as problem:
            raised.append(problem)
    return raised


# --- what is sent ---------------------------------------------------------------------------------


class TestSends:
    def test_poll(self, wire: Wire, queue: ConductorQueue) -> None:
        queue.poll("a type/with?signs", count=3, wait_s=1.5, domain="blue")
        (request,) = wire.received
        assert request.method == "GET"
        assert request.path == "/api/tasks/poll/batch/a%20type%2Fwith%3Fsigns"
        assert request.query == "workerid=worker-1&domain=blue&count=3&timeout=1500"

    @pytest.mark.parametrize(("wait_s", "timeout"), [(60, 5000), (5, 5000), (0, 0), (-1, 0)])
    def test_poll_waits_no_longer_than_the_server_allows(
        self, wire: Wire, queue: ConductorQueue, wait_s: float, timeout: int
    ) -> None:
        queue.poll("build", count=1, wait_s=wait_s)
        assert wire.received[0].query == f"workerid=worker-1&count=1&timeout={timeout}"

    def test_log_as_plain_text(self, wire: Wire, queue: ConductorQueue) -> None:
        wire.reply = lambda _request: Reply()
        queue.append_log(LEASE, ["one", 'two "é"'])
        (request,) = wire.received
        assert request.path == "/api/tasks/task-1/log"
        assert request.headers["content-type"] == "text/plain; charset=utf-8"
        assert request.body == 'one\ntwo "é"'.encode()

    def test_no_log_without_lines(self, wire: Wire, queue: ConductorQueue) -> None:
        queue.append_log(LEASE, [])
        assert wire.received == []

    def test_depth_of_a_domain(self, wire: Wire, queue: ConductorQueue) -> None:
        wire.reply = lambda _request: answered(4)
        assert queue.depth("build", domain="blue") == 4
        assert wire.received[0].query == "taskType=build&domain=blue"

    def test_give_back_only_of_what_is_held(self, wire: Wire, queue: ConductorQueue) -> None:
        wire.reply = lambda _request: answered({**RECORD, "pollCount": 2})
        queue.give_back(LEASE)
        assert [request.method for request in wire.received] == ["GET"]

    def test_give_back_goes_by_the_servers_clock(self, wire: Wire, queue: ConductorQueue) -> None:
        """The lease was scheduled at 0.9 s of the epoch; ours says half a century later."""
        server_time = {"Date": "Thu, 01 Jan 1970 00:00:13 GMT"}

        def reply(request: Received) -> Reply:
            if request.method == "POST":
                return text("task-1")
            return replace(answered(RECORD), headers=server_time)

        wire.reply = reply
        queue.give_back(LEASE.model_copy(update={"poll_timeout_s": 10}))
        assert wire.received[1].json()["callbackAfterSeconds"] == 8

    def test_definitions_are_merged_with_what_is_registered(
        self, wire: Wire, queue: ConductorQueue
    ) -> None:
        wire.reply = lambda _request: answered({"name": "build", "retryCount": 3, "unknown": 1})
        queue.register_taskdef({"name": "build", "retryCount": 5})
        assert [request.method for request in wire.received] == ["GET", "PUT"]
        assert wire.received[1].json() == {"name": "build", "retryCount": 5, "unknown": 1}

    def test_definitions_that_are_registered_already_are_not_sent(
        self, wire: Wire, queue: ConductorQueue
    ) -> None:
        wire.reply = lambda _request: answered({"name": "build", "retryCount": 3, "unknown": 1})
        queue.register_taskdef({"name": "build", "retryCount": 3})
        assert [request.method for request in wire.received] == ["GET"]

    def test_through_the_environments_proxy(
        self,
        wire: Wire,
        open_queue: Callable[..., ConductorQueue],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", wire.url)
        assert open_queue("http://conductor.invalid").poll("build", count=1, wait_s=0) == []
        assert wire.paths == ["http://conductor.invalid/api/tasks/poll/batch/build"]

    def test_past_the_environments_proxy(
        self,
        wire: Wire,
        open_queue: Callable[..., ConductorQueue],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://egress.invalid")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        open_queue(wire.url).poll("build", count=1, wait_s=0)
        assert wire.paths == ["/api/tasks/poll/batch/build"]

    def test_over_one_connection(self, wire: Wire, queue: ConductorQueue) -> None:
        for _ in range(5):
            queue.poll("build", count=1, wait_s=0)
        assert len({request.source for request in wire.received}) == 1

    def test_over_another_connection_when_it_was_idle_for_long(
        self, wire: Wire, queue: ConductorQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The server may be about to close it."""
        monkeypatch.setattr(http_pools, "KEEPALIVE_S", 0.0)
        for _ in range(2):
            queue.poll("build", count=1, wait_s=0)
        assert len({request.source for request in wire.received}) == 2

    def test_proxys_credentials_to_the_proxy(
        self,
        wire: Wire,
        open_queue: Callable[..., ConductorQueue],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", wire.url.replace("//", "//user:pass%40word@"))
        open_queue("http://conductor.invalid:8080").poll("build", count=1, wait_s=0)
        headers = wire.received[0].headers
        assert headers["proxy-authorization"] == "Basic dXNlcjpwYXNzQHdvcmQ="
        assert headers["host"] == "conductor.invalid:8080"
        assert "authorization" not in headers

    def test_through_a_tunnel_of_the_environments_proxy(
        self,
        wire: Wire,
        certificate: tuple[Path, Path],
        open_queue: Callable[..., ConductorQueue],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The proxy gets its credentials and the server's name, and the server none of them."""
        wire.use_tls(*certificate)
        with Tunnels() as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//user:pass%40word@"))
            queue = open_queue(
                wire.url.replace("http:", "https:"), tls=TlsSettings(ca_file=certificate[0])
            )
            for _ in range(2):
                queue.poll("build", count=1, wait_s=0)
        (head,) = proxy.heads
        host = wire.url.removeprefix("http://")
        assert head.startswith(f"CONNECT {host} HTTP/1.")
        assert "proxy-authorization: basic dxnlcjpwyxnzqhdvcmq=" in head.lower()
        assert wire.paths == ["/api/tasks/poll/batch/build"] * 2
        assert all("proxy-authorization" not in request.headers for request in wire.received)

    def test_not_through_a_tunnel_that_is_refused(
        self,
        wire: Wire,
        open_queue: Callable[..., ConductorQueue],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with Tunnels(answer="HTTP/1.1 407 Proxy Authentication Required") as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            with pytest.raises(QueueUnavailable, match=r"cannot connect: Tunnel .* failed: 407"):
                open_queue(wire.url.replace("http:", "https:")).ping()
        assert wire.received == []

    def test_over_another_connection_when_the_server_closes(
        self, wire: Wire, queue: ConductorQueue
    ) -> None:
        wire.reply = lambda _request: Reply(body=b"[]", headers={"Connection": "close"})
        for _ in range(2):
            queue.poll("build", count=1, wait_s=0)
        assert len({request.source for request in wire.received}) == 2

    def test_unless_an_answer_has_two_lengths(self, wire: Wire, queue: ConductorQueue) -> None:
        """Which of them a proxy on the way believes is not known. Source: RFC 9112, section 6.3."""
        twice = b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n"
        answer = b"HTTP/1.1 200 OK\r\n" + twice
        wire.reply = lambda _request: Reply(write=lambda file: file.write(answer), stays=True)
        for _ in range(2):
            assert queue.poll("build", count=1, wait_s=0) == []
        assert len({request.source for request in wire.received}) == 2

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[\r\n1\r\n]\r\n0\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n" + BRIEF,
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + BRIEF,
            BRIEF + b" and what nobody asked for",
            b"HTTP/1.0 200 OK\r\n\r\n[]",
            b"HTTP/1.1 204 No Content\r\n\r\n",
        ],
        ids=["chunks", "continue", "hints", "more behind", "up to the end", "no body"],
    )
    def test_and_takes_answers(self, wire: Wire, queue: ConductorQueue, answer: bytes) -> None:
        stays = b"HTTP/1.0" not in answer
        wire.reply = lambda _request: Reply(write=lambda file: file.write(answer), stays=stays)
        assert queue.poll("build", count=1, wait_s=0) == []
        wire.reply = lambda _request: answered([RECORD])
        assert [lease.task_id for lease in queue.poll("build", count=1, wait_s=0)] == ["task-1"]

    def test_and_takes_compressed_answers(self, wire: Wire, queue: ConductorQueue) -> None:
        packed = gzip.compress(json.dumps([RECORD]).encode())
        wire.reply = lambda _request: Reply(body=packed, headers={"Content-Encoding": "gzip"})
        assert [lease.task_id for lease in queue.poll("build", count=1, wait_s=0)] == ["task-1"]
        assert "gzip" in wire.received[0].headers["accept-encoding"]

    @pytest.mark.parametrize(
        "packed", [b"not gzip", gzip.compress(b"[]")[:-4]], ids=["not packed", "cut off"]
    )
    def test_and_takes_no_compressed_answers_that_are_damaged(
        self, wire: Wire, queue: ConductorQueue, packed: bytes
    ) -> None:
        wire.reply = lambda _request: Reply(body=packed, headers={"Content-Encoding": "gzip"})
        with pytest.raises(QueueUnavailable, match="compressed"):
            queue.poll("build", count=1, wait_s=0)

    @pytest.mark.parametrize(
        ("coding", "body"),
        [
            ("gzip", gzip.compress(b"[1, ") + gzip.compress(b"2]")),
            ("X-Gzip", gzip.compress(b"[1, 2]")),
            ("aws-chunked", b"[1, 2]"),
        ],
        ids=["in two parts", "by another name", "not compressed"],
    )
    def test_and_takes_answers_as_they_are_coded(
        self, wire: Wire, queue: ConductorQueue, coding: str, body: bytes
    ) -> None:
        wire.reply = lambda _request: Reply(body=body, headers={"Content-Encoding": coding})
        transport = Transport(ConductorSettings(wire.url), clock=SystemClock())
        with closing(transport):
            assert transport.send(Request("GET", "/tasks")).json() == [1, 2]

    def test_and_takes_an_empty_answer_for_one_that_is_not_compressed(
        self, wire: Wire, queue: ConductorQueue
    ) -> None:
        wire.reply = lambda _request: Reply(headers={"Content-Encoding": "gzip"})
        assert queue.poll("build", count=1, wait_s=0) == []

    def test_and_unpacks_no_more_than_it_takes(self, wire: Wire) -> None:
        packed = gzip.compress(b" " * 10_000)
        wire.reply = lambda _request: Reply(body=packed, headers={"Content-Encoding": "gzip"})
        transport = Transport(ConductorSettings(wire.url), clock=SystemClock())
        with closing(transport), pytest.raises(QueueRefused, match="more than 1000 bytes"):
            transport.send(Request("GET", "/tasks", limit=1000))

    def test_and_hears_why_a_large_report_is_refused_before_it_is_read(
        self, open_queue: Callable[..., ConductorQueue]
    ) -> None:
        """The system says that the connection is reset, while the answer waits to be read."""
        refusal = b'{"status": 413, "message": "too large"}'

        def refuse(server: socket.socket) -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                head = f"HTTP/1.1 413 Too Large\r\nContent-Length: {len(refusal)}\r\n\r\n"
                connection.sendall(head.encode() + refusal)

        with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
            done = pool.submit(refuse, server)
            queue = open_queue(f"http://127.0.0.1:{server.getsockname()[1]}")
            with pytest.raises(QueueRefused, match="too large"):
                queue.complete(LEASE, DONE.model_copy(update={"output": {"text": "x" * 9_000_000}}))
            done.result()

    def test_paths_as_they_may_be_sent(self, wire: Wire) -> None:
        transport = Transport(ConductorSettings(f"{wire.url}/bücher a"), clock=SystemClock())
        with closing(transport):
            transport.send(Request("GET", "/tasks"))
        assert wire.paths == ["/b%C3%BCcher%20a/api/tasks"]

    def test_large_reports_whole(self, wire: Wire, queue: ConductorQueue) -> None:
        wire.reply = lambda _request: text("task-1")
        large = "x" * 3_000_000
        queue.complete(LEASE, DONE.model_copy(update={"output": {"text": large}}))
        assert wire.received[0].json()["outputData"] == {"text": large}


# --- what is sent once ----------------------------------------------------------------------------


class TestLostAnswers:
    def test_are_unavailable_and_nothing_is_sent_again(
        self, wire: Wire, queue: ConductorQueue
    ) -> None:
        wire.reply = lambda _request: LOST
        raised = call_everything(queue)
        assert all(isinstance(problem, QueueUnavailable) for problem in raised)
        assert len(wire.received) == len(raised)

    def test_of_a_connection_that_was_used_before(self, wire: Wire, queue: ConductorQueue) -> None:
        queue.poll("build", count=1, wait_s=0)
        wire.reply = lambda _request: LOST
        with pytest.raises(QueueUnavailable):
            queue.poll("build", count=1, wait_s=0)
        assert len(wire.received) == 2

    def test_leave_the_queue_usable(self, wire: Wire, queue: ConductorQueue) -> None:
        wire.reply = lambda _request: LOST
        with pytest.raises(QueueUnavailable):
            queue.poll("build", count=1, wait_s=0)
        wire.reply = lambda _request: answered([RECORD])
        assert [lease.task_id for lease in queue.poll("build", count=1, wait_s=0)] == ["task-1"]

    def test_half_an_answer_is_none(self, wire: Wire, queue: ConductorQueue) -> None:
        half = b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[{"taskId":'
        wire.reply = lambda _request: Reply(write=lambda file: file.write(half))
        with pytest.raises(QueueUnavailable):
            queue.poll("build", count=1, wait_s=0)
        assert len(wire.received) == 1

    def test_refused_connection(
        self, wire: Wire, open_queue: Callable[..., ConductorQueue]
    ) -> None:
        closed = Wire()
        closed.close()
        with pytest.raises(QueueUnavailable, match="cannot connect"):
            open_queue(closed.url).ping()

    def test_closed_queue(self, wire: Wire, queue: ConductorQueue) -> None:
        wire.reply = lambda _request: answered({"name": "a definition"})
        queue.ping()
        queue.close()
        queue.close()
        with pytest.raises(QueueUnavailable, match="closed"):
            queue.ping()


class TestTime:
    @pytest.mark.key("queue.request_timeout")
    def test_no_answer(self, wire: Wire, open_queue: Callable[..., ConductorQueue]) -> None:
        over = threading.Event()

        def reply(_request: Received) -> Reply:
            over.wait()
            return LOST

        wire.reply = reply
        try:
            with pytest.raises(QueueUnavailable, match="no answer in time"):
                open_queue(wire.url, request_timeout_s=0.1).ping()
        finally:
            over.set()

    def test_of_a_report_is_the_callers(
        self, wire: Wire, open_queue: Callable[..., ConductorQueue]
    ) -> None:
        """The configured time would outlast the test."""
        over = threading.Event()

        def reply(_request: Received) -> Reply:
            over.wait()
            return LOST

        wire.reply = reply
        try:
            with pytest.raises(QueueUnavailable, match="no answer in time"):
                open_queue(wire.url, request_timeout_s=600).complete(LEASE, DONE, timeout_s=0.1)
        finally:
            over.set()

    def test_of_a_poll_outlasts_that_of_other_calls(
        self, wire: Wire, open_queue: Callable[..., ConductorQueue]
    ) -> None:
        queue = open_queue(wire.url, request_timeout_s=0.1)
        asked_in_vain = threading.Event()

        def reply(request: Received) -> Reply:
            asked_in_vain.wait()
            return answered([RECORD]) if "poll" in request.path else LOST

        wire.reply = reply
        with ThreadPoolExecutor(1) as pool:
            poll = pool.submit(queue.poll, "build", count=1, wait_s=0)
            with pytest.raises(QueueUnavailable, match="no answer in time"):
                queue.ping()
            asked_in_vain.set()
            assert [lease.task_id for lease in poll.result()] == ["task-1"]

    def test_of_an_answer_that_never_ends(
        self, wire: Wire, open_queue: Callable[..., ConductorQueue]
    ) -> None:
        """Each read is in time; the whole is not."""
        over = threading.Event()

        def trickle(file: Any) -> None:
            file.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not over.wait(0.02):
                file.write(b" ")
                file.flush()

        def reply(_request: Received) -> Reply:
            return Reply(write=trickle)

        wire.reply = reply
        try:
            with pytest.raises(QueueUnavailable, match="did not end in time"):
                open_queue(wire.url, connect_timeout_s=0.1, request_timeout_s=0.2).ping()
        finally:
            over.set()


# --- what answers mean ----------------------------------------------------------------------------


class TestAnswers:
    @pytest.mark.parametrize(
        ("reply", "expected"),
        [
            pytest.param(error(400), QueueRefused, id="400"),
            pytest.param(error(401), QueueRefused, id="401"),
            pytest.param(error(403), QueueRefused, id="403"),
            pytest.param(error(405), QueueRefused, id="405"),
            pytest.param(error(409), QueueRefused, id="409"),
            pytest.param(Reply(413, PAGE, "text/html"), QueueRefused, id="413 of a proxy"),
            pytest.param(error(500, retryable=False), QueueRefused, id="500 not to be repeated"),
            pytest.param(error(500, retryable=True), QueueUnavailable, id="500 to be repeated"),
            pytest.param(error(500), QueueUnavailable, id="500"),
            pytest.param(Reply(500, b"oops", "text/plain"), QueueUnavailable, id="500 in words"),
            pytest.param(Reply(502, PAGE, "text/html"), QueueUnavailable, id="502 of a proxy"),
            pytest.param(error(503), QueueUnavailable, id="503"),
            pytest.param(error(504), QueueUnavailable, id="504"),
            pytest.param(error(429), QueueUnavailable, id="429"),
            pytest.param(error(408), QueueUnavailable, id="408"),
            pytest.param(Reply(404, PAGE, "text/html"), QueueUnavailable, id="404 of a proxy"),
            pytest.param(error(404, message="no route"), QueueUnavailable, id="404 of a gateway"),
            pytest.param(
                error(404, message="No static resource tasks/x."), QueueRefused, id="wrong address"
            ),
            pytest.param(
                Reply(302, headers={"Location": "http://127.0.0.1:1/"}),
                QueueUnavailable,
                id="redirect",
            ),
            pytest.param(Reply(200, PAGE, "text/html"), QueueUnavailable, id="page of a proxy"),
            pytest.param(Reply(200, b'{"cut', "application/json"), QueueUnavailable, id="cut JSON"),
            pytest.param(answered("text"), QueueUnavailable, id="another kind of JSON"),
        ],
    )
    def test_of_every_call(
        self, wire: Wire, queue: ConductorQueue, reply: Reply, expected: type[QueueError]
    ) -> None:
        wire.reply = lambda _request: reply
        raised = call_everything(queue)
        if reply.status == 200 and reply.content_type != "text/html":
            # Nothing is read from what a log line is answered with, as long as it is no page.
            assert raised.pop(CALLS.index("append_log")) is None
        assert all(isinstance(problem, expected) for problem in raised)

    def test_messages_name_the_call_and_what_the_server_said(
        self, wire: Wire, queue: ConductorQueue
    ) -> None:
        details = [{"path": "x", "message": "must be\nless"}]
        wire.reply = lambda _request: error(400, message="invalid", validationErrors=details)
        with pytest.raises(QueueRefused) as caught:
            queue.observe(LEASE)
        assert str(caught.value) == "GET /tasks/task-1: 400 invalid; must be less"

    @pytest.mark.parametrize("name", ["task-1", "workflow-1"])
    def test_that_nothing_is_known_of_the_task_is_no_error(
        self, wire: Wire, queue: ConductorQueue, name: str
    ) -> None:
        wire.reply = lambda _request: error(404, message=f"no such thing found by id: {name}")
        assert queue.observe(LEASE) == Lost(why="gone", detail="the server knows no such task")
        queue.extend(LEASE)
        queue.complete(LEASE, DONE)
        queue.give_back(LEASE)
        queue.append_log(LEASE, ["line"])

    def test_that_a_definition_is_unknown(self, wire: Wire, queue: ConductorQueue) -> None:
        wire.reply = lambda _request: error(404, message="No such taskType found by name: build")
        assert queue.taskdef("build") is None

    def test_update_takes_the_tasks_id_for_an_answer(
        self, wire: Wire, queue: ConductorQueue
    ) -> None:
        for answer in (text("task-1"), answered("task-1")):
            wire.reply = lambda _request, answer=answer: answer  # type: ignore[misc]
            queue.extend(LEASE)
        wire.reply = lambda _request: text("task-2")
        with pytest.raises(QueueUnavailable):
            queue.extend(LEASE)

    def test_observe_reads_the_record(self, wire: Wire, queue: ConductorQueue) -> None:
        wire.reply = lambda _request: answered(RECORD)
        assert queue.observe(LEASE) == Held()


class TestOddTasks:
    ODD: dict[str, Any] = {**RECORD, "taskId": "task-2", "responseTimeoutSeconds": 0}  # noqa: RUF012

    def serve(self, wire: Wire, *tasks: Any, update: Reply | None = None) -> None:
        def reply(request: Received) -> Reply:
            if request.method == "POST":
                return update or text(request.json()["taskId"])
            return answered(list(tasks))

        wire.reply = reply

    def test_are_failed_and_the_others_delivered(self, wire: Wire, queue: ConductorQueue) -> None:
        self.serve(wire, self.ODD, RECORD)
        assert [lease.task_id for lease in queue.poll("build", count=2, wait_s=0)] == ["task-1"]
        failure = wire.received[1].json()
        assert (failure["taskId"], failure["status"]) == ("task-2", "FAILED")
        assert failure["workerId"] == "worker-1"
        assert "response_timeout_s" in failure["reasonForIncompletion"]

    def test_are_left_to_their_timeout_when_they_cannot_be_failed(
        self, wire: Wire, queue: ConductorQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.serve(wire, self.ODD, RECORD, update=error(503))
        assert [lease.task_id for lease in queue.poll("build", count=2, wait_s=0)] == ["task-1"]
        assert "task-2" in caplog.text

    @pytest.mark.parametrize("task", [None, "text", [], {}, {"taskId": 1}])
    def test_without_a_name_are_logged(
        self, wire: Wire, queue: ConductorQueue, caplog: pytest.LogCaptureFixture, task: Any
    ) -> None:
        self.serve(wire, task, RECORD)
        assert [lease.task_id for lease in queue.poll("build", count=2, wait_s=0)] == ["task-1"]
        assert len(wire.received) == 1
        assert "cannot be read" in caplog.text


class TestExternalInput:
    STORED: dict[str, Any] = {**RECORD, "externalInputPayloadStoragePath": "a/path.json"}  # noqa: RUF012

    def serve(self, wire: Wire, *, place: dict[str, str], payload: Reply) -> None:
        def reply(request: Received) -> Reply:
            if request.path == "/payload":
                return payload
            if request.path == "/api/token":
                return answered({"token": "token-1"})
            if request.path == "/api/tasks/externalstoragelocation":
                return answered(place)
            if request.method == "POST":
                return text("task-1")
            return answered([self.STORED])

        wire.reply = reply

    def test_is_fetched_without_our_token(
        self, wire: Wire, open_queue: Callable[..., ConductorQueue]
    ) -> None:
        place = {"path": "a/path.json", "uri": f"{wire.url}/payload?signature=s"}
        self.serve(wire, place=place, payload=answered({"params": {"n": 1}}))
        queue = open_queue(wire.url, auth_key_id="id", auth_key_secret=SECRET)
        (lease,) = queue.poll("build", count=1, wait_s=0)
        assert lease.input == {"params": {"n": 1}}
        location, payload = wire.received[-2:]
        assert location.query == "path=a%2Fpath.json&operation=READ&payloadType=TASK_INPUT"
        assert location.headers["x-authorization"] == "token-1"
        assert payload.query == "signature=s"
        assert "x-authorization" not in payload.headers

    @pytest.mark.parametrize(
        ("uri", "payload"),
        [
            pytest.param("", answered({}), id="no address"),
            pytest.param("/payload", Reply(403, PAGE, "text/html"), id="denied"),
            pytest.param("/payload", Reply(200, PAGE, "text/html"), id="not JSON"),
            pytest.param("/payload", answered([]), id="not an object"),
        ],
    )
    def test_that_cannot_be_had_fails_the_task(
        self, wire: Wire, queue: ConductorQueue, uri: str, payload: Reply
    ) -> None:
        self.serve(wire, place={"uri": uri and wire.url + uri}, payload=payload)
        assert queue.poll("build", count=1, wait_s=0) == []
        failure = wire.received[-1].json()
        assert failure["status"] == "FAILED"
        assert failure["reasonForIncompletion"].startswith("input_unreadable: ")


# --- tokens ---------------------------------------------------------------------------------------


class Keeper:
    """Answers with tokens, and with nothing to those who do not show the newest."""

    def __init__(self, wire: Wire, *, code: int = 401, word: str = "INVALID_TOKEN") -> None:
        self.issued = 0
        self.refusal = error(code, error=word)
        self.lock = threading.Lock()
        wire.reply = self.reply

    def reply(self, request: Received) -> Reply:
        if request.path == "/api/token":
            with self.lock:
                self.issued += 1
                return answered({"token": f"token-{self.issued}"})
        if request.headers.get("x-authorization") != f"token-{self.issued}":
            return self.refusal
        return answered([])


class TestTokens:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def queue(
        self, wire: Wire, clock: ManualClock, open_queue: Callable[..., ConductorQueue]
    ) -> ConductorQueue:
        return open_queue(wire.url, clock=clock, auth_key_id="key", auth_key_secret=SECRET)

    def poll(self, queue: ConductorQueue) -> None:
        assert queue.poll("build", count=1, wait_s=0) == []

    def test_is_asked_for_once(self, wire: Wire, queue: ConductorQueue) -> None:
        keeper = Keeper(wire)
        self.poll(queue)
        self.poll(queue)
        assert keeper.issued == 1
        assert wire.received[0].json() == {"keyId": "key", "keySecret": SECRET}
        assert len(wire.received) == 3

    @pytest.mark.parametrize(
        ("code", "word"), [(401, "INVALID_TOKEN"), (401, ""), (403, "EXPIRED_TOKEN")]
    )
    def test_is_renewed_when_refused_and_the_request_repeated_once(
        self, wire: Wire, queue: ConductorQueue, code: int, word: str
    ) -> None:
        keeper = Keeper(wire, code=code, word=word)
        self.poll(queue)
        keeper.issued += 1  # the server forgets the first token
        self.poll(queue)
        poll = "/api/tasks/poll/batch/build"
        assert wire.paths == ["/api/token", poll, poll, "/api/token", poll]

    def test_is_not_renewed_for_a_permission_that_lacks(
        self, wire: Wire, queue: ConductorQueue
    ) -> None:
        keeper = Keeper(wire, code=403, word="FORBIDDEN")
        self.poll(queue)
        keeper.issued += 1
        with pytest.raises(QueueRefused):
            queue.poll("build", count=1, wait_s=0)
        assert wire.paths.count("/api/token") == 1

    def test_refused_again_is_refused(self, wire: Wire, queue: ConductorQueue) -> None:
        def reply(request: Received) -> Reply:
            if request.path == "/api/token":
                return answered({"token": f"token-{len(wire.received)}"})
            return error(401, error="INVALID_TOKEN")

        wire.reply = reply
        with pytest.raises(QueueRefused):
            queue.poll("build", count=1, wait_s=0)
        assert len(wire.received) == 4

    def test_is_renewed_when_old(
        self, wire: Wire, queue: ConductorQueue, clock: ManualClock
    ) -> None:
        keeper = Keeper(wire)
        self.poll(queue)
        clock.advance(TOKEN_LIFETIME_S)
        self.poll(queue)
        assert keeper.issued == 2

    def test_is_renewed_by_one_of_many_threads(self, wire: Wire, queue: ConductorQueue) -> None:
        keeper = Keeper(wire)
        self.poll(queue)
        keeper.issued = 10
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _n: self.poll(queue), range(8)))
        assert keeper.issued == 11

    def test_absence_is_not_for_ever(
        self, wire: Wire, queue: ConductorQueue, clock: ManualClock
    ) -> None:
        """A gateway that answers 404 for a moment does not turn authentication off."""

        def without_tokens(request: Received) -> Reply:
            return Reply(404, PAGE, "text/html") if request.path == "/api/token" else answered([])

        wire.reply = without_tokens
        self.poll(queue)
        self.poll(queue)
        assert wire.paths.count("/api/token") == 1
        keeper = Keeper(wire)
        clock.advance(NO_TOKEN_LIFETIME_S)
        self.poll(queue)
        assert keeper.issued == 1

    def test_absence_ends_at_once_when_the_server_wants_one(
        self, wire: Wire, queue: ConductorQueue
    ) -> None:
        wire.reply = lambda request: (
            error(404, message="No static resource token.")
            if request.path == "/api/token"
            else answered([])
        )
        self.poll(queue)
        keeper = Keeper(wire)
        self.poll(queue)
        assert keeper.issued == 1

    @pytest.mark.parametrize(
        ("reply", "expected"),
        [
            (error(401), QueueRefused),
            (error(503), QueueUnavailable),
            (LOST, QueueUnavailable),
            (Reply(200, PAGE, "text/html"), QueueUnavailable),
            (answered({"token": ""}), QueueUnavailable),
            (answered(["token"]), QueueUnavailable),
        ],
    )
    def test_not_to_be_had(
        self, wire: Wire, queue: ConductorQueue, reply: Reply, expected: type[QueueError]
    ) -> None:
        wire.reply = lambda _request: reply
        with pytest.raises(expected):
            queue.poll("build", count=1, wait_s=0)
        assert wire.paths == ["/api/token"]

    def test_secrets_are_in_no_error_and_no_log(
        self, wire: Wire, queue: ConductorQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        seen = []
        for reply in (error(401), error(500), LOST, Reply(200, PAGE, "text/html")):
            for token in (answered({"token": "token-that-is-secret"}), reply):
                wire.reply = lambda request, reply=reply, token=token: (  # type: ignore[misc]
                    token if request.path == "/api/token" else reply
                )
                for problem in call_everything(queue):
                    seen += traceback.format_exception(problem) if problem else []
        assert seen
        everything = "".join(seen) + caplog.text
        assert SECRET not in everything
        assert "token-that-is-secret" not in everything
        assert SECRET not in repr(ConductorSettings("http://x", auth_key_secret=SECRET))


# --- addresses and certificates -------------------------------------------------------------------


class TestSettings:
    @pytest.mark.parametrize(
        "url",
        ["http://host", "http://host/", "http://host/api", "http://host/api/", "http://host/api//"],
    )
    def test_address_is_that_of_the_api(self, url: str) -> None:
        assert ConductorSettings(url).api_url == "http://host/api"

    def test_address_below_a_path(self) -> None:
        assert ConductorSettings("http://host/conductor").api_url == "http://host/conductor/api"

    def test_credentials_in_the_address_are_sent_and_not_shown(
        self,
        wire: Wire,
        open_queue: Callable[..., ConductorQueue],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        queue = open_queue(wire.url.replace("//", f"//user:{SECRET}@"))
        queue.poll("build", count=1, wait_s=0)
        assert wire.received[0].headers["authorization"].startswith("Basic ")
        wire.reply = lambda _request: LOST
        with pytest.raises(QueueUnavailable) as caught:
            queue.poll("build", count=1, wait_s=0)
        assert SECRET not in "".join(traceback.format_exception(caught.value)) + caplog.text

    @pytest.mark.parametrize("content", [None, "no certificate"])
    def test_ca_file_that_cannot_be_used(self, tmp_path: Path, content: str | None) -> None:
        ca_file = tmp_path / "ca.pem"
        if content is not None:
            ca_file.write_text(content)
        settings = ConductorSettings("https://host", tls=TlsSettings(ca_file=ca_file))
        with pytest.raises(ConfigError) as caught:
            ConductorQueue.open(settings, clock=SystemClock(), worker_id="worker-1")
        (problem,) = caught.value.problems
        assert (problem.where, problem.key) == (str(ca_file), "queue.ca_file")

    def test_passwords_in_addresses_are_in_no_complaint(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:{SECRET}@proxy:99999")
        for url in ("http://host", f"http://user:{SECRET}@host:99999"):
            with pytest.raises(ConfigError) as caught:
                ConductorQueue.open(
                    ConductorSettings(url), clock=SystemClock(), worker_id="worker-1"
                )
            text = "".join(traceback.format_exception(caught.value))
            assert SECRET not in text.replace(repr(url), "")
            assert "no address" in text

    def test_proxy_that_cannot_be_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "nonsense://proxy")
        with pytest.raises(ConfigError):
            ConductorQueue.open(
                ConductorSettings("https://host"), clock=SystemClock(), worker_id="worker-1"
            )


class TestCertificates:
    @pytest.mark.key("queue.ca_file")
    def test_of_the_ca_file_are_trusted(
        self,
        wire: Wire,
        certificate: tuple[Path, Path],
        open_queue: Callable[..., ConductorQueue],
    ) -> None:
        wire.use_tls(*certificate)
        queue = open_queue(
            wire.url.replace("http:", "https:"), tls=TlsSettings(ca_file=certificate[0])
        )
        queue.poll("build", count=1, wait_s=0)
        wire.reply = lambda _request: LOST
        with pytest.raises(QueueUnavailable):
            queue.poll("build", count=1, wait_s=0)
        wire.reply = lambda _request: answered([])
        # A client that is replaced after a lost answer would have forgotten whom to trust.
        queue.poll("build", count=1, wait_s=0)
        assert len(wire.received) == 3

    def test_of_others_are_not(
        self,
        wire: Wire,
        certificate: tuple[Path, Path],
        open_queue: Callable[..., ConductorQueue],
    ) -> None:
        wire.use_tls(*certificate)
        with pytest.raises(QueueUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            open_queue(wire.url.replace("http:", "https:")).ping()
        assert wire.received == []


class TestImport:
    def test_leaves_the_process_as_it_was(self) -> None:
        """Task code may share the process, and may import the SDK for itself."""
        program = """
import logging, multiprocessing, sys
import perago_worker.adapters.conductor
assert multiprocessing.get_start_method(allow_none=True) is None
assert not hasattr(logging.Logger, "trace")
assert not [name for name in sys.modules if name.split(".")[0] == "conductor"]
import conductor.client.http.models.task as module
import conductor.client
assert conductor.client.TaskHandler
assert conductor.client.http.models.task is module
"""
        subprocess.run([sys.executable, "-c", program], check=True)

    def test_uses_the_sdk_that_was_imported_before(self) -> None:
        program = """
import conductor.client.http.api.task_resource_api as module
from perago_worker.adapters.conductor import sdk
assert sdk.TaskResourceApi is module.TaskResourceApi
"""
        subprocess.run([sys.executable, "-c", program], check=True)
