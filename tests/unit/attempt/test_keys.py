"""Which object keys become files, each hostile one with its stated result."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perago_worker.attempt.keys import (
    MAX_COMPONENT_BYTES,
    MAX_KEY_BYTES,
    KeyRefused,
    key_prefix,
    object_key,
    relative_path,
    show,
)

EMPTY = "it has an empty path component"
NUL = "it holds a NUL character"
NOT_UTF8 = "it is not valid UTF-8"
TOO_LONG = f"a path component is longer than {MAX_COMPONENT_BYTES} bytes"
DOT = "it has the path component '.'"
DOTS = "it has the path component '..'"

REFUSED = {
    "../../../etc/passwd": DOTS,
    "..": DOTS,
    "../": DOTS,
    "a/../b": DOTS,
    "a/..": DOTS,
    ".": DOT,
    "./x": DOT,
    "a/./b": DOT,
    "/abs": EMPTY,
    "//x": EMPTY,
    "/": EMPTY,
    "//": EMPTY,
    "double//slash": EMPTY,
    "dir//": EMPTY,
    "nul\0byte": NUL,
    "\0": NUL,
    "replaced\ufffd": NOT_UTF8,
    "lone\udc80surrogate": NOT_UTF8,
    "high\ud800surrogate": NOT_UTF8,
    "x" * 256: TOO_LONG,
    "é" * 128: TOO_LONG,
    f"a/{'x' * 300}/b": TOO_LONG,
    f"{'x' * 256}/": TOO_LONG,
}

ACCEPTED = [
    "plain",
    "raw/input.csv",
    "...",
    "..a",
    "a..",
    ".hidden",
    "new\nline",
    "carriage\rreturn",
    "tab\t",
    "\x01",
    "\x7f",
    "\x1b[31mred",
    "back\\slash",
    "..\\..\\x",
    "C:\\x",
    "C:x",
    "a:b",
    "con",
    "nul.txt",
    "NFC \u00e9",
    "NFD e\u0301",
    "Case",
    "case",
    "trailing ",
    "trailing.",
    " leading",
    "-rf",
    "--flag",
    "~",
    "~root",
    "%2e%2e%2f",
    "a+b",
    "a?b#c&d=e",
    "*",
    "$(touch x)",
    "`x`",
    "😀",
    "right\u202eto-left",
    "separator\u2028line",
    "\ufeffbom",
    ".git/config",
    ".lakefs/x",
    "_lakefs_actions/hook.yaml",
    ".perago-0123456789abcdef",
    "x" * 255,
    "é" * 127,
    "/".join("d" * 300),
]


@pytest.mark.parametrize(("path", "why"), REFUSED.items(), ids=ascii)
def test_keys_that_cannot_be_files_are_refused_by_name(path: str, why: str) -> None:
    with pytest.raises(KeyRefused) as refused:
        relative_path(f"ws/{path}", "ws/")

    assert str(refused.value) == f"object key {show(f'ws/{path}')} cannot be a file: {why}"


@pytest.mark.parametrize("path", ACCEPTED, ids=ascii)
def test_odd_keys_that_are_fine_file_names_come_and_go_unchanged(path: str) -> None:
    assert relative_path(f"ws/{path}", "ws/") == path
    assert object_key(path, "ws/") == f"ws/{path}"


@pytest.mark.parametrize(
    ("key", "prefix", "path"),
    [("ws/raw/", "ws/", "raw/"), ("ws/", "ws/", ""), ("raw/", "", "raw/"), ("a/b/", "", "a/b/")],
)
def test_directory_markers_keep_their_slash(key: str, prefix: str, path: str) -> None:
    assert relative_path(key, prefix) == path


@pytest.mark.parametrize(
    ("prefix", "keys_begin_with"), [("/", ""), ("features", "features/"), ("a/b", "a/b/")]
)
def test_the_prefix_of_keys_is_a_whole_directory(prefix: str, keys_begin_with: str) -> None:
    """A prefix without its slash would take `features2/` for a part of `features`."""
    assert key_prefix(prefix) == keys_begin_with


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("bytes\udcff", NOT_UTF8),
        ("replaced\ufffd", NOT_UTF8),
        ("a//b", EMPTY),
        ("/".join(["x" * 250] * 5), f"its key is longer than {MAX_KEY_BYTES} bytes"),
    ],
    ids=ascii,
)
def test_files_that_could_not_be_downloaded_again_are_refused_by_name(path: str, why: str) -> None:
    with pytest.raises(KeyRefused) as refused:
        object_key(path, "ws/")

    assert str(refused.value) == f"file {show(path)} cannot be stored: {why}"


def test_the_longest_key_is_counted_in_bytes_with_its_prefix() -> None:
    path = "/".join(["é" * 100] * 5)
    room = MAX_KEY_BYTES - len(path.encode())

    assert object_key(path, "p" * (room - 1) + "/")
    with pytest.raises(KeyRefused):
        object_key(path, "p" * room + "/")


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("a b", "'a b'"),
        ("new\nline", "'new\\nline'"),
        ("\x1b[31m", "'\\x1b[31m'"),
        ("é\u202e", "'\\xe9\\u202e'"),
        ("bytes\udcff", "'bytes\\udcff'"),
        ("x" * 500, f"'{'x' * 119}…' (500 characters)"),
    ],
    ids=ascii,
)
def test_keys_are_shown_on_one_printable_line(key: str, shown: str) -> None:
    assert show(key) == shown


# Any text at all would rarely hold what matters.
hostile = st.lists(
    st.sampled_from([*"abcé/.\\:\0\n ", "..", "/../", "\ud800", "\ufffd"]), max_size=20
).map("".join)


@given(st.one_of(hostile, st.text(max_size=20)))
def test_an_accepted_path_never_leaves_its_root(path: str) -> None:
    try:
        accepted = relative_path(path, "")
    except KeyRefused:
        return
    joined = os.path.normpath(f"/the/workspace/{accepted}")

    assert joined == "/the/workspace" or joined.startswith("/the/workspace/")
    assert "\0" not in joined
    assert not set(PurePosixPath(accepted).parts) & {"..", "/"}


@given(st.one_of(hostile, st.text(max_size=20)))
def test_what_can_be_stored_can_be_downloaded_again(path: str) -> None:
    try:
        key = object_key(path, "ws/")
    except KeyRefused:
        return
    assert relative_path(key, "ws/") == path
