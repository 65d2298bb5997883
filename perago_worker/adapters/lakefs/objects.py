"""Reading objects, over connections that nothing else uses.

What the SDK's pool does for each request takes a good part of the time for a small object
(docs/decisions/0022).
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from http.client import IncompleteRead

from urllib3 import PoolManager

from perago_worker.adapters.http_heads import QuickResponse
from perago_worker.adapters.http_pools import Message, host_field, pool_of, quoted
from perago_worker.adapters.lakefs.answers import refusal
from perago_worker.adapters.lakefs.measured import told
from perago_worker.adapters.lakefs.settings import LakeFSSettings
from perago_worker.adapters.lakefs.streams import CHUNK_BYTES, RANGE_BEYOND_END
from perago_worker.events import Listener


class ObjectReader:
    """Connections to one lakeFS server. Safe from any thread."""

    def __init__(
        self, settings: LakeFSSettings, *, trust: ssl.SSLContext, listener: Listener | None
    ) -> None:
        self._connect_s = settings.connect_timeout_s
        self._answer_s = settings.request_timeout_s
        self._listener = listener
        manager = PoolManager(maxsize=settings.connections, ssl_context=trust)
        self._pool = pool_of(manager, settings.base_url)
        # Bytes as they are stored, and not what a proxy makes of them.
        self._headers = {"Host": host_field(settings.base_url), "Accept-Encoding": "identity"}

    def answer(self, target: str, headers: Mapping[str, str], end: ExitStack) -> QuickResponse:
        """Ask for an object, or a range of one, and return the answer.

        Its status is a success, or `RANGE_BEYOND_END` where a range was asked for.

        Args:
            target: Path and query; of what has to be quoted, only the address's own path is not.
            end: Gives the connection back; for others only if the answer was read to its end.

        Raises:
            ApiException: The server refused; other failures are those of `Pool.exchange`.
        """
        message = Message("GET", quoted(target), None, {**self._headers, **headers})
        exchange = self._pool.exchange(message, connect_s=self._connect_s, answer_s=self._answer_s)
        with ExitStack() as own:
            response = told(
                lambda: own.enter_context(exchange),
                service="lakefs",
                operation="read",
                method="GET",
                listener=self._listener,
            )
            beyond_end = "Range" in headers and response.status == RANGE_BEYOND_END
            if beyond_end or 200 <= response.status < 300:
                end.enter_context(own.pop_all())
                return response
            said = response.read()
        # Only here, so that the connection is kept: who is refused will soon ask again.
        raise refusal(response.status, response.reason, said)

    def close(self) -> None:
        """Close idle connections now and busy ones when their calls end."""
        self._pool.close()


def next_piece(response: QuickResponse) -> bytes:
    """Return what comes next of an object, nothing at its end.

    Raises:
        IncompleteRead: The connection ended before the object did; others as `Pool.exchange`.
    """
    piece = response.read(CHUNK_BYTES)
    if not piece and not response.ended:
        raise IncompleteRead(b"", response.length)
    return piece
