"""Requests and answers at a fraction of what the standard library takes for them.

`http.client` has the fields of every answer parsed as those of a mail, which is a fifth of what a
small request costs a client. Fields as servers write them need to be cut at a colon and no more;
any others are still left to the standard library. And it sends a request with a body in
two pieces.
"""

from __future__ import annotations

import http.client
import io
import re
from http.client import HTTPMessage, HTTPResponse, LineTooLong
from types import FunctionType
from typing import Any, BinaryIO

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

MAX_LINE_BYTES = 65_536
MAX_FIELDS = 100
"""Limits of a head. Source: http.client, _MAXLINE and _MAXHEADERS."""

SMALL_BYTES = 16_384
"""Largest body that is copied behind its head."""

_ENDS = frozenset({b"\r\n", b"\n", b""})
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~\x80-\xff\t]*)\r\n")
"""A field on one line, without control characters. Source: RFC 9110, sections 5.5 and 5.6.2."""


def parse_head(
    file: BinaryIO, message_class: type[HTTPMessage] = HTTPMessage, **_: Any
) -> HTTPMessage:
    """Read the fields of an answer, up to the empty line; what `http.client.parse_headers` does.

    Raises:
        http.client.HTTPException: The head is too long.
    """
    lines: list[bytes] = []
    message = message_class()
    plain = True
    while (line := file.readline(MAX_LINE_BYTES + 1)) not in _ENDS:
        if len(line) > MAX_LINE_BYTES:
            raise LineTooLong("header line")
        lines.append(line)
        if len(lines) > MAX_FIELDS:
            raise http.client.HTTPException(f"got more than {MAX_FIELDS} headers")
        field = _FIELD.fullmatch(line)
        if field is None:
            plain = False
        else:
            name, value = field.groups()
            message.set_raw(name.decode("latin-1"), value.decode("latin-1"))
    if plain:
        return message
    return http.client.parse_headers(io.BytesIO(b"".join(lines) + b"\r\n"), message_class)


class QuickResponse(HTTPResponse):
    """An answer of the standard library's, whose head is read by `parse_head`."""

    # Its own code with another function in place of the one that it looks up: the rest of what it
    # does, and does in later versions, stays as it is.
    begin = FunctionType(
        HTTPResponse.begin.__code__, {**vars(http.client), "parse_headers": parse_head}
    )
    begin.__kwdefaults__ = HTTPResponse.begin.__kwdefaults__

    @property
    def ended(self) -> bool:
        """Whether the body has been read to its end, so that the next answer comes after it."""
        return self.length == 0 or (self.length is None and self.isclosed())


class PlainConnection(HTTPConnection):
    """A connection that reads heads quickly, and sends them together with small bodies."""

    response_class = QuickResponse
    _held: bytes | None = None

    def request(self, method: str, url: str, body: Any = None, *rest: Any, **options: Any) -> None:
        """Send a request; in one piece if it is small, since two wake up the server twice."""
        if isinstance(body, str):
            body = body.encode()
        small = isinstance(body, bytes) and 0 < len(body) <= SMALL_BYTES
        self._held = b"" if small else None
        try:
            super().request(method, url, body, *rest, **options)
        finally:
            self._held = None

    def send(self, data: Any) -> None:
        """Send bytes, or hold them until there are more: the head comes first and by itself."""
        if self._held == b"":
            self._held = data
            return
        if self._held is not None:
            data, self._held = self._held + data, None
        super().send(data)


class SecureConnection(PlainConnection, HTTPSConnection):
    """The same with TLS."""


class PlainPool(HTTPConnectionPool):
    """A pool of connections whose answers have their heads read quickly."""

    ConnectionCls = PlainConnection


class SecurePool(HTTPSConnectionPool):
    """The same with TLS."""

    ConnectionCls = SecureConnection


POOLS = {"http": PlainPool, "https": SecurePool}
"""What a pool manager makes pools of."""
