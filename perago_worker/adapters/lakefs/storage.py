"""The object store behind lakeFS, reached by addresses that lakeFS has signed.

An address carries its own permission: our credentials are never sent there, and no message ever
shows more of one than its host. Where it may lead is limited, since a server that was tampered with
could have the worker fetch what only the worker can reach: see `Storage`.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, BinaryIO, ClassVar
from urllib.parse import urlsplit

from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from perago_worker._version import __version__
from perago_worker.adapters.lakefs.measured import measure_storage
from perago_worker.adapters.lakefs.settings import LakeFSSettings
from perago_worker.adapters.lakefs.streams import (
    CHUNK_BYTES,
    RANGE_BEYOND_END,
    exactly,
    range_header,
    require_range,
)
from perago_worker.adapters.tls import client_context
from perago_worker.events import Listener

METADATA_SERVICES = frozenset({"fd00:ec2::254", "100.100.100.200", "168.63.129.16"})
"""Where clouds tell a machine its credentials, beside the link-local addresses most of them use."""


class Unusable(Exception):
    """The object store was not reached, or refused, before a byte was read or sent.

    Attributes:
        status: What it answered; 0 when it did not.
    """

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Storage:
    """Connections to the hosts that signed addresses name. Safe to use from any thread.

    Addresses are followed when they are https, or http where lakeFS itself is spoken to so; when
    the connection they make does not end at this machine (unless lakeFS is on it as well), at a
    link-local address or at a cloud's metadata service, whatever the name resolves to; and never on
    to another address. Whether authorities are trusted is the system's choice, and `ca_file`'s.
    """

    def __init__(self, settings: LakeFSSettings, *, listener: Listener | None = None) -> None:
        lakefs = urlsplit(settings.base_url)
        self._schemes = {"https", lakefs.scheme}
        self._timeout = Timeout(connect=settings.connect_timeout_s, read=settings.request_timeout_s)
        # See `Transport.upload`: the first bytes go out under the connect timeout.
        self._slow = Timeout(connect=settings.request_timeout_s, read=settings.request_timeout_s)
        self._pools = PoolManager(
            maxsize=settings.connections,
            headers={"User-Agent": f"perago-worker/{__version__}"},
            retries=False,
            ssl_context=_tls(settings),
        )
        self._pools.pool_classes_by_scheme = (
            {"http": _LocalPlainPool, "https": _LocalSecurePool}
            if _is_loopback(lakefs.hostname or "")
            else {"http": _PlainPool, "https": _SecurePool}
        )
        if listener is not None:
            measure_storage(self._pools, listener=listener)

    def get(self, address: str, sink: BinaryIO, *, start: int, size: int | None) -> int:
        """Write an object, or a range of it, to `sink` and return the number of bytes.

        Raises:
            Unusable: Nothing was written to `sink`.
            HTTPError: The answer ended early, or is not what was asked for.
        """
        headers = range_header(start, size)
        response = self._request("GET", address, headers=headers, timeout=self._timeout)
        read = 0
        try:
            if headers and response.status == RANGE_BEYOND_END:
                return 0
            _require_success(response, address)
            try:
                require_range(response, start, size)
            except HTTPError as error:
                raise Unusable(f"{shown_host(address)}: {error}") from None
            while chunk := response.read(CHUNK_BYTES, decode_content=False):
                sink.write(chunk)
                read += len(chunk)
            return read
        finally:
            response.close()

    def put(self, address: str, source: BinaryIO, *, size: int) -> str:
        """Store `size` bytes of `source` and return the tag that the object store gave them.

        Raises:
            Unusable: The object store was not reached or refused; `source` may be used up.
            SourceError: `source` raised something.
        """
        response = self._request(
            "PUT",
            address,
            headers={"Content-Length": str(size)},
            body=exactly(source, size),
            timeout=self._slow,
        )
        try:
            _require_success(response, address)
            response.drain_conn()
            return response.headers.get("ETag", "")
        finally:
            response.close()

    def close(self) -> None:
        """Close idle connections now and busy ones when their calls end."""
        self._pools.clear()

    def _request(
        self, method: str, address: str, *, headers: Mapping[str, str], **options: Any
    ) -> BaseHTTPResponse:
        try:
            if urlsplit(address).scheme not in self._schemes:
                raise Unusable(f"{shown_host(address)} is not reached by https")
            return self._pools.request(
                method,
                address,
                headers={**self._pools.headers, **headers},
                redirect=False,
                preload_content=False,
                **options,
            )
        except (HTTPError, ValueError) as error:
            # The text of some of these errors holds the whole address.
            raise Unusable(f"{shown_host(address)}: {type(error).__name__}") from None


def shown_host(address: str) -> str:
    """Return what a message may show of an address: the host, not the signature."""
    try:
        return f"object store {urlsplit(address).netloc.rpartition('@')[2]!r}"
    except ValueError:
        return "an object store whose address makes no sense"


def _require_success(response: BaseHTTPResponse, address: str) -> None:
    if not 200 <= response.status < 300:
        message = f"{shown_host(address)} answered {response.status}"
        raise Unusable(message, status=response.status)


def _tls(settings: LakeFSSettings) -> ssl.SSLContext:
    """Trust what is trusted elsewhere too; our certificate is for lakeFS alone."""
    return client_context(replace(settings.tls, cert_file=None, key_file=None), system_too=True)


class ForbiddenPeer(HTTPError):
    """A name led to an address that no object store has."""


def may_be_reached(peer: str, *, loopback: bool) -> bool:
    """Tell whether an object store may be at an IP address.

    Args:
        peer: As sockets give it.
        loopback: Whether it may be on this machine.
    """
    address = ipaddress.ip_address(peer.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    return (
        (loopback or not address.is_loopback)
        and not (address.is_link_local or address.is_multicast or address.is_unspecified)
        and str(address) not in METADATA_SERVICES
    )


def _require_peer(connection: HTTPConnection, *, loopback: bool) -> None:
    # Looked at once it is connected: what a name resolves to may change between two looks.
    peer = str(connection.sock.getpeername()[0])
    if not may_be_reached(peer, loopback=loopback):
        connection.close()
        raise ForbiddenPeer


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Plain(HTTPConnection):
    loopback: ClassVar[bool] = False

    def connect(self) -> None:
        super().connect()
        _require_peer(self, loopback=self.loopback)


class _Secure(HTTPSConnection):
    loopback: ClassVar[bool] = False

    def connect(self) -> None:
        super().connect()
        _require_peer(self, loopback=self.loopback)


class _LocalPlain(_Plain):
    loopback = True


class _LocalSecure(_Secure):
    loopback = True


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


class _LocalPlainPool(HTTPConnectionPool):
    ConnectionCls = _LocalPlain


class _LocalSecurePool(HTTPSConnectionPool):
    ConnectionCls = _LocalSecure
