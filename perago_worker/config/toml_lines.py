"""On which line of a TOML file a key stands, which the standard parser does not tell.

A statement (a header, or a key with its value) is the shortest run of lines that parses by itself:
nothing but an open string or array makes it go on over the end of a line, and neither parses. So
the standard parser finds the statements as well as what is in them, and quoted keys, dotted keys
and inline tables need no code here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

KeyPath = tuple[str, ...]


class TomlLines:
    """Line numbers of the keys and tables of a valid TOML document."""

    def __init__(self, text: str) -> None:
        self._lines = dict(_index(text))

    def find(self, path: KeyPath) -> int | None:
        """Return the line, from 1, of the key at `path`, or of the closest table around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._lines:
                return self._lines[path[:length]]
        return None


def _index(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Yield every path with its line; of a path that comes twice the last one is the nearest."""
    header: KeyPath = ()
    seen: set[KeyPath] = set()
    for number, source, content in _statements(text):
        if source.lstrip().startswith("["):
            header = _header_path(content)
            yield header, number
            paths = [header[:length] for length in range(1, len(header))]
        else:
            paths = [header + path for path in _paths(content)]
        for path in paths:
            if path not in seen:
                yield path, number
        seen.update(paths, [header])


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    lines = text.replace("\r\n", "\n").split("\n")
    start = 0
    while start < len(lines):
        end = start + 1
        while (content := _parse(lines[start:end])) is None and end < len(lines):
            end += 1
        if content:
            yield start + 1, lines[start], content
        start = end


def _parse(lines: list[str]) -> dict[str, Any] | None:
    try:
        return tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError:
        return None


def _header_path(content: Any) -> KeyPath:
    path: KeyPath = ()
    while content:
        if isinstance(content, list):
            content = content[0]
            continue
        (key, content) = next(iter(content.items()))
        path += (key,)
    return path


def _paths(content: dict[str, Any]) -> Iterator[KeyPath]:
    for key, value in content.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in _paths(value))
