"""Status page, metrics and probes over HTTP: read-only, on a port of its own, beside the work."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from perago_worker.config import parse_listen
from perago_worker.errors import ConfigError, ConfigProblem
from perago_worker.telemetry.page import POLICY, page

PLAIN = "text/plain; charset=utf-8"
CLIENT_TIMEOUT_S = 10.0
"""A client that says or takes nothing for this long is cut off."""
STOP_CHECK_S = 0.25

HTML = "text/html; charset=utf-8"
JSON = "application/json"

LOOPBACK_ONLY = frozenset({"/stacks"})
"""Paths that are answered only to those on this machine, and under its own name."""

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

Check = Callable[[], list[str]]
"""Returns why something is not as it should be, one line each; nothing when all is well."""

Answer = tuple[HTTPStatus, str, bytes]
"""Status, content type and body."""
Routes = dict[str, Callable[[str], Answer]]
"""Path to what answers it, given the request's Accept header."""

_log = logging.getLogger(__name__)


class TelemetryServer:
    """Serves the status page, `/status.json`, `/metrics` and the probes from threads of its own.

    Args:
        listen: `host:port`; port 0 is any free one, an empty string turns the server off.
        registry: What `/metrics` shows.
        catch_up: Called before status or metrics are read.
        liveness: Why the process should be restarted. Called in a thread of the server.
        readiness: Why it takes no work. Called in a thread of the server.
        startup: Why it cannot be said to have started.
        status: What the page and `/status.json` show; plain values without secrets.
        stacks: What all threads are doing; shown on this machine only.
    """

    def __init__(
        self,
        listen: str,
        *,
        registry: CollectorRegistry,
        catch_up: Callable[[], object] = lambda: None,
        liveness: Check,
        readiness: Check,
        startup: Check = list,
        status: Callable[[], Mapping[str, Any]],
        stacks: Callable[[], str] = str,
    ) -> None:
        self._listen = listen

        def latest() -> Mapping[str, Any]:
            catch_up()
            return status()

        def metrics(accept: str) -> Answer:
            catch_up()
            return _metrics(registry, accept)

        self._routes: Routes = {
            "/": lambda _: (HTTPStatus.OK, HTML, page(latest()).encode(errors="replace")),
            "/status.json": lambda _: (HTTPStatus.OK, JSON, _as_json(latest())),
            "/stacks": lambda _: (HTTPStatus.OK, PLAIN, stacks().encode(errors="replace")),
            "/startupz": lambda _: _probe(startup),
            "/livez": lambda _: _probe(liveness),
            "/readyz": lambda _: _probe(readiness),
            "/metrics": metrics,
        }
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Bind the address and serve it; does nothing when it serves already, or is turned off.

        Raises:
            ConfigError: The address cannot be bound.
        """
        address = parse_listen(self._listen)
        if address is None or self._server is not None:
            return
        self._server = self._bind(address)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": STOP_CHECK_S},
            name="telemetry",
            daemon=True,
        )
        self._thread.start()
        host, port = self._server.server_address[:2]
        structlog.get_logger(__name__).info("http.listening", address=f"{host!s}:{port}")

    def stop(self) -> None:
        """Stop serving and free the address. Safe twice, and before `start`."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is None or thread is None:
            return
        server.shutdown()
        server.server_close()
        thread.join()

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port that are served; None while nothing is."""
        if self._server is None:
            return None
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def _bind(self, address: tuple[str, int]) -> _Server:
        try:
            return _Server(address, self._routes)
        except OSError as error:
            message = (
                f"{self._listen} cannot be listened on: {error.strerror or error}; choose another "
                'port, 0 for any free one, or "" for none'
            )
            raise ConfigError([ConfigProblem("", "http.listen", message)]) from error


def _probe(check: Check) -> Answer:
    reasons = check()
    status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
    return status, PLAIN, ("\n".join(reasons or ["ok"]) + "\n").encode()


def _as_json(status: Mapping[str, Any]) -> bytes:
    return (json.dumps(status, indent=2) + "\n").encode()


def _metrics(registry: CollectorRegistry, accept: str) -> Answer:
    encode, content_type = choose_encoder(accept)
    return HTTPStatus.OK, content_type, encode(registry)


class _Server(ThreadingMixIn, TCPServer):
    # TCPServer rather than HTTPServer, which asks the DNS for its own name before it serves.
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], routes: Routes) -> None:
        self.routes = routes
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 -- overridden
        _log.debug("telemetry request failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = CLIENT_TIMEOUT_S

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        route = self.server.routes.get(path)
        if route is None:
            self._send(HTTPStatus.NOT_FOUND, PLAIN, b"not found\n")
            return
        if path in LOOPBACK_ONLY and not self._is_local():
            self._send(HTTPStatus.FORBIDDEN, PLAIN, b"only on the machine itself\n")
            return
        try:
            answer = route(self.headers.get("Accept", ""))
        except Exception:  # noqa: BLE001 -- a probe that breaks must fail, not hang up
            _log.exception("telemetry route failed: %s", path)
            answer = (HTTPStatus.INTERNAL_SERVER_ERROR, PLAIN, b"internal error\n")
        self._send(*answer)

    do_HEAD = do_GET  # noqa: N815 -- the base class finds methods by these names

    def _is_local(self) -> bool:
        """Whether somebody here asks, and not a page of elsewhere by a name that leads here."""
        name = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        peer = ip_address(self.client_address[0].partition("%")[0])
        return peer.is_loopback and name in _LOCAL_NAMES

    def _refuse(self) -> None:
        self.close_connection = True  # whatever body there is stays unread
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, PLAIN, b"only GET and HEAD\n")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def _send(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Content-Security-Policy", POLICY)
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "perago-worker"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
        """Keep quiet: scrapes and probes come every few seconds."""
