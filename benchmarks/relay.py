"""A relay before a server that counts requests. Nothing is timed through it."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE) (/\S*) HTTP/1\.[01]\r\n")
_LONGEST_LINE = 8192
_CHUNK_BYTES = 1 << 16


@dataclass
class Traffic:
    """What went through a relay.

    Attributes:
        requests: When each request began (wall clock), its method and its path without a query.
        bytes_up: Bytes from the client, headers included.
        bytes_down: Bytes to the client, headers included.
    """

    requests: list[tuple[float, str, str]] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0

    def count(self, part: str = "") -> int:
        """Return the number of requests with `part` in their path."""
        return sum(part in path for _, _, path in list(self.requests))

    def by_method(self) -> dict[str, int]:
        """Return the number of requests of each method."""
        return dict(Counter(method for _, method, _ in list(self.requests)))


class _Finder:
    """Finds request lines in a stream that arrives in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[str, str]]:
        text = self._rest + data
        end = 0
        for match in _REQUEST.finditer(text):
            end = match.end()
            yield match[1].decode(), match[2].decode("latin-1").partition("?")[0]
        self._rest = text[max(end, len(text) - _LONGEST_LINE) :]


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Callable[[bytes], None]
) -> None:
    try:
        with suppress(ConnectionError):
            while data := await reader.read(_CHUNK_BYTES):
                seen(data)
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()


class _Relay:
    def __init__(self, target: str) -> None:
        self.traffic = Traffic()
        parts = urlsplit(target)
        self._host, self._port = parts.hostname, parts.port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        finder = _Finder()

        def up(data: bytes) -> None:
            self.traffic.bytes_up += len(data)
            now = time.time()
            self.traffic.requests.extend((now, *found) for found in finder.feed(data))

        def down(data: bytes) -> None:
            self.traffic.bytes_down += len(data)

        await asyncio.gather(_copy(reader, back, up), _copy(there, writer, down))


@contextmanager
def relayed(target: str) -> Iterator[tuple[str, Traffic]]:
    """Yield the address of a relay to `target`, with the same path, and what goes through it."""
    relay = _Relay(target)
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(relay.serve, "127.0.0.1", 0))
    port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, name="relay", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}{urlsplit(target).path}", relay.traffic
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(_end_all())
        loop.close()


async def _end_all() -> None:
    """End what connections are still open, and let them close."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)
