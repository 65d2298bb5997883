"""The child process: loads one task, then runs its body for every call that comes.

Started by exec, with a scrubbed environment and no descriptors but its channel and a socket for
orders, in a session of its own. It holds no credentials. The main thread runs bodies, so that
authors' signal handlers and libraries that insist on the main thread work; a second thread waits
for an order to stop.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from perago_worker.attempt.body.call import call_body
from perago_worker.attempt.body.process_tree import descendants, has_children, kill_all
from perago_worker.attempt.body.protocol import (
    Call,
    Log,
    Progress,
    Raised,
    Ready,
    Returned,
)
from perago_worker.current import CurrentAttempt, bind_attempt
from perago_worker.errors import TaskDefinitionError
from perago_worker.task import TaskDefinition, load_module_tasks

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
"""Source: linux/prctl.h."""

NO_CORE = (1, 1)
"""Less than a page, so that no file is written; and the one limit that the kernel respects when a
program takes the cores, which are piped to it with any other limit, 0 included. What a body starts
inherits it, while being not dumpable ends with exec. Source: fs/coredump.c of Linux, core(5)."""

OOM_SCORE = "500"
"""Makes the kernel end the body, not the worker, when memory runs out."""


class Channel:
    """Sends messages to the parent, from any thread of the body."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, message: Ready | Progress | Log | Returned | Raised) -> None:
        """Write one line."""
        with self._lock:
            self._stream.write(message.line())
            self._stream.flush()

    def progress(self, done: float, total: float | None, note: str) -> None:
        """Tell the parent how far the body is."""
        self.send(Progress(done=done, total=total, note=note))

    def log(self, text: str) -> None:
        """Give the parent a line for the task's log."""
        self.send(Log(text=text))


class Orders:
    """Waits for the one order there is: to let the body know that its result is not wanted.

    It comes by a socket of its own, so that this thread sleeps while calls come and go. A child
    that was given the order gets no other call.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.cancelled = threading.Event()

    def start(self) -> None:
        """Begin to wait, in a thread that ends with the process."""
        threading.Thread(target=self._wait, name="orders", daemon=True).start()

    def _wait(self) -> None:
        while os.read(self._descriptor, 1):
            self.cancelled.set()
        end_everything()


def end_everything() -> None:
    """End this process and all it started: the parent is gone, or wants it gone."""
    kill_all(descendants(os.getpid()), signal.SIGKILL)
    os._exit(0)


def confine(*, memory_limit: int) -> None:
    """Die with the parent, gain no privileges, leave no core, keep to the memory limit."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Processes that a body leaves behind come to us instead of init, where we can find them.
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if memory_limit:
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit, memory_limit))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    with suppress(ValueError):  # none may be left already, which is less than we ask for
        resource.setrlimit(resource.RLIMIT_CORE, NO_CORE)
    # Last: from here on only a privileged user writes to what /proc has of this process.
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def run_call(call: Call, definition: TaskDefinition, channel: Channel, orders: Orders) -> None:
    """Run the body once, in its scratch directory, and answer."""
    os.chdir(call.scratch)
    tempfile.tempdir = os.environ["TMPDIR"] = call.scratch
    attempt = CurrentAttempt(
        workflow_id=call.workflow_id,
        task_id=call.task_id,
        task_type=definition.name,
        retry_count=call.retry_count,
        deadline=None if call.remaining_s is None else time.monotonic() + call.remaining_s,
        cancelled=orders.cancelled,
        reporter=channel,
    )
    workspace = None if call.workspace is None else Path(call.workspace)
    process_id = os.getpid()
    threads_before = set(threading.enumerate())
    with bind_attempt(attempt, process_wide=True):
        reply = call_body(definition, call.params, workspace)
    if os.getpid() != process_id:
        os._exit(0)  # the body forked, and this is the fork coming back from it
    _end_strays()
    os.chdir("/")
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the body may have closed or replaced it
            stream.flush()
    if isinstance(reply, Returned):
        threads_left = len(set(threading.enumerate()) - threads_before)
        reply = reply.model_copy(update={"threads_left": threads_left})
    channel.send(reply)


def _end_strays() -> None:
    """End what the body left behind, and wait until it is gone: nothing may write any more."""
    # First the question that costs next to nothing, since there are hardly ever any.
    while has_children() and (strays := descendants(os.getpid())):
        kill_all(strays, signal.SIGKILL)
        with suppress(ChildProcessError):  # the author's code may ignore SIGCHLD
            os.waitpid(-1, 0)


def main(arguments: list[str]) -> None:
    """Serve calls until the parent closes the channel.

    Args:
        arguments: Descriptors of the channel and of the socket for orders, module, task name,
            memory limit in bytes (0: none).
    """
    descriptor, orders_descriptor, module, task_name, memory_limit = arguments
    confine(memory_limit=int(memory_limit))
    channel_socket = socket.socket(fileno=int(descriptor))
    channel = Channel(channel_socket.makefile("wb"))
    try:
        definition = next(d for d in load_module_tasks(module) if d.name == task_name)
    except TaskDefinitionError as error:
        channel.send(Raised(kind="broken", reason=str(error)))
        return
    orders = Orders(int(orders_descriptor))
    orders.start()
    channel.send(Ready())
    for line in channel_socket.makefile("rb"):
        run_call(Call.model_validate_json(line), definition, channel, orders)
    end_everything()


if __name__ == "__main__":
    main(sys.argv[1:])
