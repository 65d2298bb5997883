"""The way to a server, a step at a time: its name, its port, its certificate, its clock."""

from __future__ import annotations

import socket
import ssl
import time
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from perago_worker.adapters.tls import TlsFileError, TlsSettings, client_context
from perago_worker.cli.diagnosis import Diagnosis
from perago_worker.cli.exits import Exit
from perago_worker.config import ConductorQueueSettings, LakeFSStoreSettings, WorkerConfig
from perago_worker.events import Event, RequestFinished
from perago_worker.telemetry.skew import clock_skew_s

EXPIRES_SOON_DAYS = 21
SKEW_TOLERATED_S = 5.0
"""Answers are dated to the second, and may have been under way for some time."""
SKEW_FATAL_S = 300.0
"""Object stores refuse addresses that were signed by a clock so wrong, and tokens expire."""


@dataclass(frozen=True)
class Server:
    """One server that is configured.

    Attributes:
        keys: The names of the settings with its keys, for messages.
        by_proxy: Whether requests to it take the proxies that the environment names.
    """

    name: str
    key: str
    url: str
    tls: TlsSettings
    keys: str
    connect_timeout_s: float
    by_proxy: bool


def servers_of(config: WorkerConfig) -> Mapping[str, Server]:
    """Return the servers that a configuration names, by its sections."""
    from perago_worker.bootstrap.adapters import tls_of

    found = {}
    queue, store = config.queue, config.store
    if isinstance(queue, ConductorQueueSettings):
        found["queue"] = Server(
            name="conductor",
            key="queue.url",
            url=queue.api_url,
            tls=tls_of(queue),
            keys="queue.auth_key_id_file and queue.auth_key_secret_file",
            connect_timeout_s=queue.connect_timeout,
            by_proxy=True,
        )
    if isinstance(store, LakeFSStoreSettings):
        found["store"] = Server(
            name="lakefs",
            key="store.endpoint",
            url=store.api_url,
            tls=tls_of(store),
            keys="store.access_key_id_file and store.secret_access_key_file",
            connect_timeout_s=store.connect_timeout,
            by_proxy=False,
        )
    return found


def reach(diagnosis: Diagnosis, server: Server) -> bool:
    """Go to a server's port and shake hands; return whether to go on and ask it something."""
    parts = urlsplit(server.url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if server.by_proxy and (proxy := _proxy_for(parts.scheme, host)):
        diagnosis.ok(f"{server.name} network", f"{host} is reached through the proxy {proxy}")
        return True
    addresses = _resolve(diagnosis, server, host, port)
    if not addresses:
        return False
    connection = _connect(diagnosis, server, host, port)
    if connection is None:
        return False
    with closing(connection):
        return parts.scheme != "https" or _shake_hands(diagnosis, server, host, connection)


def _proxy_for(scheme: str, host: str) -> str:
    """Return the host of the proxy that the environment names for a server; empty for none."""
    if urllib.request.proxy_bypass(host):
        return ""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all", "")
    return urlsplit(proxy).hostname or "" if proxy else ""


def _resolve(diagnosis: Diagnosis, server: Server, host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the latter for what no name can be
        diagnosis.fail(
            f"{server.name} name",
            f"{host} does not resolve: {getattr(error, 'strerror', None) or error}",
            why="No address, no connection.",
            todo=f"correct {server.key}, or look at the DNS of this machine or pod",
            code=Exit.UNREACHABLE,
        )
        return []
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    diagnosis.ok(f"{server.name} name", f"{host} is at {', '.join(addresses[:4])}")
    return addresses


def _connect(diagnosis: Diagnosis, server: Server, host: str, port: int) -> socket.socket | None:
    started_at = time.monotonic()
    try:
        connection = socket.create_connection((host, port), timeout=server.connect_timeout_s)
    except OSError as error:
        diagnosis.fail(
            f"{server.name} port",
            f"{host}:{port}: {error.strerror or error}",
            why="Nothing answers there, or something between drops it.",
            todo=f"see that the server runs and that network policies and firewalls let this "
            f"machine reach port {port}; otherwise correct {server.key}",
            code=Exit.UNREACHABLE,
        )
        return None
    took_ms = (time.monotonic() - started_at) * 1000
    diagnosis.ok(f"{server.name} port", f"{host}:{port} connects in {took_ms:.0f} ms")
    return connection


def _shake_hands(
    diagnosis: Diagnosis, server: Server, host: str, connection: socket.socket
) -> bool:
    section = server.key.partition(".")[0]
    try:
        context = client_context(server.tls)
        with context.wrap_socket(connection, server_hostname=host) as secured:
            version, certificate = secured.version(), secured.getpeercert() or {}
    except TlsFileError as error:
        diagnosis.fail(
            f"{server.name} TLS",
            f"{section}.{error.key}: {error.file}: {error}",
            why="The worker does not start without it.",
            todo="give the file a certificate or key in PEM that this user can read",
            code=Exit.CONFIG,
        )
        return False
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
        diagnosis.fail(
            f"{server.name} TLS",
            f"{host}: {reason}",
            why="The server cannot prove who it is, or speaks TLS as we do not.",
            todo=f"name the authority that signed its certificate by {section}.ca_file, correct "
            f"{server.key}, or have the certificate renewed",
            code=Exit.UNREACHABLE,
        )
        return False
    _note_expiry(diagnosis, server, version or "TLS", certificate)
    return True


def _note_expiry(
    diagnosis: Diagnosis, server: Server, version: str, certificate: Mapping[str, Any]
) -> None:
    days = (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86_400
    found = f"{version}, its certificate is good for {days:.0f} days"
    if days >= EXPIRES_SOON_DAYS:
        diagnosis.ok(f"{server.name} TLS", found)
        return
    diagnosis.warn(
        f"{server.name} TLS",
        found,
        why="From then on nothing can connect.",
        todo="have it renewed",
    )


# --- clocks ---------------------------------------------------------------------------------------


@dataclass
class Clocks:
    """A listener that reads servers' clocks off their answers."""

    skews: dict[str, float] = field(default_factory=dict)

    def on_event(self, event: Event) -> None:
        """Take note of an answer's date."""
        if isinstance(event, RequestFinished) and event.date:
            skew = clock_skew_s(event.date, time.time())
            if skew is not None:
                self.skews[event.service] = skew

    def tell(self, diagnosis: Diagnosis) -> None:
        """Say how far each server's clock is from ours."""
        for service, skew in sorted(self.skews.items()):
            side = "ahead of" if skew > 0 else "behind"
            found = f"{abs(skew):.1f} s {side} this machine's"
            what = f"{service} clock"
            why = (
                "Signed addresses and tokens are refused when clocks differ by minutes, and times "
                "of logs cannot be compared."
            )
            todo = "see that both machines follow a time server (chronyc tracking, timedatectl)"
            if abs(skew) >= SKEW_FATAL_S:
                diagnosis.fail(what, found, why=why, todo=todo)
            elif abs(skew) >= SKEW_TOLERATED_S:
                diagnosis.warn(what, found, why=why, todo=todo)
            else:
                diagnosis.ok(what, "within a few seconds of this machine's")
