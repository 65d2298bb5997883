"""Kinds of values a configuration is made of: how each is read, and how it is described to people.

A kind carries an `Expected` phrase beside its pydantic constraints, so that whatever is wrong with
a value, the message can say what would have been right.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, ValidationInfo


@dataclass(frozen=True)
class Expected:
    """What a right value looks like; ends the sentence "expected ..."."""

    phrase: str


@dataclass(frozen=True)
class Secret:
    """Marks a key that names a file with a secret in it; messages never repeat its value."""


# --- durations and sizes --------------------------------------------------------------------------

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def parse_duration(text: str) -> float:
    """Return the seconds that `text` stands for, such as 90.0 for `1m30s` or `90`.

    Raises:
        ValueError: `text` is no duration.
    """
    compact = text.strip().replace(" ", "")
    if _NUMBER.fullmatch(compact):
        return float(compact)
    if not _DURATION.fullmatch(compact):
        raise ValueError(f"{text!r} is no duration")
    return sum(
        float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(compact)
    )


class _NotAsExpectedError(ValueError):
    """Tells the loader to answer with the kind's own phrase instead of this error's text."""


def _duration(value: object) -> object:
    if isinstance(value, bool):
        raise _NotAsExpectedError
    if not isinstance(value, str):
        return value
    try:
        return parse_duration(value)
    except ValueError as error:
        raise _NotAsExpectedError from error


Seconds = Annotated[
    float,
    BeforeValidator(_duration),
    Field(gt=0, allow_inf_nan=False),
    Expected('a duration above zero, such as "30s", "1h30m" or "500ms", or a number of seconds'),
]
SecondsOrZero = Annotated[
    float,
    BeforeValidator(_duration),
    Field(ge=0, allow_inf_nan=False),
    Expected('a duration, such as "30s", "1h30m" or "500ms", or a number of seconds'),
]


def _size(value: object) -> object:
    if isinstance(value, (bool, float)):
        raise _NotAsExpectedError
    return value


Size = Annotated[
    ByteSize,
    BeforeValidator(_size),
    Field(gt=0),
    Expected('a size above zero, such as "512MiB" or "20GB", or a number of bytes'),
]

SizeOrZero = Annotated[
    ByteSize,
    BeforeValidator(_size),
    Field(ge=0),
    Expected('a size, such as "512MiB" or "20GB", or a number of bytes'),
]


# --- text -----------------------------------------------------------------------------------------


def _pattern(pattern: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise _NotAsExpectedError
        return value

    return AfterValidator(check)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


LowerCase = BeforeValidator(_lower)

ModuleName = Annotated[str, _pattern(r"[^\W\d]\w*(\.[^\W\d]\w*)*")]
VariableName = Annotated[str, _pattern(r"[A-Za-z_][A-Za-z0-9_]*")]
Name = Annotated[
    str,
    _pattern(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"),
    Expected("up to 64 letters, digits, dots, dashes and underscores"),
]
Domain = Annotated[
    str,
    _pattern(r"[^\s:,/]+"),
    Expected("the name of a task domain, without spaces, colons, commas and slashes"),
]


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port_is_valid = parts.port != 0
    except ValueError as error:
        raise _NotAsExpectedError from error
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user name or password; take it out and name secret files instead")
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_valid:
        raise _NotAsExpectedError
    if parts.query or parts.fragment or re.search(r"\s", value):
        raise _NotAsExpectedError
    return value.rstrip("/")


Url = Annotated[
    str,
    AfterValidator(_url),
    Expected("an http:// or https:// URL with a host, such as https://example.com:8080"),
]

_LISTEN = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]]+)):(?P<port>\d{1,5})")


def parse_listen(text: str) -> tuple[str, int] | None:
    """Return host and port of `host:port` or `[v6]:port`; None for the empty string.

    Raises:
        ValueError: `text` is neither.
    """
    if not text:
        return None
    match = _LISTEN.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(f"{text!r} is no address with a port")
    return match["v6"] or match["host"], int(match["port"])


def _listen(value: str) -> str:
    try:
        parse_listen(value)
    except ValueError as error:
        raise _NotAsExpectedError from error
    return value


Listen = Annotated[
    str,
    AfterValidator(_listen),
    Expected('an address with a port, such as "127.0.0.1:9464" or "[::]:9464", or "" for none'),
]


# --- files ----------------------------------------------------------------------------------------


def _path_text(value: Any) -> Any:
    if isinstance(value, str) and (not value.strip() or "\0" in value):
        raise _NotAsExpectedError
    return value


def _absolute(value: Path, info: ValidationInfo) -> Path:
    """Take a relative path from the folder of the configuration file, and `~` from the home."""
    base = (info.context or {}).get("base", Path())
    return Path(os.path.abspath(base / value.expanduser()))  # noqa: PTH100 -- keeps symlinks


def _readable_file(path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    return path


def _secret_file(path: Path) -> Path:
    # The path stays out of the message: people do write the secret itself here.
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        message = "the file it names does not exist; relative paths start at this file's folder"
        raise ValueError(message) from None
    except UnicodeDecodeError:
        raise ValueError("the file it names is not text") from None
    except OSError as error:
        raise ValueError(f"the file it names cannot be read: {error.strerror}") from None
    if not text:
        raise ValueError("the file it names is empty")
    if len(text.splitlines()) > 1:
        raise ValueError("the file it names has more than one line; write the secret alone into it")
    return path


LocalPath = Annotated[
    Path, BeforeValidator(_path_text), AfterValidator(_absolute), Expected("a path")
]
ReadableFile = Annotated[
    Path,
    BeforeValidator(_path_text),
    AfterValidator(_absolute),
    AfterValidator(_readable_file),
    Expected("the path of a file"),
]
SecretFile = Annotated[
    Path,
    BeforeValidator(_path_text),
    AfterValidator(_absolute),
    AfterValidator(_secret_file),
    Secret(),
    Expected("the path of a file with the secret in it"),
]
