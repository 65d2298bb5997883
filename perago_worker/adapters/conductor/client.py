"""Connections to Conductor: where it is, whom to trust, through which proxy, how long they last."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from urllib3 import PoolManager, ProxyManager
from urllib3.exceptions import LocationParseError
from urllib3.util import make_headers, parse_url

from perago_worker._version import __version__
from perago_worker.adapters.http_heads import QuickResponse
from perago_worker.adapters.http_pools import Message, host_field, pool_of, quoted
from perago_worker.adapters.keys import FixedKeys, Keys, KeySource
from perago_worker.adapters.tls import TlsFileError, TlsSettings, client_context
from perago_worker.errors import ConfigError, ConfigProblem

KEPT_CONNECTIONS = 256
"""How many idle connections are kept. How many there are is not bounded here: one call per slot,
poller and heartbeat at a time, the worker's own limits bound it, and a call that waits for a
connection would wait at the expense of a lease."""

_HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "gzip",
    "User-Agent": f"perago-worker/{__version__}",
}


@dataclass(frozen=True)
class ConductorSettings:
    """Where Conductor is and how to talk to it.

    Attributes:
        url: Address of the REST API, with or without its `/api`.
        auth_key_id: Application key of Orkes Conductor; None, like the secret, for open Conductor.
        keys: Where the application key comes from, in place of these two.
        tls: How TLS is spoken.
        connect_timeout_s: For connecting.
        request_timeout_s: For everything after, unless a call has a time of its own.
    """

    url: str
    auth_key_id: str | None = None
    auth_key_secret: str | None = field(default=None, repr=False)
    keys: KeySource | None = field(default=None, repr=False)
    tls: TlsSettings = field(default_factory=TlsSettings)
    connect_timeout_s: float = 5.0
    request_timeout_s: float = 15.0

    @property
    def api_url(self) -> str:
        """The address with its `/api`."""
        url = self.url.rstrip("/")
        return url if url.endswith("/api") else f"{url}/api"

    @property
    def key_source(self) -> KeySource | None:
        """Where the keys come from; None where none are sent."""
        if self.keys is not None or self.auth_key_id is None or self.auth_key_secret is None:
            return self.keys
        return FixedKeys(Keys(self.auth_key_id, self.auth_key_secret))


class Client:
    """Sends requests to one server over connections that are kept. Safe from any thread."""

    def __init__(self, url: str, *, trust: ssl.SSLContext | None = None) -> None:
        """Prepare; it connects on first use.

        Proxies are those of the environment (HTTPS_PROXY, NO_PROXY, ...).

        Args:
            url: What the targets of requests come after; name and password in it are sent along.
            trust: For an address of https.

        Raises:
            ValueError: The address or the environment's proxy cannot be used.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("the address has to begin with http:// or https:// and a host")
        host = parts.netloc.rpartition("@")[2]
        host = parse_url(f"{parts.scheme}://{host}").netloc or ""  # as it is asked for, in ASCII
        proxy = _proxy_for(parts.scheme, host)
        self._pool = pool_of(_manager(proxy, trust), f"{parts.scheme}://{host}")
        # What goes to a proxy as it is names the server, what goes through it does not.
        forwarded = proxy is not None and parts.scheme == "http"
        self._prefix = (f"http://{host}" if forwarded else "") + quoted(parts.path.rstrip("/"))
        self._headers = {
            "Host": host_field(f"{parts.scheme}://{host}"),
            **_HEADERS,
            **_authorization(parts.username, parts.password),
        }
        if forwarded:
            self._headers |= self._pool.proxy_headers

    def exchange(
        self, message: Message, *, connect_s: float, answer_s: float
    ) -> AbstractContextManager[QuickResponse]:
        """Send a request whose target is below the address; `Pool.exchange` says the rest."""
        complete = replace(
            message,
            target=self._prefix + message.target,
            headers={**self._headers, **message.headers},
        )
        return self._pool.exchange(complete, connect_s=connect_s, answer_s=answer_s)

    def close(self) -> None:
        """Close idle connections now and busy ones when their calls end. Idempotent."""
        self._pool.close()


def open_client(settings: ConductorSettings, *, trust: ssl.SSLContext | None) -> Client:
    """Return a client for targets below the API's root.

    Args:
        settings: Where that is.
        trust: From `trust_of`.

    Raises:
        ConfigError: The address or the environment's proxy cannot be used.
    """
    try:
        return Client(settings.api_url, trust=trust)
    except ValueError as problem:
        # What cannot be parsed is in its text, and passwords may be in that.
        unparsed = isinstance(problem, LocationParseError)
        reason = "one of them is no address" if unparsed else str(problem)
        message = f"no HTTP client can be made of the address and the environment's proxy: {reason}"
        raise ConfigError([ConfigProblem("", "queue.url", message)]) from None


def trust_of(settings: ConductorSettings) -> ssl.SSLContext | None:
    """Return whom to trust, and what to show of ourselves; None where no TLS is spoken.

    Raises:
        ConfigError: A file cannot be used.
    """
    if not settings.url.lower().startswith("https:"):
        return None
    try:
        return client_context(settings.tls)
    except TlsFileError as problem:
        where, key = str(problem.file), f"queue.{problem.key}"
        raise ConfigError([ConfigProblem(where, key, problem.message)]) from problem


def _proxy_for(scheme: str, host: str) -> str | None:
    """Return the address of the environment's proxy for a server; None for none."""
    proxies = getproxies_environment()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _manager(proxy: str | None, trust: ssl.SSLContext | None) -> PoolManager:
    options: dict[str, Any] = {"maxsize": KEPT_CONNECTIONS, "ssl_context": trust}
    if proxy is None:
        return PoolManager(**options)
    auth = parse_url(proxy).auth
    headers = make_headers(proxy_basic_auth=unquote(auth)) if auth else None
    return ProxyManager(proxy, proxy_headers=headers, **options)


def _authorization(user: str | None, password: str | None) -> Mapping[str, str]:
    if not user and not password:
        return {}
    return make_headers(basic_auth=f"{unquote(user or '')}:{unquote(password or '')}")
