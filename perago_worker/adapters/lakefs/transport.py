"""Connections to a lakeFS server: kept warm, a deadline on every call, nothing sent twice.

Small calls go through lakefs-sdk. Uploads and listings use the SDK's own connection pool directly:
its upload holds whole objects in memory, and its listing spends 25 ms of processor time on every
1,000 objects. Objects are read over another pool: see `objects`.

Importing this module loads the SDK; `LakeFSStore` defers it.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urlsplit

from urllib3 import BaseHTTPResponse, PoolManager, Timeout

from perago_worker._version import __version__
from perago_worker.adapters.http_heads import POOLS, QuickResponse
from perago_worker.adapters.keys import Keys
from perago_worker.adapters.lakefs.answers import checked, translated
from perago_worker.adapters.lakefs.mapping import NoAnswer, NotSent, ToError
from perago_worker.adapters.lakefs.measured import measure
from perago_worker.adapters.lakefs.objects import ObjectReader, next_piece
from perago_worker.adapters.lakefs.sdk import ApiClient, ApiException, Configuration
from perago_worker.adapters.lakefs.settings import LakeFSSettings
from perago_worker.adapters.lakefs.streams import (
    RANGE_BEYOND_END,
    SourceError,
    exactly,
    range_header,
    require_range,
)
from perago_worker.adapters.tls import RenewedCertificate, client_context
from perago_worker.events import Listener

T = TypeVar("T")

SPARE_CONNECTIONS = 4
"""Connections kept warm beside those that transfer objects: heads, merges, pings, the janitor."""

REDIRECTS = frozenset({302, 303, 307})
NOT_OFFERED = frozenset({400, 405, 501})
UNAUTHORISED = 401

CONTENT_TYPE = "application/octet-stream"
"""The same for every object: to lakeFS, equal bytes under another content type are a change."""


class Transport:
    """Calls to one lakeFS server. Safe to use from any thread."""

    def __init__(self, settings: LakeFSSettings, *, listener: Listener | None = None) -> None:
        client = ApiClient(_configuration(settings))
        client.user_agent = f"perago-worker/{__version__}"
        self.client = client
        self._pool = client.rest_client.pool_manager
        self._pool.pool_classes_by_scheme = POOLS
        self._certificate = _speak_tls(self._pool, settings)
        if listener is not None:
            measure(self._pool, base_path=urlsplit(settings.base_url).path, listener=listener)
        self._host = self._pool.connection_from_url(settings.base_url)
        trust = self._pool.connection_pool_kw["ssl_context"]
        self._objects = ObjectReader(settings, trust=trust, listener=listener)
        self._base_path = urlsplit(settings.base_url).path
        self._timeout = Timeout(connect=settings.connect_timeout_s, read=settings.request_timeout_s)
        self._connect_s = settings.connect_timeout_s
        self._request_s = settings.request_timeout_s
        self._source = settings.key_source
        self._keys: Keys | None = None
        self._headers: Mapping[str, str] = {}
        self._take_keys()

    def call(
        self,
        method: Callable[..., T | None],
        *args: Any,
        into: ToError,
        timeout_s: float | None = None,
        **kwargs: Any,
    ) -> T:
        """Call a method of the SDK; `timeout_s` is the longest silence of the server.

        `into` makes the error to raise when the call fails.
        """
        read_s = self._request_s if timeout_s is None else timeout_s
        timeout = (min(self._connect_s, read_s), read_s)
        with translated(into):
            answer = self._sent(lambda: method(*args, _request_timeout=timeout, **kwargs))
        if answer is None:
            raise into(NoAnswer("an empty answer"))
        return answer

    def tell(self, method: Callable[..., object], *args: Any, into: ToError) -> None:
        """Call a method of the SDK whose answer is only that it was done."""
        timeout = (self._connect_s, self._request_s)
        with translated(into):
            self._sent(lambda: method(*args, _request_timeout=timeout))

    def get(self, *path: str, query: Mapping[str, str], into: ToError) -> bytes:
        """Return the body of a small answer."""
        with translated(into):
            return self._sent(lambda: checked(self._request("GET", path, query))).data

    def download(
        self,
        *path: str,
        query: Mapping[str, str],
        sink: BinaryIO,
        start: int = 0,
        size: int | None = None,
        into: ToError,
    ) -> int:
        """Write the body of an answer, or a range of it, to `sink`; return the number of bytes.

        An answer that ends early is a failed call. What `sink` raises is passed on as it is.
        """
        headers = range_header(start, size)
        with ExitStack() as answers:

            def request() -> QuickResponse:
                asked_for = {**self._headers, **headers}
                return self._objects.answer(self._target(path, query), asked_for, answers)

            with translated(into):
                response = self._sent(request)
                if response.status == RANGE_BEYOND_END:
                    return 0
                require_range(response, start, size)
            read = 0
            while True:
                with translated(into):
                    chunk = next_piece(response)
                if not chunk:
                    return read
                sink.write(chunk)
                read += len(chunk)

    def send(
        self, method: str, *path: str, query: Mapping[str, str], body: object, into: ToError
    ) -> bytes:
        """Send JSON and return the body of the answer."""
        headers = {"Content-Type": "application/json"}
        content = json.dumps(body).encode()

        def request() -> BaseHTTPResponse:
            return checked(self._request(method, path, query, body=content, headers=headers))

        with translated(into):
            return self._sent(request).data

    def redirection(self, *path: str, query: Mapping[str, str], into: ToError) -> str | None:
        """Return where an answer redirects to, None when it does not."""

        def request() -> BaseHTTPResponse:
            response = self._request("GET", path, query, preload_content=False)
            return response if response.status in REDIRECTS | NOT_OFFERED else checked(response)

        with translated(into):
            response = self._sent(request)
            try:
                if response.status in REDIRECTS:
                    response.drain_conn()
                    return response.headers.get("Location")
                return None
            finally:
                response.close()  # the connection too, where an object came instead

    def upload(
        self, *path: str, query: Mapping[str, str], source: BinaryIO, size: int, into: ToError
    ) -> bytes:
        """Send `size` bytes of `source` as the body of a POST and return the body of the answer.

        What `source` raises is passed on as it is.

        Raises:
            StoreUnavailable: `source` ended early; the server got an incomplete request.
        """
        headers = {"Content-Type": CONTENT_TYPE, "Content-Length": str(size)}
        # A new connection sends under the connect timeout, and a server that is slow to take bytes
        # is not one that is hard to reach.
        timeout = Timeout(connect=self._request_s, read=self._request_s)
        body = exactly(source, size)
        used = self._take_keys()
        try:
            with translated(into):
                response = self._request(
                    "POST", path, query, body=body, headers=headers, timeout=timeout
                )
                if response.status == UNAUTHORISED and self._take_keys() != used:
                    # The source is used up: whoever has the file opens it again.
                    raise into(NotSent("the keys were exchanged meanwhile"))
                return checked(response).data
        except SourceError as failed:
            raise failed.error from None

    def close(self) -> None:
        """Close idle connections now and busy ones when their calls end."""
        self._pool.clear()
        self._objects.close()

    def _sent(self, send: Callable[[], T]) -> T:
        """Send something; once more when it was refused for keys that were exchanged meanwhile.

        What is refused so, the server has not looked at.
        """
        used = self._take_keys()
        try:
            return send()
        except ApiException as error:
            if error.status != UNAUTHORISED or self._take_keys() == used:
                raise
        return send()

    def _take_keys(self) -> Keys:
        """Use the keys as they are now, and return them."""
        self._certificate.refresh()
        keys = self._source.current()
        if keys == self._keys:
            return keys
        configuration = self.client.configuration
        configuration.username, configuration.password = keys.key_id, keys.secret
        self._headers = {
            "Authorization": configuration.get_basic_auth_token(),
            "User-Agent": self.client.user_agent,
        }
        self._keys = keys
        return keys

    def _request(
        self,
        method: str,
        path: tuple[str, ...],
        query: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
        timeout: Timeout | None = None,
        **options: Any,
    ) -> BaseHTTPResponse:
        # The one server's pool itself: choosing among servers, and following redirects, costs a
        # tenth of what a small object takes.
        return self._host.urlopen(
            method,
            self._target(path, query),
            headers={**self._headers, **(headers or {})},
            timeout=timeout or self._timeout,
            retries=False,
            redirect=False,
            **options,
        )

    def _target(self, path: Sequence[str], query: Mapping[str, str]) -> str:
        target = "/".join([self._base_path, *(quote(part, safe="") for part in path)])
        parameters = "&".join([f"{name}={quote(value, safe='')}" for name, value in query.items()])
        return f"{target}?{parameters}" if parameters else target


def _configuration(settings: LakeFSSettings) -> Configuration:
    configuration = Configuration(host=settings.base_url)
    # The default would send a lost GET, PUT or DELETE again, three times, beyond any deadline.
    configuration.retries = False  # type: ignore[assignment]  # typed by its default
    configuration.connection_pool_maxsize = settings.connections + SPARE_CONNECTIONS
    return configuration


def _speak_tls(pool: PoolManager, settings: LakeFSSettings) -> RenewedCertificate:
    """Have a pool trust whom it should, and show our certificate where there is one."""
    # Reading the usual certificates takes a seventh of a second, and plain HTTP looks at none.
    is_tls = settings.base_url.lower().startswith("https:")
    context = client_context(settings.tls) if is_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for replaced in ("ca_certs", "cert_file", "key_file"):
        pool.connection_pool_kw.pop(replaced, None)
    pool.connection_pool_kw["ssl_context"] = context
    return RenewedCertificate(context, settings.tls)
