"""What an HTTP answer of Conductor means, in the worker's errors.

Statuses alone do not tell: Conductor answers malformed JSON with a 500 not to be repeated and
says so in the body, and a proxy in front of it answers with pages that are not Conductor's word
about anything. So a 404 needs Conductor's own JSON, a 5xx is "nothing was learnt" unless Conductor
says that repeating it is of no use, and a success must be what the call answers with.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from ssl import SSLError
from typing import Any

from urllib3.exceptions import ClosedPoolError

from perago_worker.adapters.http_pools import CannotConnectError
from perago_worker.errors import QueueRefused, QueueUnavailable

_COME_BACK = frozenset({408, 425, 429})
_TOKEN_ERRORS = frozenset({"EXPIRED_TOKEN", "INVALID_TOKEN"})
_MAX_MESSAGE_CHARS = 300

GZIP_NAMES = frozenset({"gzip", "x-gzip"})
"""The one coding of contents that is asked for. What has another is left as it is: stores keep what
they were told of objects, such as `aws-chunked`."""

_GZIP_STREAM = 31
"""`wbits` of it. Source: zlib."""


class NotFoundAnswer(QueueUnavailable):
    """Something answered 404.

    Only a message that names what was asked for is Conductor's word about it; a proxy without a
    route says 404 as well. Whoever knows what was asked for decides, and otherwise nothing was
    learnt.
    """

    def __init__(self, call: str, message: str) -> None:
        self.message = message
        super().__init__(f"{call}: 404 {message}")


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read to its end.

    Attributes:
        call: Method and path, for messages.
        content_type: Lower case, without parameters; empty when there was none.
        date: The Date header as sent; empty when there was none.
    """

    call: str
    status: int
    content_type: str
    date: str
    body: bytes = field(repr=False)

    @property
    def rejects_token(self) -> bool:
        """Whether a new token may help. A 403 without the word is about permissions, not tokens."""
        if self.status == 401:
            return True
        return self.status == 403 and self._error().get("error") in _TOKEN_ERRORS

    def checked(self) -> Answer:
        """Return the answer when it is a success.

        Raises:
            NotFoundAnswer: 404 with a message.
            QueueRefused: Conductor understood and will refuse the same request again.
            QueueUnavailable: Anything else that is not a success.
        """
        if 200 <= self.status < 300:
            return self
        error = self._error()
        message = self._message(error)
        said = f"{self.call}: {self.status} {message}"
        if self.status == 404 and message.startswith("No static resource"):
            raise QueueRefused(f"{said}: check that the url is that of Conductor's REST API")
        if self.status == 404 and error:
            raise NotFoundAnswer(self.call, message)
        if self._is_refusal(error):
            raise QueueRefused(said)
        raise QueueUnavailable(said)

    def json(self) -> Any:
        """Return the JSON value of a success, None when there is no content."""
        self.checked()
        if not self.body:
            return None
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as problem:
            raise QueueUnavailable(self._unreadable("JSON")) from problem

    def text(self) -> str:
        """Return the text of a success; a page of HTML is not Conductor's."""
        self.checked()
        if self.content_type == "text/html":
            raise QueueUnavailable(self._unreadable("plain text"))
        return self.body.decode("utf-8", "replace")

    def server_time(self) -> float | None:
        """Return the server's wall clock in seconds since the epoch, to the second, if it says."""
        try:
            return parsedate_to_datetime(self.date).timestamp()
        except ValueError:
            return None

    def _error(self) -> dict[str, Any]:
        try:
            error = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return error if isinstance(error, dict) else {}

    def _message(self, error: dict[str, Any]) -> str:
        if not error:
            return f"({self.content_type or 'no content'})"
        parts = [error.get("message") or error.get("error") or "without a message"]
        parts += [item.get("message") for item in error.get("validationErrors") or ()]
        return " ".join("; ".join(str(part) for part in parts if part).split())[:_MAX_MESSAGE_CHARS]

    def _is_refusal(self, error: dict[str, Any]) -> bool:
        if self.status >= 500:
            return error.get("retryable") is False
        return 400 <= self.status < 500 and self.status != 404 and self.status not in _COME_BACK

    def _unreadable(self, expected: str) -> str:
        kind = self.content_type or "something without a type"
        return f"{self.call}: answered {kind}, not {expected}: is a proxy in the way?"


@contextmanager
def translated(call: str) -> Iterator[None]:
    """Turn what an exchange raises into `QueueUnavailable`, naming the call and what is wrong.

    The text of an exception may hold the address, with what people put into addresses; of failures
    to connect the reason alone is told. A server that wants another certificate says so when it is
    asked for the first answer, which is a failure to connect, too.
    """
    try:
        yield
    except (CannotConnectError, SSLError) as problem:
        raise QueueUnavailable(f"{call}: cannot connect: {_reason(problem)}") from problem
    except ClosedPoolError as problem:
        raise QueueUnavailable(f"{call}: the connections are closed") from problem
    except TimeoutError as problem:
        raise QueueUnavailable(f"{call}: no answer in time") from problem
    except (OSError, HTTPException, ValueError) as problem:
        raise QueueUnavailable(f"{call}: no answer ({type(problem).__name__})") from problem


def unpacked(body: bytes, call: str, limit: int | None) -> bytes:
    """Return a body that came compressed by gzip, the one way that is asked for.

    Raises:
        QueueRefused: It has more than `limit` bytes.
        QueueUnavailable: It is not whole, or something else.
    """
    plain = bytearray()
    while body:  # one stream after the other
        stream = zlib.decompressobj(wbits=_GZIP_STREAM)
        try:
            plain += stream.decompress(body, 0 if limit is None else limit + 1 - len(plain))
        except zlib.error as problem:
            raise QueueUnavailable(f"{call}: the answer cannot be decompressed") from problem
        if limit is not None and len(plain) > limit:
            raise QueueRefused(f"{call}: the answer has more than {limit} bytes")
        if not stream.eof:
            raise QueueUnavailable(f"{call}: the compressed answer is not whole")
        body = stream.unused_data
    return bytes(plain)


def _reason(problem: BaseException) -> str:
    """Return what the system said, which is at the bottom of what was raised because of it."""
    while problem.__cause__ is not None or problem.__context__ is not None:
        problem = problem.__cause__ or problem.__context__  # type: ignore[assignment]
    return str(problem)[:_MAX_MESSAGE_CHARS]
