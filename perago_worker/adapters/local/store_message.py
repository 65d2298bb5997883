r"""Commit messages that carry metadata and still read well in `git log`.

    Publish wordcount

    [metadata]
    perago-workflow-id: 5f1c
    perago-result: {"words": 3}
    note: "two\nlines"

The block ends the message. A value that one line cannot show as it is, or that begins with a double
quote, is written as a JSON string; so is such a key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

_HEADING = "[metadata]"
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LINE = re.compile(r'("(?:[^"\\]|\\.)*"|[A-Za-z0-9_][A-Za-z0-9_.-]*): (.+)')


def encode(message: str, metadata: Mapping[str, str]) -> str:
    """Return the text of a git commit, from which `decode` gets back both."""
    text = f"{message}\n"
    if not metadata and decode(text) == (message, {}):
        return text
    lines = [f"{_key(key)}: {_value(value)}\n" for key, value in metadata.items()]
    return f"{text}\n{_HEADING}\n{''.join(lines)}"


def decode(text: str) -> tuple[str, dict[str, str]]:
    """Return message and metadata of a git commit; a message without the block has no metadata."""
    message, heading, block = f"\n\n{text}".rpartition(f"\n\n{_HEADING}\n")
    metadata = _read(block) if heading else None
    if metadata is None:
        return text.removesuffix("\n"), {}
    return message.removeprefix("\n\n"), metadata


def _read(block: str) -> dict[str, str] | None:
    metadata = {}
    for line in block.split("\n")[:-1]:  # not splitlines(), which knows many more line ends
        match = _LINE.fullmatch(line)
        if not match:
            return None
        metadata[_unquoted(match[1])] = _unquoted(match[2])
    return metadata


def _key(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else _quoted(key)


def _value(value: str) -> str:
    plain = value.isprintable() and value == value.strip() and value and value[0] != '"'
    return value if plain else _quoted(value)


def _quoted(value: str) -> str:
    # Escapes where plain UTF-8 cannot go: a lone surrogate has no encoding.
    readable = json.dumps(value, ensure_ascii=False)
    return readable if readable.isprintable() else json.dumps(value)


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        return str(json.loads(text))
    except ValueError:  # not of our making: take it as it is
        return text
