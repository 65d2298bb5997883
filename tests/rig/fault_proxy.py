"""A reverse proxy that passes requests on, but for those a fault is meant for.

It speaks HTTP/1.1 with kept-alive connections on both sides, as what stands before real servers
does, and knows before and after the effect: a request that is reset after it has been passed on has
had its effect, and nobody hears of it.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

UPSTREAM_TIMEOUT_S = 60.0
DELAY_S = 1.0
"""How late a delayed answer comes: much later than usual, well within a lease."""

WORDS = re.compile(r"[a-z_]+|v1|update-v2", re.ASCII)
"""Parts of a path that say what is called; all others name what is meant."""

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
HTML = b"<html><body><h1>An error page of something in between</h1></body></html>"


NO_ROOM = b'{"message": "write /blocks/x: no space left on device\\nfailed to write to storage"}'
"""What lakeFS answers when the disk that it keeps objects on is full. Source: lakeFS 1.84.0."""


@dataclass(frozen=True)
class Sent:
    """A request that came in.

    Attributes:
        call: Method and path, with `*` for what names something.
        nth: Which request of that call it is, from 1.
    """

    call: str
    nth: int

    def __str__(self) -> str:
        return f"{self.call} #{self.nth}"


@dataclass(frozen=True)
class Rule:
    """What happens to a request and to those like it that follow.

    Attributes:
        action: A name in `ACTIONS`.
        times: For how many requests, from this one on.
    """

    at: Sent
    action: str
    times: int = 1

    def meant_for(self, sent: Sent) -> bool:
        """Whether a request is one of them."""
        return sent.call == self.at.call and 0 <= sent.nth - self.at.nth < self.times


def call_of(method: str, target: str) -> str:
    """Return a request's method and path, with `*` for the parts that name something."""
    parts = urlsplit(target).path.strip("/").split("/")
    return f"{method} /{'/'.join(p if WORDS.fullmatch(p) else '*' for p in parts)}"


