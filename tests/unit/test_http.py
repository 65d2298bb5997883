"""The telemetry server, spoken to over a real socket."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from perago_worker.adapters.system import SystemClock
from perago_worker.errors import ConfigError
from perago_worker.telemetry.board import Board
from perago_worker.telemetry.http import TelemetryServer


def empty_status() -> dict[str, Any]:
    board = Board(slots={"features.build": 2}, about={"name": "host"}, clock=SystemClock())
    return {**board.snapshot(), "not_alive": [], "not_ready": [], "services": []}


@dataclass
class Worker:
    """What the probes of a server report, to be changed by tests."""

    not_alive: list[str] = field(default_factory=list)
    not_ready: list[str] = field(default_factory=list)
    not_started: list[str] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=empty_status)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    catch_up: Callable[[], None] = lambda: None

    def latest(self) -> None:
        self.catch_up()

    def server(self, listen: str = "127.0.0.1:0") -> TelemetryServer:
        return TelemetryServer(
            listen,
            registry=self.registry,
            catch_up=self.latest,
            liveness=lambda: self.not_alive,
            readiness=lambda: self.not_ready,
            startup=lambda: self.not_started,
            status=lambda: self.status,
            stacks=lambda: 'Thread "main":\n',
        )


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def server(worker: Worker) -> Iterator[TelemetryServer]:
    server = worker.server()
    server.start()
    yield server
    server.stop()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: str


def ask(
    server: TelemetryServer,
    path: str,
    *,
    method: str = "GET",
    accept: str | None = None,
    host: str | None = None,
) -> Answer:
    assert server.address is not None
    with closing(http.client.HTTPConnection(*server.address, timeout=30)) as connection:
        given = {"Accept": accept, "Host": host}
        headers = {name: value for name, value in given.items() if value}
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read().decode())


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/livez?verbose=1"])
def test_a_probe_is_ok_while_nothing_is_wrong(path: str, server: TelemetryServer) -> None:
    answer = ask(server, path)

    assert (answer.status, answer.body) == (200, "ok\n")
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_probes_say_why_not_one_reason_a_line(worker: Worker, server: TelemetryServer) -> None:
    worker.not_alive = ["heartbeats have not ticked for 61 s"]
    worker.not_ready = ["draining", "no poll has succeeded"]

    live, ready = ask(server, "/livez"), ask(server, "/readyz")

    assert (live.status, live.body) == (503, "heartbeats have not ticked for 61 s\n")
    assert (ready.status, ready.body) == (503, "draining\nno poll has succeeded\n")


def test_a_probe_that_breaks_fails(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> list[str]:
        raise RuntimeError("broken")

    server = TelemetryServer(
        "127.0.0.1:0", registry=CollectorRegistry(), liveness=broken, readiness=list, status=dict
    )
    server.start()
    with caplog.at_level(logging.ERROR):
        answer = ask(server, "/livez")
    server.stop()

    assert answer.status == 500
    assert "telemetry route failed: /livez" in caplog.text


@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics"])
def test_what_is_shown_is_the_latest(worker: Worker, server: TelemetryServer, path: str) -> None:
    seen = Gauge("seen", "As of the last look.", registry=worker.registry)

    def catch_up() -> None:
        seen.set(7)
        worker.status["worker"]["id"] = "as of 7.0"

    worker.catch_up = catch_up
    assert "7.0" in ask(server, path).body


def test_probes_wait_for_nobody(worker: Worker, server: TelemetryServer) -> None:
    def catch_up() -> None:
        raise AssertionError("a log that is held up would hold this up")

    worker.catch_up = catch_up
    for path in ("/livez", "/readyz", "/startupz", "/stacks"):
        assert ask(server, path).status == 200


def test_metrics_are_in_the_format_that_was_asked_for(
    worker: Worker, server: TelemetryServer
) -> None:
    Counter("things", "Things.", registry=worker.registry).inc(2)

    plain = ask(server, "/metrics")
    open_metrics = ask(server, "/metrics", accept="application/openmetrics-text; version=1.0.0")

    assert plain.status == 200
    assert plain.headers["Content-Type"].startswith("text/plain")
    assert "things_total 2.0" in plain.body
    assert open_metrics.headers["Content-Type"].startswith("application/openmetrics-text")
    assert open_metrics.body.endswith("# EOF\n")


def test_the_index_names_what_there_is(server: TelemetryServer) -> None:
    answer = ask(server, "/")

    assert answer.status == 200
    assert all(path in answer.body for path in ("/metrics", "/livez", "/readyz"))


def test_the_worker_has_started_once_nothing_is_awaited(
    worker: Worker, server: TelemetryServer
) -> None:
    worker.not_started = ["features.build: has not polled yet"]
    assert ask(server, "/startupz").status == 503

    worker.not_started = []
    assert ask(server, "/startupz").status == 200


def test_the_status_is_a_page_and_data(server: TelemetryServer) -> None:
    shown, data = ask(server, "/"), ask(server, "/status.json")

    assert shown.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "features.build" in shown.body
    assert json.loads(data.body)["tasks"][0]["name"] == "features.build"


def test_nothing_may_be_loaded_run_or_framed(server: TelemetryServer) -> None:
    headers = ask(server, "/").headers

    assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert "script-src" not in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"


def test_stacks_are_shown_on_the_machine_itself(server: TelemetryServer) -> None:
    assert ask(server, "/stacks").body == 'Thread "main":\n'


def test_stacks_are_not_shown_to_pages_of_elsewhere(server: TelemetryServer) -> None:
    """A name of somebody else's that leads here would let a page in a browser read them."""
    answer = ask(server, "/stacks", host="status.example.com")

    assert answer.status == 403
    assert "Thread" not in answer.body


