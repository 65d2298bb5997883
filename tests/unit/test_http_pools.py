"""What a request is sent as. Exchanges over real sockets are in the tests of both transports."""

from __future__ import annotations

import pytest

from perago_worker.adapters.http_pools import Message, head_of, host_field, quoted


@pytest.mark.parametrize(
    ("target", "value"), [("/a b", ""), ("/a\r\nb", ""), ("/a", "x\r\ny"), ("/a", "x\ny")]
)
def test_what_would_be_more_than_one_request_is_none(target: str, value: str) -> None:
    with pytest.raises(ValueError, match="line end"):
        head_of(Message("GET", target, None, {"X-Authorization": value}))


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://example.com/api", "example.com"),
        ("http://example.com:80/api", "example.com"),
        ("https://example.com:443", "example.com"),
        ("https://example.com:80", "example.com:80"),
        ("http://example.com.:8080", "example.com:8080"),
        ("http://[fe80::1%25eth0]:80", "[fe80::1]"),
        ("http://[::1]:8080/api", "[::1]:8080"),
    ],
)
def test_the_host_is_named_as_clients_do(url: str, host: str) -> None:
    assert host_field(url) == host


@pytest.mark.parametrize(
    ("target", "sent"),
    [("/läke/a?path=%C3%A4%2Fb", "/l%C3%A4ke/a?path=%C3%A4%2Fb"), ("/a b", "/a%20b")],
)
def test_what_is_quoted_already_stays_as_it_is(target: str, sent: str) -> None:
    assert quoted(target) == quoted(quoted(target)) == sent


def test_a_message_shows_neither_its_headers_nor_its_body() -> None:
    message = Message("POST", "/a", b"private", {"Authorization": "private"})
    assert "private" not in repr(message)
