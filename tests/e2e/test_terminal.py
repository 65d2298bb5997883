"""What a person at a terminal sees of transfers, on a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress

import pytest

from tests.e2e.worker import REPOSITORY_ROOT

SCRIPT = """
import os, sys
import structlog
from perago_worker.events import TransferProgress, Transferred
from perago_worker.models import Lease
from perago_worker.telemetry.logs import EventLog, configure_logging, wants_bars
from perago_worker.telemetry.progress import ProgressBars

log_format = sys.argv[1]
shown = wants_bars(sys.stdout, log_format=log_format, level="info", environ=os.environ)
bars = ProgressBars(sys.stdout) if shown else None
configure_logging(log_format, "info", stream=bars.stream if bars else None)
lease = Lease(
    task_type="features.build", workflow_id="w", task_id="0123456789", reference_name="r",
    retry_count=0, poll_count=1, worker_id="worker", start_time_ms=0, scheduled_time_ms=0,
    response_timeout_s=60, input={}, granted_at=0,
)
listeners = [EventLog(), *([bars] if bars else [])]
for step in range(3):
    for listener in listeners:
        listener.on_event(
            TransferProgress(
                lease, "download", objects=step, bytes=step * 10_000_000, seconds=step,
                of_objects=3, of_bytes=30_000_000,
            )
        )
    structlog.stdlib.get_logger("body").info(f"line-{step}", text="x" * 200)
for listener in listeners:
    listener.on_event(Transferred(lease, "download", 3, 30_000_000, 3.0, skipped_bytes=5))
if bars:
    bars.close()
"""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def seen(log_format: str, environ: Mapping[str, str]) -> str:
    """Run the script on a terminal and return every byte that reached it, as text."""
    ours, theirs = pty.openpty()
    inherited = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "TERM"}}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, log_format],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        cwd=REPOSITORY_ROOT,
        env={**inherited, "COLUMNS": "110", **environ},
    ) as process:
        os.close(theirs)
        received = b""
        with suppress(OSError):  # how Linux says that nobody is left at the other end
            while data := os.read(ours, 65536):
                received += data
        os.close(ours)
        assert process.wait() == 0, received.decode()
    return received.decode()


def test_bars_show_below_lines_that_stay_whole() -> None:
    text = ESCAPES.sub("", seen("auto", {"TERM": "xterm-256color"}))
    lines = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")]
    assert "20.0 MB of 30.0 MB" in text
    assert "2 of 3 objects" in text
    for step in range(3):
        assert any(f"line-{step}" in line and line.endswith("x" * 200) for line in lines)
    assert "bytes_per_second=10000000" in lines[-2]
    assert lines[-1].strip() == ""


@pytest.mark.parametrize(
    ("log_format", "environ"),
    [
        ("auto", {"TERM": "xterm-256color", "NO_COLOR": "1"}),
        ("json", {"TERM": "xterm-256color"}),
        ("auto", {"TERM": "dumb"}),
    ],
)
def test_those_who_want_plain_lines_get_them_alone(
    log_format: str, environ: Mapping[str, str]
) -> None:
    text = seen(log_format, environ)
    assert "MB" not in text
    assert len(text.splitlines()) == 4
    for part in ("30000000", "skipped_bytes", "bytes_per_second", "objects"):
        assert part in text
