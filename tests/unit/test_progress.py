"""Bars for transfers: where and what they show, and that log lines stay whole beside them."""

from __future__ import annotations

import io
import logging
import re
from typing import Literal

import pytest

from perago_worker.events import AttemptFinished, TransferProgress, Transferred
from perago_worker.models import Lease, Outcome
from perago_worker.telemetry.logs import wants_bars
from perago_worker.telemetry.progress import ProgressBars
from tests.leases import make_lease

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ERASE_LINE = "\x1b[2K"
LOOKED_AT = {"TERM": "xterm-256color"}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    def taken(self) -> str:
        """Return what was written since the last time."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


def lease(task_id: str = "0123456789") -> Lease:
    return make_lease(task_id=task_id)


def moving(
    task_id: str = "0123456789",
    direction: Literal["download", "upload"] = "download",
    *,
    known: bool = True,
) -> TransferProgress:
    whole = {"of_objects": 2000, "of_bytes": 60_000_000} if known else {}
    return TransferProgress(
        lease(task_id), direction, objects=1000, bytes=30_000_000, seconds=2.0, **whole
    )


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


@pytest.fixture
def bars(terminal: Terminal) -> ProgressBars:
    return ProgressBars(terminal)


def plain(text: str) -> str:
    return ESCAPES.sub("", text)


# --- where ----------------------------------------------------------------------------------------


def test_people_at_a_terminal_see_bars(terminal: Terminal) -> None:
    for level in ("debug", "info"):
        assert wants_bars(terminal, log_format="auto", level=level, environ=LOOKED_AT)
        assert wants_bars(terminal, log_format="console", level=level, environ=LOOKED_AT)


@pytest.mark.parametrize(
    ("log_format", "level", "environ"),
    [
        ("json", "info", LOOKED_AT),
        ("auto", "warning", LOOKED_AT),
        ("auto", "error", LOOKED_AT),
        ("auto", "info", LOOKED_AT | {"NO_COLOR": "1"}),
        ("auto", "info", {"TERM": "dumb"}),
        ("auto", "info", {}),
    ],
)
def test_whoever_wants_quiet_sees_none(
    terminal: Terminal, log_format: str, level: str, environ: dict[str, str]
) -> None:
    assert not wants_bars(terminal, log_format=log_format, level=level, environ=environ)


def test_files_and_pipes_see_none() -> None:
    assert not wants_bars(io.StringIO(), log_format="console", level="info", environ=LOOKED_AT)


# --- what -----------------------------------------------------------------------------------------


def test_a_bar_has_bytes_objects_and_rate(terminal: Terminal, bars: ProgressBars) -> None:
    bars.on_event(moving())
    shown = plain(terminal.taken())
    assert "download features.build 01234567" in shown
    assert "30.0 MB of 60.0 MB" in shown
    assert "1,000 of 2,000 objects" in shown
    assert "15.0 MB/s" in shown
    bars.close()


def test_what_is_not_known_yet_is_left_out(terminal: Terminal, bars: ProgressBars) -> None:
    bars.on_event(moving(known=False))
    shown = plain(terminal.taken())
    assert "30.0 MB 1,000 objects 15.0 MB/s" in re.sub(" +", " ", shown)
    bars.close()


def test_a_bar_goes_with_its_transfer(terminal: Terminal, bars: ProgressBars) -> None:
    bars.on_event(moving("first"))
    bars.on_event(moving("second", "upload"))
    terminal.taken()
    bars.on_event(Transferred(lease("first"), "download", 1, 1, 1.0))
    left = plain(terminal.taken())
    assert "first" not in left
    assert "second" in left
    bars.on_event(Transferred(lease("second"), "upload", 1, 1, 1.0))
    assert ERASE_LINE in terminal.taken()
    bars.stream.write("afterwards\n")
    assert terminal.taken() == "afterwards\n"


def test_a_bar_goes_with_its_attempt(terminal: Terminal, bars: ProgressBars) -> None:
    """A transfer that failed is not told to have ended."""
    bars.on_event(moving())
    outcome = Outcome(kind="failed", code="task_failed", reason="no")
    bars.on_event(AttemptFinished(lease(), outcome, 1.0, reported=True))
    terminal.taken()
    bars.stream.write("afterwards\n")
    assert terminal.taken() == "afterwards\n"


def test_bars_come_back(terminal: Terminal, bars: ProgressBars) -> None:
    for _ in range(2):
        bars.on_event(moving())
        assert "30.0 MB" in plain(terminal.taken())
        bars.close()
        terminal.taken()


def test_a_cursor_is_never_left_hidden(terminal: Terminal, bars: ProgressBars) -> None:
    bars.on_event(moving())
    assert terminal.taken().rpartition("\x1b[?25")[2].startswith("h")
    bars.close()


# --- beside log lines -----------------------------------------------------------------------------


def test_lines_go_above_the_bars_and_stay_whole(terminal: Terminal, bars: ProgressBars) -> None:
    handler = logging.StreamHandler(bars.stream)
    record = logging.LogRecord(
        "x", logging.INFO, "x", 1, "\x1b[32mlong\x1b[0m " + "x" * 300, (), None
    )
    bars.on_event(moving())
    terminal.taken()
    handler.emit(record)
    written = terminal.taken()
    above, _, below = plain(written).partition("\n")
    assert ERASE_LINE in written
    assert above.strip("\r ").endswith("long " + "x" * 300)
    assert "30.0 MB of 60.0 MB" in below
    assert "\x1b[32mlong" in written
    bars.close()


def test_without_bars_lines_are_written_as_they_are(terminal: Terminal, bars: ProgressBars) -> None:
    bars.stream.write("one\ntwo\n")
    bars.stream.flush()
    assert terminal.taken() == "one\ntwo\n"
    assert bars.stream.isatty()