@pytest.mark.parametrize("path", ["/nothing", "/livez/", "/metrics/x", "/../etc/passwd"])
def test_there_is_nothing_else(path: str, server: TelemetryServer) -> None:
    assert ask(server, path).status == 404


@pytest.mark.parametrize("path", ["/", "/metrics", "/livez", "/nothing"])
def test_head_answers_as_get_without_a_body(path: str, server: TelemetryServer) -> None:
    get, head = ask(server, path), ask(server, path, method="HEAD")

    assert head.status == get.status
    assert head.body == ""
    assert int(head.headers["Content-Length"]) == len(get.body.encode())


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(method: str, server: TelemetryServer) -> None:
    answer = ask(server, "/livez", method=method)

    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"


def test_the_server_says_nothing_of_its_software(server: TelemetryServer) -> None:
    assert ask(server, "/").headers["Server"] == "perago-worker"


def test_requests_are_not_logged(
    server: TelemetryServer, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(server, "/metrics")

    assert capsys.readouterr() == ("", "")


def test_a_client_that_hangs_keeps_nobody_waiting(server: TelemetryServer) -> None:
    assert server.address is not None
    with socket.create_connection(server.address) as hanging:
        hanging.sendall(b"GET /livez HT")
        assert ask(server, "/livez").status == 200


def test_a_client_that_goes_away_is_no_error(
    server: TelemetryServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.address is not None
    for _ in range(3):
        with socket.create_connection(server.address) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")

    assert ask(server, "/livez").status == 200
    assert capsys.readouterr().err == ""


def test_an_ipv6_address_can_be_listened_on(worker: Worker) -> None:
    server = worker.server("[::1]:0")
    server.start()
    try:
        assert server.address is not None
        assert server.address[0] == "::1"
        assert ask(server, "/livez").status == 200
    finally:
        server.stop()


def test_an_address_in_use_is_a_mistake_in_the_configuration(
    worker: Worker, server: TelemetryServer
) -> None:
    assert server.address is not None
    second = worker.server(f"127.0.0.1:{server.address[1]}")

    with pytest.raises(ConfigError) as caught:
        second.start()

    (problem,) = caught.value.problems
    assert problem.key == "http.listen"
    assert "Address already in use; choose another port" in problem.message
    assert second.address is None


def test_a_host_that_does_not_exist_is_a_mistake_in_the_configuration(worker: Worker) -> None:
    with pytest.raises(ConfigError, match=r"http\.listen"):
        worker.server("192.0.2.1:0").start()


def test_an_empty_address_turns_it_off(worker: Worker) -> None:
    server = worker.server("")
    server.start()
    assert server.address is None
    server.stop()


def test_stopping_frees_the_address_and_ends_the_threads(worker: Worker) -> None:
    server = worker.server()
    server.start()
    assert server.address is not None
    port = server.address[1]
    server.stop()

    assert server.address is None
    assert not [thread for thread in threading.enumerate() if thread.name == "telemetry"]
    again = worker.server(f"127.0.0.1:{port}")
    again.start()
    again.stop()


def test_start_and_stop_are_safe_to_repeat(worker: Worker) -> None:
    server = worker.server()
    server.stop()
    server.start()
    address = server.address
    server.start()
    assert server.address == address
    server.stop()
    server.stop()
    server.start()
    assert ask(server, "/livez").status == 200
    server.stop()
