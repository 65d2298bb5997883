"""The HTTP client: where Conductor is, whom to trust, through which proxy, how many connections."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from perago_worker._version import __version__
from perago_worker.errors import ConfigError, ConfigProblem

KEEPALIVE_S = 45.0
"""How long an idle connection is kept: longer than heartbeats are apart, shorter than servers do.

Where the server closes first, a request can run into the closing connection, and a poll that does
is lost. Source: Conductor 3.32.1 and common load balancers close after 60 seconds.
"""

# One call per slot, poller and heartbeat at a time: the worker's own limits bound it, and a call
# that waits for a connection would wait at the expense of a lease.
_LIMITS = httpx.Limits(
    max_connections=None, max_keepalive_connections=256, keepalive_expiry=KEEPALIVE_S
)

_HEADERS = {"Accept": "*/*", "User-Agent": f"perago-worker/{__version__}"}


@dataclass(frozen=True)
class ConductorSettings:
    """Where Conductor is and how to talk to it.

    Attributes:
        url: Address of the REST API, with or without its `/api`.
        auth_key_id: Application key of Orkes Conductor; None, like the secret, for open Conductor.
        ca_file: Certificates to trust in place of the usual ones, PEM.
        connect_timeout_s: For connecting.
        request_timeout_s: For everything after, unless a call has a time of its own.
    """

    url: str
    auth_key_id: str | None = None
    auth_key_secret: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    connect_timeout_s: float = 5.0
    request_timeout_s: float = 15.0

    @property
    def api_url(self) -> str:
        """The address with its `/api`."""
        url = self.url.rstrip("/")
        return url if url.endswith("/api") else f"{url}/api"


def open_client(settings: ConductorSettings) -> httpx.Client:
    """Return a client for paths below the API's root; it connects on first use.

    Proxies are those of the environment (HTTPS_PROXY, NO_PROXY, ...), and so is SSL_CERT_FILE
    unless a `ca_file` is given.

    Raises:
        ConfigError: The address, the CA file or the environment's proxy cannot be used.
    """
    # It logs each request with its address, at INFO; addresses can hold credentials.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return httpx.Client(
            base_url=settings.api_url,
            verify=_trust(settings),
            limits=_LIMITS,
            headers=_HEADERS,
        )
    except (httpx.InvalidURL, ImportError, ValueError) as problem:
        message = (
            f"no HTTP client can be made of the address and the environment's proxy: {problem}"
        )
        raise ConfigError([ConfigProblem("", "queue.url", message)]) from problem


def open_outside_client() -> httpx.Client:
    """Return a client for addresses elsewhere, for which `ca_file` does not vouch."""
    return httpx.Client(headers=_HEADERS)


def _trust(settings: ConductorSettings) -> ssl.SSLContext | bool:
    if not settings.url.lower().startswith("https:"):
        # Reading the usual certificates takes a seventh of a second, and plain HTTP looks at none.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if settings.ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as problem:
        where, message = str(settings.ca_file), f"holds no certificates that can be read: {problem}"
        raise ConfigError([ConfigProblem(where, "queue.ca_file", message)]) from problem
