"""Pools of connections to one server, and what passes over one of them: a request and its answer.

urllib3 connects (proxies, tunnels, TLS) and keeps connections, and the standard library reads
answers. What both do for all of their users between that takes most of a small request's processor
time, and none of it is wanted here: choosing among servers, following redirects, trying again,
fields and bodies of any kind. decisions/0021 has the figures.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import quote

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection, port_by_scheme
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url

from perago_worker.adapters.http_heads import SMALL_BYTES, QuickResponse

KEEPALIVE_S = 45.0
"""How long an idle connection is kept: longer than heartbeats are apart, shorter than servers do.

Where the server closes first, a request can run into the closing connection, and a poll that does
is lost; what is read of lakeFS would be tried again. Source: Conductor 3.32.1 and common load
balancers close after 60 seconds.
"""


MAX_INTERIM_ANSWERS = 10
"""How many answers that are not final may come before one that is."""


@dataclass(frozen=True)
class Message:
    """A request as it is sent, but for what the connection adds.

    Attributes:
        target: What the request line names, quoted: a path with its query, or a whole address where
            a proxy is to forward it.
        content: The body; None where there is none.
    """

    method: str
    target: str
    content: bytes | None = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


class CannotConnectError(Exception):
    """No connection could be made, and nothing was sent; the cause says why."""


class _Connection(HTTPConnection):
    """A connection that counts as lost when it has not been used for a while."""

    answered_at = 0.0
    sent_whole = False

    @property
    def is_connected(self) -> bool:
        """Asked by the pool before it hands the connection out; it then connects anew."""
        return time.monotonic() - self.answered_at < KEEPALIVE_S and super().is_connected

    def ask(self, message: Message) -> QuickResponse:
        """Send a request and return its answer, of which only the head is read.

        Raises:
            ValueError: The request would not be one: there are line ends in it.
        """
        head, content = head_of(message), message.content
        self.sent_whole = False
        # A server that hangs up before it has read everything may have said why.
        with suppress(BrokenPipeError, ConnectionResetError):
            if content is not None and len(content) > SMALL_BYTES:
                self.sock.sendall(head)
                self.sock.sendall(content)
            else:  # in one piece, since two wake up the server twice
                self.sock.sendall(head + (content or b""))
            self.sent_whole = True
        response = QuickResponse(self.sock, method=message.method)
        try:
            return _final(response)
        except BaseException:
            response.close()  # it has a file of its own over the socket
            raise

    def is_free_after(self, response: QuickResponse) -> bool:
        """Tell whether what comes next over this connection is the answer to the next request."""
        headers = response.headers
        told_twice = "content-length" in headers and "transfer-encoding" in headers
        pending = getattr(self.sock, "pending", None)  # what TLS has deciphered already
        return (
            self.sent_whole
            and response.ended
            and not response.will_close
            and not told_twice
            and not (pending and pending())
        )


def _final(response: QuickResponse) -> QuickResponse:
    """Read heads up to that of the final answer; the standard library skips one kind of others."""
    for _ in range(MAX_INTERIM_ANSWERS):
        response.begin()
        if response.status >= HTTPStatus.OK:
            return response
        response.headers = response.msg = None  # type: ignore[assignment]  # so that it begins again
    raise http.client.HTTPException("no end of interim answers")


def head_of(message: Message) -> bytes:
    """Return the head of a request as it is sent.

    Raises:
        ValueError: There are line ends in its parts, or blanks in the target.
    """
    method, target, content = message.method, message.target, message.content
    fields = dict(message.headers)
    if content is not None or method != "GET":
        fields["Content-Length"] = str(len(content or b""))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields), "", ""]
    head = "\r\n".join(lines).encode("latin-1")
    if target.split() != [target] or len(head.splitlines()) != len(lines) - 1:
        raise ValueError("a line end or a blank where none may be in a request")
    return head


class _SecureConnection(_Connection, HTTPSConnection):
    """The same with TLS."""


class Pool(HTTPConnectionPool):
    """Connections to one server without TLS. Safe from any thread."""

    ConnectionCls = _Connection

    @contextmanager
    def exchange(
        self, message: Message, *, connect_s: float, answer_s: float
    ) -> Iterator[QuickResponse]:
        """Send a request, once, and yield its answer, of which only the head is read.

        The connection is kept for others if the answer has been read to its end.

        Args:
            connect_s: Longest time for each step of connecting.
            answer_s: Longest silence of the server, and longest wait for it to take what is sent.

        Raises:
            CannotConnectError: Nothing was sent.
            ValueError: Nothing was sent: there are line ends in the request.
            urllib3.exceptions.ClosedPoolError: The pool is closed.
            OSError: There is no answer; also when it is read.
            http.client.HTTPException: The same.
        """
        connection = self._get_conn()
        assert isinstance(connection, _Connection)  # noqa: S101 -- ConnectionCls
        try:
            if connection.is_closed:
                connection.timeout = connect_s
                self._connect(connection, forwarded=message.target.startswith("http://"))
            connection.sock.settimeout(answer_s)
            with closing(connection.ask(message)) as response:
                yield response
                reusable = connection.is_free_after(response)
        except BaseException:
            connection.close()
            raise
        if not reusable:
            connection.close()
        connection.answered_at = time.monotonic()
        self._put_conn(connection)

    def _connect(self, connection: _Connection, *, forwarded: bool) -> None:
        try:
            if self.proxy is not None and not forwarded:
                self._prepare_proxy(connection)
            else:
                connection.connect()
        except (HTTPError, OSError, http.client.HTTPException, ValueError) as problem:
            raise CannotConnectError from problem


class TLSPool(Pool, HTTPSConnectionPool):
    """The same with TLS."""

    ConnectionCls = _SecureConnection


def pool_of(manager: PoolManager, url: str) -> Pool:
    """Return a pool for the server that an address names, with the manager's options.

    The manager makes no other pools from then on.
    """
    manager.pool_classes_by_scheme = {"http": Pool, "https": TLSPool}
    pool = manager.connection_from_url(url)
    assert isinstance(pool, Pool)  # noqa: S101 -- the manager has no others
    return pool


def host_field(url: str) -> str:
    """Return what requests call the server of an address: no port where the scheme implies it."""
    parts = parse_url(url)
    host = (parts.host or "").rstrip(".")
    if host.startswith("["):  # an IPv6 address; its zone means nothing elsewhere
        host = host.partition("%")[0].rstrip("]") + "]"
    implied = parts.port is None or parts.port == port_by_scheme.get(parts.scheme or "")
    return host if implied else f"{host}:{parts.port}"


def quoted(target: str) -> str:
    """Return a target as it is sent: what may not be in one as it is, is written with `%`."""
    return quote(target, safe="/?%:@!$&'()*+,;=~[]")