@dataclass
class Answer:
    """What the server has answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class FaultProxy:
    """One proxy before one server. Thread-safe."""

    def __init__(self, target: str, rule: Rule | None = None) -> None:
        """Listen on a free port of the loopback interface.

        Args:
            target: Root of the server, such as `http://127.0.0.1:8080`.
            rule: What goes wrong; nothing if None.
        """
        self.target = urlsplit(target)
        self.rule = rule
        self.hits = 0
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._sent: list[Sent] = []
        self._held: list[Callable[[], Answer]] = []
        self._open: set[socket.socket] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def sent(self) -> list[Sent]:
        """The requests that came in so far, in their order."""
        with self._lock:
            return list(self._sent)

    def note(self, method: str, target: str, body: bytes) -> tuple[Sent, str]:
        """Take note of a request; return it, and what is to happen to it."""
        call = call_of(method, target)
        with self._lock:
            self._counts[call] += 1
            sent = Sent(call, self._counts[call])
            self._sent.append(sent)
            if self.rule is None or not self.rule.meant_for(sent):
                return sent, ""
            self.hits += 1
            return sent, self.rule.action

    def arriving(self, method: str, target: str) -> None:
        """Be told of a request whose body has not been read yet; does nothing unless overridden."""

    def hold(self, request: Callable[[], Answer]) -> None:
        """Keep a request until `release`."""
        with self._lock:
            self._held.append(request)

    def release(self) -> int:
        """Pass on what was held, though nobody waits for it; return how many requests it was."""
        with self._lock:
            held, self._held = self._held, []
        for request in held:
            with suppress(OSError, http.client.HTTPException):
                request()
        return len(held)

    @contextmanager
    def connected(self, connection: socket.socket) -> Iterator[None]:
        """Know of a connection while it is open."""
        with self._lock:
            self._open.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(connection)

    def close(self) -> None:
        """Stop listening and end all connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(_Handler):
            """The handler of this proxy's connections."""

            def __init__(self, *args: object) -> None:
                self.proxy = proxy
                super().__init__(*args)  # type: ignore[arg-type]

        return Handler


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: FaultProxy
    body: bytes

    def handle(self) -> None:
        with self.proxy.connected(self.connection), suppress(OSError):
            super().handle()

    def _serve(self) -> None:
        method, target, headers = self.command, self.path, dict(self.headers.items())
        self.proxy.arriving(method, target)
        size = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(size)
        if len(self.body) < size:
            self.close_connection = True  # nobody waits for an answer to half a request
            return

        def pass_on(body: bytes = self.body) -> Answer:
            return _ask(self.proxy, method, target, headers, body)

        _, action = self.proxy.note(method, target, self.body)
        if action:
            (ACTIONS | DAMAGES)[action](self, pass_on)
        else:
            self.answer(_or_bad_gateway(pass_on))

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve  # noqa: N815 -- http.server's names

    def answer(self, answer: Answer, *, cut: int = 0) -> None:
        """Send an answer without its last `cut` bytes; the connection ends if some are missing."""
        self.send_response(answer.status)
        for name, value in answer.headers:
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) - cut])
        self.close_connection = self.close_connection or bool(cut)

    def reset(self) -> None:
        """End the connection with a reset."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- http.server's name
        """Say nothing."""


def _ask(
    proxy: FaultProxy, method: str, target: str, headers: dict[str, str], body: bytes
) -> Answer:
    """Pass a request on and return the answer."""
    assert proxy.target.hostname is not None
    upstream = http.client.HTTPConnection(
        proxy.target.hostname, proxy.target.port, timeout=UPSTREAM_TIMEOUT_S
    )
    try:
        left_out = {"host", "connection", "content-length"}
        kept = {k: v for k, v in headers.items() if k.lower() not in left_out}
        upstream.request(method, target, body=body or None, headers=kept)
        response = upstream.getresponse()
        return Answer(response.status, response.getheaders(), response.read())
    finally:
        upstream.close()


def _or_bad_gateway(pass_on: Callable[[], Answer]) -> Answer:
    try:
        return pass_on()
    except (OSError, http.client.HTTPException):
        return Answer(502, [], b"")


# --- what happens ---------------------------------------------------------------------------------

Action = Callable[[_Handler, Callable[..., Answer]], None]
"""Does something with a request; what passes it on can be given another body than came."""


def _reset_before(handler: _Handler, pass_on: Callable[..., Answer]) -> None:
    handler.reset()


def _reset_after(handler: _Handler, pass_on: Callable[..., Answer]) -> None:
    pass_on()
    handler.reset()


def _closed_before(handler: _Handler, pass_on: Callable[..., Answer]) -> None:
    handler.close_connection = True


def _closed_after(handler: _Handler, pass_on: Callable[..., Answer]) -> None:
    pass_on()
    handler.close_connection = True


def _delayed(handler: _Handler, pass_on: Callable[..., Answer]) -> None:
    threading.Event().wait(DELAY_S)
    handler.answer(pass_on())


def _answer_delayed(handler: _Handler, pass_on: Callable[..., Answer]) -> None:
    answer = pass_on()
    threading.Event().wait(DELAY_S)
    handler.answer(answer)


def _held(handler: _Handler, pass_on: Callable[..., Answer]) -> None:
    handler.proxy.hold(pass_on)
    handler.reset()


def _twice(handler: _Handler, pass_on: Callable[..., Answer]) -> None:
    answer = pass_on()
    pass_on()
    handler.answer(answer)


def _truncated(handler: _Handler, pass_on: Callable[..., Answer]) -> None:
    answer = pass_on()
    handler.answer(answer, cut=(len(answer.body) + 1) // 2)


def _html(handler: _Handler, pass_on: Callable[..., Answer]) -> None:
    pass_on()
    handler.answer(Answer(200, [("Content-Type", "text/html")], HTML))


def _wrong_json(handler: _Handler, pass_on: Callable[..., Answer]) -> None:
    answer = pass_on()
    handler.answer(Answer(answer.status, [("Content-Type", "application/json")], b'{"not": "it"}'))


def _status(status: int, *, after: bool = False) -> Action:
    def act(handler: _Handler, pass_on: Callable[..., Answer]) -> None:
        if after:
            pass_on()
        handler.answer(Answer(status, [("Content-Type", "text/html")], HTML))

    return act


ACTIONS: dict[str, Action] = {
    "reset_before": _reset_before,
    "reset_after": _reset_after,
    "closed_before": _closed_before,
    "closed_after": _closed_after,
    "delayed": _delayed,
    "answer_delayed": _answer_delayed,
    "held": _held,
    "twice": _twice,
    "truncated": _truncated,
    "html": _html,
    "wrong_json": _wrong_json,
    "429": _status(429),
    "500": _status(500),
    "502": _status(502),
    "503": _status(503),
    "504_after": _status(504, after=True),
}


# --- what becomes of the bytes of an object -------------------------------------------------------
# Apart from the above, which is tried on every request: these would be missed on most.


def _with_body(change: Callable[[bytes], bytes]) -> Action:
    """Answer with something else, of which the head tells the size."""

    def act(handler: _Handler, pass_on: Callable[..., Answer]) -> None:
        answer = pass_on()
        handler.answer(Answer(answer.status, answer.headers, change(answer.body)))

    return act


def _passing_on(change: Callable[[bytes], bytes]) -> Action:
    """Have the server get something else, of which the head tells the size."""

    def act(handler: _Handler, pass_on: Callable[..., Answer]) -> None:
        handler.answer(pass_on(change(handler.body)))

    return act


def _no_room(handler: _Handler, pass_on: Callable[..., Answer]) -> None:
    handler.answer(Answer(500, [("Content-Type", "application/json")], NO_ROOM))


def _shorter(body: bytes) -> bytes:
    return body[: len(body) // 2]


def _longer(body: bytes) -> bytes:
    return body + b"x"


def _changed(body: bytes) -> bytes:
    """Return other bytes each time: those that come out the same twice are believed."""
    return os.urandom(len(body))


DAMAGES: dict[str, Action] = {
    "shorter": _with_body(_shorter),
    "longer": _with_body(_longer),
    "changed": _with_body(_changed),
    "stored_shorter": _passing_on(_shorter),
    "stored_longer": _passing_on(_longer),
    "stored_changed": _passing_on(_changed),
    "no_room": _no_room,
}
