"""A server on a real socket that answers as a test tells it to."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO


@dataclass
class Request:
    """One request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    stream: BinaryIO
    body: bytes = b""

    def read_body(self) -> None:
        self.body = self.stream.read(int(self.headers.get("content-length", 0)))


Act = Callable[[Request, socket.socket], None]
"""Answers a request by sending to the socket; the connection ends when it raises `HangupError`."""


class HangupError(Exception):
    """Ends a connection."""


@dataclass
class ScriptedServer:
    """Answers the n-th request as the n-th entry of the script says, the rest as the last one."""

    script: list[Act]
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    requests: list[Request] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    @property
    def targets(self) -> list[str]:
        return [f"{request.method} {request.target}" for request in self.requests]

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            # A line cut short makes a request that cannot be read: the other side has gone.
            with suppress(HangupError, OSError, ValueError):
                while line := stream.readline():
                    request = _request(line, stream)
                    self.requests.append(request)
                    act = self.script[min(len(self.requests), len(self.script)) - 1]
                    act(request, connection)
            cut(connection)

    def stop(self) -> None:
        for each in (self.listener, *self.connections):
            cut(each)
        self.listener.close()


def cut(connection: socket.socket) -> None:
    """End a connection at once, unless it has ended."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _request(line: bytes, stream: BinaryIO) -> Request:
    method, target, _ = line.decode().split(" ")
    headers = {}
    while header := stream.readline().decode().strip():
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    return Request(method, target, headers, stream)


def answer(status: int, content: object, **headers: str) -> Act:
    """Answer with JSON, or with the bytes given."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]

    def act(request: Request, out: socket.socket) -> None:
        request.read_body()
        out.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    return act


def cut_off(request: Request, out: socket.socket) -> None:
    """Take the request and end the connection."""
    request.read_body()
    raise HangupError


def cut_off_after(head: bytes) -> Act:
    """Send part of an answer and end the connection."""

    def act(request: Request, out: socket.socket) -> None:
        request.read_body()
        out.sendall(head)
        raise HangupError

    return act


@contextmanager
def serving() -> Iterator[Callable[..., ScriptedServer]]:
    """Yield what starts a server over a script; all of them are stopped in the end."""
    servers: list[ScriptedServer] = []

    def start(*script: Act) -> ScriptedServer:
        server = ScriptedServer(list(script))
        servers.append(server)
        threading.Thread(target=server.run, daemon=True).start()
        return server

    try:
        yield start
    finally:
        for server in servers:
            server.stop()
