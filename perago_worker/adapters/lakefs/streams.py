"""Bytes of objects in and out of HTTP bodies: streamed, counted, their errors told apart."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPResponse
from typing import BinaryIO

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from perago_worker.errors import StoreUnavailable

CHUNK_BYTES = 1024 * 1024

PARTIAL = 206
RANGE_BEYOND_END = 416
"""Status for a range that begins where the object has ended, any range of an empty one included."""


class SourceError(Exception):
    """Carries what a file raised past urllib3, which takes an OSError for a broken connection."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        super().__init__(str(error))


def exactly(source: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield `size` bytes of `source`.

    An iterator, since urllib3 reads files 16 KiB at a time, and sends what is beyond `size` too.

    Raises:
        SourceError: `source` raised something.
        StoreUnavailable: `source` ended early.
    """
    left = size
    while left:
        try:
            chunk = source.read(min(left, CHUNK_BYTES))
        except (OSError, ValueError) as error:
            raise SourceError(error) from error
        if not chunk:
            raise StoreUnavailable(f"the file ended {left} bytes before its expected {size}")
        left -= len(chunk)
        yield chunk


def range_header(start: int, size: int | None) -> dict[str, str]:
    """Return the header that asks for a range; none for a whole object."""
    if not start and size is None:
        return {}
    last = "" if size is None else start + size - 1
    return {"Range": f"bytes={start}-{last}"}


def require_range(response: BaseHTTPResponse | HTTPResponse, start: int, size: int | None) -> None:
    """Fail when the answer is not the range that was asked for, as proxies may make it.

    Raises:
        HTTPError: It is not.
    """
    if not start and size is None:
        return
    if response.status == PARTIAL and response.headers.get("Content-Range", "").startswith(
        f"bytes {start}-"
    ):
        return
    raise HTTPError("the answer is not the range of the object that was asked for")
