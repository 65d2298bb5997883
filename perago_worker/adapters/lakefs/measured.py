"""Tells of every request: at the pools that most are sent through, and by `told` of the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.client import HTTPResponse
from typing import Any, Literal, TypeVar

from urllib3 import BaseHTTPResponse, PoolManager

from perago_worker.events import Listener, RequestFinished

R = TypeVar("R", bound=BaseHTTPResponse | HTTPResponse)


def measure(manager: PoolManager, *, base_path: str, listener: Listener) -> None:
    """Have a pool manager tell of the requests it sends; for one that has made no pool yet.

    Args:
        base_path: What the paths of all requests begin with.
    """

    def word(method: str, url: str) -> str:
        return operation(method, url.removeprefix(base_path))

    _measure(manager, "lakefs", word, listener)


def measure_storage(manager: PoolManager, *, listener: Listener) -> None:
    """The same for requests to the object store, by addresses that lakeFS has signed."""
    _measure(manager, "storage", lambda method, _: "read" if method == "GET" else "write", listener)


def _measure(
    manager: PoolManager,
    service: Literal["lakefs", "storage"],
    word: Callable[[str, str], str],
    listener: Listener,
) -> None:
    manager.pool_classes_by_scheme = {
        scheme: _measured(pool, service, word, listener)
        for scheme, pool in manager.pool_classes_by_scheme.items()
    }


def _measured(
    pool: Any,
    service: Literal["lakefs", "storage"],
    word: Callable[[str, str], str],
    listener: Listener,
) -> Any:
    class Measured(pool):  # type: ignore[misc]  # one of urllib3's own
        def urlopen(self, method: str, url: str, *args: Any, **options: Any) -> Any:
            return told(
                lambda: super(Measured, self).urlopen(method, url, *args, **options),
                service=service,
                operation=word(method, url),
                method=method,
                listener=listener,
            )

    return Measured


def told(
    send: Callable[[], R],
    *,
    service: Literal["lakefs", "storage"],
    operation: str,
    method: str,
    listener: Listener | None,
) -> R:
    """Send a request and return its answer; tell the listener, if there is one, of both."""
    if listener is None:
        return send()
    started_at = time.monotonic()
    status, date = 0, ""
    try:
        response = send()
        status, date = response.status, response.headers.get("Date", "")
    finally:
        seconds = time.monotonic() - started_at
        listener.on_event(RequestFinished(service, operation, method, "", status, seconds, date))
    return response


def operation(method: str, path: str) -> str:
    """Return the word for what a request asks for; `other` for what no port needs."""
    match (method, *path.partition("?")[0].strip("/").split("/")[2:]):
        case ("GET", "refs", _, "objects"):
            return "read"
        case ("GET", "refs", _, "objects", "ls"):
            return "list"
        case ("GET", "refs", _, "diff", _):
            return "diff"
        case ("GET", "refs", _, "commits") | ("GET", "commits", _):
            return "commits"
        case ("POST", "refs", _, "merge", _):
            return "merge"
        case ("POST", "branches", _, "objects"):
            return "write"
        case ("POST", "branches", _, "objects", "delete"):
            return "delete"
        case (_, "branches", _, "staging", "backing"):
            return "address"
        case ("POST", "branches", _, "commits"):
            return "commit"
        case (_, "branches") | (_, "branches", _):
            return "branches"
    return "other"
