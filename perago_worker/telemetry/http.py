"""Metrics and probes over HTTP: read-only, on a port of its own, never in the way of the work."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from perago_worker._version import __version__
from perago_worker.config import parse_listen
from perago_worker.errors import ConfigError, ConfigProblem

PLAIN = "text/plain; charset=utf-8"
CLIENT_TIMEOUT_S = 10.0
"""A client that says or takes nothing for this long is cut off."""
STOP_CHECK_S = 0.25

INDEX = f"""perago-worker {__version__}

/metrics  metrics for Prometheus
/livez    200 while the process is worth keeping, 503 with reasons when it should be restarted
/readyz   200 while it takes work, 503 with reasons when it does not
"""

Check = Callable[[], list[str]]
"""Returns why something is not as it should be, one line each; nothing when all is well."""

Answer = tuple[HTTPStatus, str, bytes]
"""Status, content type and body."""
Routes = dict[str, Callable[[str], Answer]]
"""Path to what answers it, given the request's Accept header."""

_log = logging.getLogger(__name__)


class TelemetryServer:
    """Serves `/metrics`, `/livez` and `/readyz` from threads of its own.

    Args:
        listen: `host:port`; port 0 is any free one, an empty string turns the server off.
        registry: What `/metrics` shows.
        liveness: Why the process should be restarted. Called in a thread of the server.
        readiness: Why it takes no work. Called in a thread of the server.
    """

    def __init__(
        self, listen: str, *, registry: CollectorRegistry, liveness: Check, readiness: Check
    ) -> None:
        self._listen = listen
        self._routes: Routes = {
            "/": lambda _: (HTTPStatus.OK, PLAIN, INDEX.encode()),
            "/livez": lambda _: _probe(liveness),
            "/readyz": lambda _: _probe(readiness),
            "/metrics": lambda accept: _metrics(registry, accept),
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
        try:
            answer = route(self.headers.get("Accept", ""))
        except Exception:  # noqa: BLE001 -- a probe that breaks must fail, not hang up
            _log.exception("telemetry route failed: %s", path)
            answer = (HTTPStatus.INTERNAL_SERVER_ERROR, PLAIN, b"internal error\n")
        self._send(*answer)

    do_HEAD = do_GET  # noqa: N815 -- the base class finds methods by these names

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
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "perago-worker"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
        """Keep quiet: scrapes and probes come every few seconds."""
