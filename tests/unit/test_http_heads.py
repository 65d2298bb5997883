"""Heads: read as the standard library reads them, and sent with what belongs to them."""

from __future__ import annotations

import http.client
import io
import socket
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from urllib3.connection import HTTPConnection

from perago_worker.adapters.http_heads import (
    MAX_FIELDS,
    MAX_LINE_BYTES,
    SMALL_BYTES,
    PlainConnection,
    QuickResponse,
    parse_head,
)

NAMES = st.text("abcXYZ-_1", min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30)
FIELDS = st.builds(lambda name, value: f"{name}: {value}", NAMES, VALUES)
ANYTHING = st.text(st.characters(max_codepoint=255, exclude_characters="\n"), max_size=30)


def both(head: bytes) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Read a head, and have the standard library read it; check that both stop at one place."""
    ours, theirs = io.BytesIO(head + b"\r\nbody"), io.BytesIO(head + b"\r\nbody")
    found = parse_head(ours).items(), http.client.parse_headers(theirs).items()
    assert ours.read() == theirs.read()
    return found


@given(st.lists(st.one_of(FIELDS, ANYTHING), max_size=6))
@example(["A: one", "A: two", "a:three"])
@example(["A: one", " folded"])
@example(["A : one", "B: two"])
@example(["A: one\rB: two"])
@example(["A: one\x0bB: two"])
@example(["A: \t one \t"])
@example([": one"])
@example(["no colon", "B: two"])
@example(["A: \xe9\x85"])
def test_fields_are_those_that_the_standard_library_finds(lines: list[str]) -> None:
    ours, theirs = both("".join(f"{line}\r\n" for line in lines).encode("latin-1"))
    assert ours == theirs


def test_lines_may_end_without_a_carriage_return() -> None:
    ours, theirs = both(b"A: one\nB: two\n")
    assert ours == theirs == [("A", "one"), ("B", "two")]


def test_a_line_that_is_too_long_is_refused() -> None:
    with pytest.raises(http.client.LineTooLong):
        parse_head(io.BytesIO(b"A: " + b"x" * MAX_LINE_BYTES + b"\r\n\r\n"))


def test_too_many_fields_are_refused() -> None:
    with pytest.raises(http.client.HTTPException, match="more than 100"):
        parse_head(io.BytesIO(b"A: one\r\n" * (MAX_FIELDS + 1) + b"\r\n"))


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: 2\r\n", b"ok"),
        (b"Transfer-Encoding: chunked\r\n", b"2\r\nok\r\n0\r\n\r\n"),
        (b"Connection: close\r\n", b"ok"),
    ],
)
def test_an_answer_is_read_to_its_end(head: bytes, body: bytes) -> None:
    """As `http.client` reads it, interim answers before it included."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Fine\r\n" + head + b"\r\n" + body
        )
        theirs.shutdown(socket.SHUT_WR)
        response = QuickResponse(ours)
        response.begin()
        assert (response.status, response.reason, response.read()) == (200, "Fine", b"ok")
        assert response.getheader(head.decode().partition(":")[0]) is not None


def test_the_standard_librarys_code_still_looks_its_parser_up() -> None:
    """Where a later version does not, answers are read, but no quicker."""
    assert "parse_headers" in http.client.HTTPResponse.begin.__code__.co_names


class Sent:
    """In place of a socket: keeps what is sent, piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def sendall(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def settimeout(self, seconds: float) -> None:
        """Nothing is waited for."""

    def close(self) -> None:
        """There is nothing to close."""


def sent(connection: HTTPConnection, body: Any) -> list[bytes]:
    socket_ = Sent()
    connection.sock = socket_
    connection.request("POST", "/api/tasks", body=body, headers={"A": "b"})
    connection.close()
    return socket_.pieces


@pytest.mark.parametrize(
    ("body", "pieces"),
    [
        (None, 1),
        (b"", 1),
        (b"x", 1),
        (b"x" * SMALL_BYTES, 1),
        (b"x" * (SMALL_BYTES + 1), 2),
        ("ü", 1),
        ([b"x", b"y"], 4),
    ],
)
def test_a_small_request_is_sent_in_one_piece(body: Any, pieces: int) -> None:
    connection = PlainConnection("localhost")
    for _ in range(2):  # a connection is used again
        ours = sent(connection, body)
        assert len(ours) == pieces
        assert b"".join(ours) == b"".join(sent(HTTPConnection("localhost"), body))
