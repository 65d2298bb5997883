"""Tasks whose bodies do, on request, each thing a body can do well or badly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from perago_worker import (
    RetryPolicy,
    TaskControls,
    TaskFailed,
    TaskTerminalError,
    TimeoutPolicy,
    WorkspaceSpec,
    current_attempt,
    forbid_glob,
    require_file,
    task,
)

FAST = TaskControls(
    retry=RetryPolicy(count=1, delay_seconds=0),
    timeout=TimeoutPolicy(response_seconds=30, policy="RETRY"),
)
SHORT_LEASE = TaskControls(
    retry=RetryPolicy(count=0, delay_seconds=0),
    timeout=TimeoutPolicy(response_seconds=3, policy="RETRY"),
)

Deed = Literal[
    "write",
    "write_from",
    "copy",
    "nothing",
    "rewrite",
    "delete",
    "fail",
    "terminal",
    "raise",
    "wrong_result",
    "die",
    "exit",
    "loop",
    "wait",
    "symlink",
    "fifo",
    "hardlink",
    "stray",
    "thread",
    "obey",
    "forbidden",
    "print",
    "environment",
    "huge",
]


class Order(BaseModel):
    """What the body is to do.

    Attributes:
        path: File that `write`, `copy` and `delete` are about.
        text: What `write` writes.
        signal_file: A file outside of the workspace; made when the body has begun. `wait` and
            `loop` go on until it is gone.
    """

    do: Deed = "write"
    path: str = "out.txt"
    text: str = "written"
    signal_file: str = ""
    seconds: float = 60.0


class Answer(BaseModel):
    """What the body did."""

    did: str
    detail: dict[str, Any] = {}


@task(
    name="probe.files",
    owner_email="tests@example.com",
    workspace=WorkspaceSpec(
        prefix="data", pre=[require_file("in.txt")], post=[forbid_glob("*.forbidden")]
    ),
    controls=FAST,
)
def files(workspace: Path, params: Order) -> Answer:
    """Do something with a workspace."""
    return _do(params, workspace)


@task(
    name="probe.look",
    owner_email="tests@example.com",
    workspace=WorkspaceSpec(prefix="data", read_only=True),
    controls=FAST,
)
def look(workspace: Path, params: Order) -> Answer:
    """Read a workspace."""
    names = sorted(str(p.relative_to(workspace)) for p in workspace.rglob("*") if p.is_file())
    return Answer(did="look", detail={"names": names})


@task(name="probe.plain", owner_email="tests@example.com", controls=FAST)
def plain(params: Order) -> Answer:
    """Do something without a workspace."""
    return _do(params, Path.cwd())


@task(
    name="probe.short_lease",
    owner_email="tests@example.com",
    workspace=WorkspaceSpec(prefix="data"),
    controls=SHORT_LEASE,
)
def short_lease(workspace: Path, params: Order) -> Answer:
    """Do something under a lease of three seconds."""
    return _do(params, workspace)


def _do(order: Order, folder: Path) -> Answer:
    if order.signal_file and order.do != "write_from":
        Path(order.signal_file).write_text(str(os.getpid()))
    detail = _DEEDS[order.do](order, folder) or {}
    if order.do == "wrong_result":
        return detail  # type: ignore[return-value]
    return Answer(did=order.do, detail=detail)


def _write(order: Order, folder: Path) -> None:
    target = folder / order.path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(order.text)


def _write_from(order: Order, folder: Path) -> None:
    """Write what the signal file holds."""
    (folder / order.path).write_text(Path(order.signal_file).read_text())


def _copy(order: Order, folder: Path) -> None:
    """Write what the input holds: whoever reads it knows what the body has found."""
    (folder / order.path).write_bytes((folder / "in.txt").read_bytes())


def _rewrite(order: Order, folder: Path) -> None:
    target = folder / "in.txt"
    target.write_bytes(target.read_bytes())


def _fail(order: Order, folder: Path) -> None:
    raise TaskFailed("the upstream service is away")


def _terminal(order: Order, folder: Path) -> None:
    raise TaskTerminalError("this input can never work")


def _raise(order: Order, folder: Path) -> None:
    (folder / "there is no such file").read_text()


def _die(order: Order, folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit(order: Order, folder: Path) -> None:
    current_attempt().log("about to exit")
    os._exit(3)


def _wait(order: Order, folder: Path) -> None:
    deadline = time.monotonic() + order.seconds
    while Path(order.signal_file).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    _write(order, folder)


def _loop(order: Order, folder: Path) -> None:
    """Hold the interpreter, deaf to everything, until the signal file is gone."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.setswitchinterval(10)
    deadline = time.monotonic() + order.seconds
    while time.monotonic() < deadline:
        for _ in range(1_000_000):
            pass
        if not Path(order.signal_file).exists():
            break
    _write(order, folder)


def _hardlink(order: Order, folder: Path) -> None:
    outside = Path("outside")  # in the scratch directory
    outside.write_text("outside")
    (folder / "hard").hardlink_to(outside)


def _stray(order: Order, folder: Path) -> dict[str, Any]:
    """Leave two processes behind, one of them in a session of its own."""
    ours = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    away = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    return {"pids": [ours.pid, away.pid]}


def _thread(order: Order, folder: Path) -> None:
    """Leave a thread behind that goes on for a long time."""
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


def _obey(order: Order, folder: Path) -> None:
    """Wait until the attempt is cancelled, and remove the signal file to show that it was seen."""
    if current_attempt().cancelled.wait(order.seconds):
        Path(order.signal_file).unlink()


def _print(order: Order, folder: Path) -> None:
    print("to standard output")
    print("to standard error", file=sys.stderr)
    current_attempt().log("to the task log")
    current_attempt().progress(1, 2, "half")


def _environment(order: Order, folder: Path) -> dict[str, Any]:
    return {"environment": dict(os.environ), "cwd": str(Path.cwd()), "fds": _open_files()}


def _open_files() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append(f"{entry.name} {entry.readlink()}")
        except OSError:
            continue
    return found


_DEEDS: dict[str, Any] = {
    "write": _write,
    "write_from": _write_from,
    "copy": _copy,
    "nothing": lambda order, folder: None,
    "rewrite": _rewrite,
    "delete": lambda order, folder: (folder / order.path).unlink(),
    "fail": _fail,
    "terminal": _terminal,
    "raise": _raise,
    "wrong_result": lambda order, folder: {"not": "an answer"},
    "die": _die,
    "exit": _exit,
    "loop": _loop,
    "wait": _wait,
    "symlink": lambda order, folder: (folder / "link").symlink_to("/etc/passwd"),
    "fifo": lambda order, folder: os.mkfifo(folder / "pipe"),
    "hardlink": _hardlink,
    "stray": _stray,
    "thread": _thread,
    "obey": _obey,
    "forbidden": lambda order, folder: (folder / "x.forbidden").touch(),
    "print": _print,
    "environment": _environment,
    "huge": lambda order, folder: {"text": "x" * (12 * 1024 * 1024)},
}
