"""The access token that Orkes Conductor wants with every call; open Conductor has none.

Kept apart from the transport because it is the one piece of state a call leaves behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from perago_worker.ports import Clock

TOKEN_LIFETIME_S = 45 * 60.0
"""How long a token is used before a new one is asked for. Source: conductor-python 2.0.0."""

NO_TOKEN_LIFETIME_S = 60.0
"""How long a server that issues no tokens is believed.

Not for ever: during a roll-out a gateway answers 404 for a moment, and keys are configured for a
server that wants them.
"""


class TokenSource:
    """Hands out the current token, and a new one when it is old or was refused.

    Args:
        fetch: Asks the server; returns None when it issues no tokens.
    """

    def __init__(self, fetch: Callable[[], str | None], *, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._token: str | None = None
        self._good_until = float("-inf")

    def current(self) -> str | None:
        """Return the token to send, asking for one first when there is none or it is old."""
        # The lock is held while the server is asked, so that of many threads that find the token
        # old one asks and the others use the answer.
        with self._lock:
            if self._clock.now() >= self._good_until:
                self._ask()
            return self._token

    def replace(self, refused: str | None) -> str | None:
        """Return another token than `refused`, which the server would not take."""
        with self._lock:
            if self._token == refused:
                self._ask()
            return self._token

    def _ask(self) -> None:
        self._token = self._fetch()
        lifetime = NO_TOKEN_LIFETIME_S if self._token is None else TOKEN_LIFETIME_S
        self._good_until = self._clock.now() + lifetime
