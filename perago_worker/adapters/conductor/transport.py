"""How the adapter talks HTTP: every request is sent once, within its own time, over one client.

Nothing is sent twice, because a poll takes tasks and its lost answer loses them; the one exception
is a request whose token was refused, which the server has not looked at. Certificates, proxies and
timeouts hold for every request, since the client is never exchanged for another.

`Transport.call_api` has the shape that the SDK's resource classes expect of their client.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from http.client import IncompleteRead
from typing import Any
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from perago_worker.adapters.conductor.answers import GZIP_NAMES, Answer, translated, unpacked
from perago_worker.adapters.conductor.auth import TokenSource
from perago_worker.adapters.conductor.client import (
    Client,
    ConductorSettings,
    open_client,
    trust_of,
)
from perago_worker.adapters.http_heads import QuickResponse
from perago_worker.adapters.http_pools import Message, quoted
from perago_worker.adapters.tls import RenewedCertificate, usual_trust
from perago_worker.errors import QueueRefused, QueueUnavailable
from perago_worker.events import Listener, RequestFinished
from perago_worker.ports import Clock

TASK_ROUTE = "/tasks/{taskId}"
LOG_ROUTE = "/tasks/{taskId}/log"

OPERATIONS: Mapping[tuple[str, str], str] = {
    ("GET", "/tasks/poll/batch/{tasktype}"): "poll",
    ("GET", TASK_ROUTE): "observe",
    ("POST", "/tasks"): "update",
    ("POST", LOG_ROUTE): "log",
    ("GET", "/tasks/queue/size"): "depth",
    ("GET", "/metadata/taskdefs/{tasktype}"): "taskdef",
    ("GET", "/tasks/externalstoragelocation"): "payload",
}
"""Words for what requests ask for, by method and route; all others are `other`."""

READ_BYTES = 1 << 16

_JSON_BODY: Mapping[str, str] = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Request:
    """One request, to be sent once.

    Attributes:
        path: Below the client's root, quoted.
        timeout_s: Seconds for the answer once connected; None is the configured time.
        limit: Bytes the answer may have; None is any number.
        route: The path with placeholders for its values, for counting; `path` unless given.
    """

    method: str
    path: str
    params: Sequence[tuple[str, Any]] = ()
    content: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float | None = None
    limit: int | None = None
    route: str = ""


class Transport:
    """Sends requests to one Conductor. Safe from any thread.

    Raises, from every call: `QueueUnavailable` and `QueueRefused` as the port says.
    """

    def __init__(
        self, settings: ConductorSettings, *, clock: Clock, listener: Listener | None = None
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._clock = clock
        trust = trust_of(settings)
        self._client = open_client(settings, trust=trust)
        self._certificate = None if trust is None else RenewedCertificate(trust, settings.tls)
        self._keys = settings.key_source
        self._tokens = None if self._keys is None else TokenSource(self._fetch_token, clock=clock)

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._client.close()

    def send(self, request: Request) -> Answer:
        """Send a request, with a token where keys are configured, and return its success."""
        if self._tokens is None:
            return self._once(request, None).checked()
        token = self._tokens.current()
        answer = self._once(request, token)
        if answer.rejects_token:
            fresh = self._tokens.replace(token)
            if fresh is not None and fresh != token:
                answer = self._once(request, fresh)
        return answer.checked()

    def fetch(self, url: str, *, limit: int) -> Any:
        """Return the JSON that Conductor keeps elsewhere, at an address it gave.

        No token goes there. An answer of more than `limit` bytes is refused.
        """
        root = self._settings.api_url
        if url.startswith(f"{root}/"):
            return self._once(Request("GET", url.removeprefix(root), limit=limit), None).json()
        parts = urlsplit(url)
        path = parts.path or "/"
        target = quoted(f"{path}?{parts.query}" if parts.query else path)
        with translated("GET of a payload"), closing(_outside_client(parts)) as client:
            return self._once(Request("GET", target, limit=limit), None, client=client).json()

    # What the SDK's resource classes call ---------------------------------------------------------

    def select_header_accept(self, _accepts: Sequence[str]) -> str:
        """Accept anything: an error is JSON even where the success is plain text."""
        return "*/*"

    def select_header_content_type(self, _content_types: Sequence[str]) -> str:
        """Every body that goes through the resource classes is JSON."""
        return "application/json"

    def call_api(
        self,
        resource_path: str,
        method: str,
        path_params: Mapping[str, str],
        query_params: Sequence[tuple[str, Any]],
        _header_params: Mapping[str, str],
        *,
        body: Any = None,
        response_type: str | None = None,
        _request_timeout: float | None = None,
        **_unused: Any,
    ) -> Any:
        """Send what a resource class describes and return the answer's text or JSON, unconverted.

        A body of bytes is sent as it is, any other as JSON. A `response_type` of `str` is text;
        other types are models of the SDK, and stay JSON here. `_request_timeout` is in seconds, for
        the answer; None is the configured time.
        """
        route = resource_path
        for name, value in path_params.items():
            resource_path = resource_path.replace(f"{{{name}}}", quote(value, safe=""))
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body, allow_nan=False).encode()
        answer = self.send(
            Request(
                method,
                resource_path,
                query_params,
                content=body,
                headers=_JSON_BODY if body is not None else {},
                timeout_s=_request_timeout,
                route=route,
            )
        )
        return answer.text() if response_type == "str" else answer.json()

    # ----------------------------------------------------------------------------------------------

    def _once(self, request: Request, token: str | None, *, client: Client | None = None) -> Answer:
        started_at = self._clock.now()
        status, date = 0, ""
        try:
            answer = self._exchange(request, token, client=client)
            status, date = answer.status, answer.date
        finally:
            self._tell(request, status, self._clock.now() - started_at, date)
        return answer

    def _tell(self, request: Request, status: int, seconds: float, date: str) -> None:
        if self._listener is None:
            return
        route = request.route or request.path
        operation = OPERATIONS.get((request.method, route), "other")
        if operation == "other":
            route = ""  # an address from elsewhere: it may hold anything
        self._listener.on_event(
            RequestFinished("conductor", operation, request.method, route, status, seconds, date)
        )

    def _exchange(
        self, request: Request, token: str | None, *, client: Client | None = None
    ) -> Answer:
        call = f"{request.method} {request.path.partition('?')[0]}"
        connect_s = self._settings.connect_timeout_s
        answer_s = self._settings.request_timeout_s
        if request.timeout_s is not None:
            answer_s = request.timeout_s
        message = _message(request, token)
        if self._certificate is not None:
            self._certificate.refresh()
        with translated(call):
            deadline = self._clock.now() + connect_s + answer_s
            with (client or self._client).exchange(
                message, connect_s=connect_s, answer_s=answer_s
            ) as response:
                body = self._read(response, call, deadline, request.limit)
            if body and response.headers.get("content-encoding", "").lower() in GZIP_NAMES:
                body = unpacked(body, call, request.limit)
        return Answer(
            call=call,
            status=response.status,
            content_type=response.headers.get("content-type", "").partition(";")[0].strip().lower(),
            date=response.headers.get("date", ""),
            body=body,
        )

    def _read(
        self, response: QuickResponse, call: str, deadline: float, limit: int | None
    ) -> bytes:
        body = bytearray()
        # As much as has arrived, and no waiting for more: each read is timed by itself, so that an
        # answer that trickles would never end.
        while chunk := response.read1(READ_BYTES):
            body += chunk
            if limit is not None and len(body) > limit:
                raise QueueRefused(f"{call}: the answer has more than {limit} bytes")
            if self._clock.now() > deadline and not response.ended:
                raise QueueUnavailable(f"{call}: the answer did not end in time")
        if not response.ended:
            raise IncompleteRead(bytes(body), response.length)
        return bytes(body)

    def _fetch_token(self) -> str | None:
        assert self._keys is not None  # noqa: S101 -- else nobody asks
        keys = self._keys.current()  # as they are now: the token may be refused for old ones
        body = json.dumps({"keyId": keys.key_id, "keySecret": keys.secret}).encode()
        answer = self._once(Request("POST", "/token", content=body, headers=_JSON_BODY), None)
        if answer.status == 404:  # open Conductor has no such endpoint
            return None
        token = answer.json()
        token = token.get("token") if isinstance(token, dict) else None
        if not isinstance(token, str) or not token:
            raise QueueUnavailable("POST /token: answered without a token")
        return token


def _message(request: Request, token: str | None) -> Message:
    query = urlencode(request.params, quote_via=quote, safe="") if request.params else ""
    target = f"{request.path}?{query}" if query else request.path
    headers = {**request.headers, "X-Authorization": token} if token else request.headers
    return Message(request.method, target, request.content, headers)


def _outside_client(parts: SplitResult) -> Client:
    """Return a client for a server elsewhere, for which `ca_file` does not vouch."""
    trust = usual_trust() if parts.scheme == "https" else None
    return Client(f"{parts.scheme}://{parts.netloc}", trust=trust)
