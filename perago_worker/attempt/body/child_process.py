"""The worker's side of one child process that runs bodies.

One thread, the slot's, owns the child and does all its input and output, so that there is one place
that knows whether the child lives, what it said last, and when it has to end.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

from pydantic import ValidationError

from perago_worker.attempt.body.process_tree import descendants, has_ended, kill_all, kill_tree
from perago_worker.attempt.body.protocol import (
    MAX_MESSAGE_BYTES,
    Call,
    FromChild,
    Log,
    Progress,
    Raised,
    Ready,
    Returned,
)
from perago_worker.attempt.body.runner import (
    Died,
    OnOutput,
    OutputStream,
    Reply,
    Stopped,
    body_timeout_detail,
    progress_line,
)
from perago_worker.attempt.stop import StopCause, StopToken

READ_BYTES = 1 << 16
MAX_OUTPUT_LINE_BYTES = 1 << 16
START_TIMEOUT_S = 120.0
"""How long loading the author's module may take in the child."""

CANCEL = b"c"
"""The order to let the body see that its result is not wanted."""

EXIT_GRACE_S = 1.0
"""How long a child that closed its channel may take to exit by itself."""


@dataclass(frozen=True)
class ChildSpec:
    """How to start a child.

    Attributes:
        environment: All of the child's environment: nothing else of the worker's reaches it.
        memory_limit: Bytes of address space; 0 is no limit.
        cancel_grace_s: From `cancelled` to SIGTERM.
        kill_grace_s: From SIGTERM to SIGKILL.
        max_calls: The child is replaced after this many.
    """

    module: str
    task_name: str
    environment: Mapping[str, str]
    memory_limit: int = 0
    cancel_grace_s: float = 1.0
    kill_grace_s: float = 5.0
    max_calls: int = 1000


class _LineBuffer:
    """Cuts a stream of bytes into lines, none longer than `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add bytes; return the lines that are complete."""
        self._pending += data
        if b"\n" not in data and len(self._pending) <= self._limit:
            return []
        *lines, rest = bytes(self._pending).split(b"\n")
        self._pending = bytearray(rest)
        if len(self._pending) > self._limit:
            lines.append(bytes(self._pending))
            self._pending.clear()
        return lines

    def rest(self) -> list[bytes]:
        """Return what came after the last line end."""
        rest, self._pending = bytes(self._pending), bytearray()
        return [rest] if rest else []


class ChildProcess:
    """One child, from exec to its end."""

    def __init__(self, spec: ChildSpec) -> None:
        self._spec = spec
        self._channel, theirs = socket.socketpair()
        # Apart from the calls, so that whoever waits for an order sleeps while they come and go.
        self._orders, orders = socket.socketpair()
        with theirs, orders:
            self._process = subprocess.Popen(  # noqa: S603 -- our own interpreter and module
                [
                    *(sys.executable, "-P", "-m", "perago_worker.attempt.body.child"),
                    *(str(theirs.fileno()), str(orders.fileno())),
                    *(spec.module, spec.task_name, str(spec.memory_limit)),
                ],
                env=dict(spec.environment),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(), orders.fileno()),
                start_new_session=True,
            )
        self._wake_lock = threading.Lock()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._awake = False
        self._messages = _LineBuffer(MAX_MESSAGE_BYTES)
        self._outputs = {"stdout": _LineBuffer(MAX_OUTPUT_LINE_BYTES)}
        self._outputs["stderr"] = _LineBuffer(MAX_OUTPUT_LINE_BYTES)
        self._selector = selectors.DefaultSelector()
        self._register()
        self._ready = False
        self._peak_bytes = 0
        self.calls = 0

    def _register(self) -> None:
        self._channel.setblocking(True)
        self._selector.register(self._channel, selectors.EVENT_READ, "channel")
        self._selector.register(self._wake_fd, selectors.EVENT_READ, "wake")
        for name, pipe in self._pipes():
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ, name)

    def _pipes(self) -> list[tuple[str, IO[bytes]]]:
        process = self._process
        assert process.stdout is not None and process.stderr is not None  # noqa: S101, PT018
        return [("stdout", process.stdout), ("stderr", process.stderr)]

    @property
    def pid(self) -> int:
        """Process id, and id of its process group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child can take a call."""
        return not self._wait(0)

    def wait_ready(self, *, stop: StopToken, on_output: OnOutput) -> Reply | None:
        """Wait until the task is loaded; return None when it is, else what came instead."""
        if self._ready:
            return None
        reply = self._converse(stop, START_TIMEOUT_S, on_output)
        self._ready = reply is None
        return reply

    def call(self, call: Call, *, stop: StopToken, on_output: OnOutput) -> Reply:
        """Run the body once and return how it ended."""
        self.calls += 1
        try:
            self._channel.sendall(call.line())
        except OSError:
            return self._died()
        reply = self._converse(stop, call.remaining_s, on_output)
        if reply is None:
            self.end()
            return Died("the child process answered out of turn")
        return reply

    def _converse(
        self, stop: StopToken, allowed_s: float | None, on_output: OnOutput
    ) -> Reply | None:
        """Read what the child says until it is ready (None), has answered, or has ended."""
        deadline = None if allowed_s is None else time.monotonic() + allowed_s
        self._sleep_again()  # after an order to an earlier call, which came with its end
        with stop.notifying(self._wake):
            while stop.stop is None:
                timeout = None if deadline is None else deadline - time.monotonic()
                if timeout is not None and timeout <= 0:
                    stop.trip(StopCause.BODY_TIMEOUT, body_timeout_detail(allowed_s))
                    break
                for key, _ in self._selector.select(timeout):
                    if key.data == "channel":
                        done, reply = self._read_channel(on_output)
                        if done:
                            self._read_outputs(on_output)
                            return reply
                    elif key.data == "wake":
                        self._sleep_again()
                    else:
                        self._read_output(key.data, on_output)
        self._cancel(on_output)
        self.end()
        self._read_outputs(on_output)
        return Stopped()

    def _wake(self) -> None:
        # Called by whoever gives the order to stop, maybe when this child is closed already and the
        # number of its descriptor stands for another file.
        with self._wake_lock:
            if self._wake_fd >= 0:
                self._awake = True
                os.eventfd_write(self._wake_fd, 1)

    def _sleep_again(self) -> None:
        if not self._awake:
            return
        with self._wake_lock:
            os.eventfd_read(self._wake_fd)
            self._awake = False

    def _read_channel(self, on_output: OnOutput) -> tuple[bool, Reply | None]:
        try:
            data = self._channel.recv(READ_BYTES)
        except OSError:
            data = b""
        if not data:
            return True, self._died()
        for line in self._messages.feed(data):
            try:
                message = FromChild.validate_json(line)
            except ValidationError:
                self.end()
                return True, Died("the child process sent something that is no message")
            match message:
                case Ready():
                    return True, None
                case Progress(done=done, total=total, note=note):
                    on_output("progress", progress_line(done, total, note))
                case Log(text=text):
                    on_output("log", text)
                case Returned() | Raised():
                    return True, message
        return False, None

    def _read_outputs(self, on_output: OnOutput) -> None:
        """Read what is left in the pipes, up to the last line without an end.

        No more than a pipe holds: a thread that the body has left may write for ever.
        """
        # One question for both, since there is hardly ever anything.
        readable = {key.data for key, _ in self._selector.select(0)}
        for name, pipe in self._pipes():
            left = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) if name in readable else 0
            while left > 0 and (count := self._read_output(name, on_output)):
                left -= count
            for line in self._outputs[name].rest():
                _emit(name, line, on_output)

    def _read_output(self, name: str, on_output: OnOutput) -> int:
        """Read a piece of what is in a pipe; return how many bytes, 0 where there is nothing."""
        pipe = dict(self._pipes())[name]
        try:
            data = os.read(pipe.fileno(), READ_BYTES)
        except OSError:  # nothing to read now
            return 0
        if not data:
            with suppress(KeyError):
                self._selector.unregister(pipe)
            return 0
        for line in self._outputs[name].feed(data):
            _emit(name, line, on_output)
        return len(data)

    def _cancel(self, on_output: OnOutput) -> None:
        """Let the body see that its result is not wanted, and return if it does so soon."""
        give_up_at = time.monotonic() + self._spec.cancel_grace_s
        with suppress(OSError):
            self._orders.send(CANCEL)
        while (left := give_up_at - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                if key.data == "channel":
                    if self._read_channel(on_output)[0]:
                        return
                elif key.data == "wake":
                    self._sleep_again()
                else:
                    self._read_output(key.data, on_output)

    def _died(self) -> Died:
        """Wait for the child's end, or bring it about, and say how it ended."""
        if not self._wait(EXIT_GRACE_S):
            self.end()
            return Died("the body closed the child process's channel to the worker; it was ended")
        return Died(self._how_it_ended())

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        peak = f"peak memory {self._peak_bytes / 2**20:.0f} MiB"
        if code is None or code >= 0:
            return (
                f"the child process ended with exit code {code} before the body returned ({peak})"
            )
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = {
            "SIGKILL": "; usually the kernel ending it for want of memory",
            "SIGSEGV": "; usually a fault in native code",
            "SIGABRT": "; usually native code giving up on a failed check",
        }.get(name, "")
        return f"the child process was killed by {name} ({peak}){hint}"

    def end(self) -> None:
        """End the child and everything it started: SIGTERM, then SIGKILL. Idempotent."""
        if self._process.returncode is None:
            strays = descendants(self.pid)
            kill_tree(self.pid, signal.SIGTERM)
            if not self._wait(self._spec.kill_grace_s):
                strays = descendants(self.pid)
                kill_tree(self.pid, signal.SIGKILL)
                self._wait(None)
            kill_all(strays, signal.SIGKILL)

    def _wait(self, timeout_s: float | None) -> bool:
        """Wait for the child to end and keep its exit code and peak memory."""
        if self._process.returncode is not None:
            return True
        if timeout_s == 0 and not has_ended(self.pid):
            return False  # the usual question, twice for each call
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        with _pidfd(self.pid) as poller:
            left = None if give_up_at is None else give_up_at - time.monotonic()
            if not poller.select(left):
                return False
        # Its group outlives a child that died by itself. Before the child is waited for: afterwards
        # the number may stand for somebody else's processes.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._peak_bytes = usage.ru_maxrss * 1024
        return True

    def close(self) -> None:
        """End the child and release what the worker holds of it. Idempotent."""
        self.end()
        self._selector.close()
        self._channel.close()
        self._orders.close()
        for _, pipe in self._pipes():
            pipe.close()
        with self._wake_lock:
            if self._wake_fd >= 0:
                os.close(self._wake_fd)
                self._wake_fd = -1


@contextmanager
def _pidfd(pid: int) -> Iterator[selectors.BaseSelector]:
    """Offer a selector that is readable once the process has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            yield selector
    finally:
        os.close(descriptor)


def _emit(name: str, line: bytes, on_output: OnOutput) -> None:
    stream: OutputStream = "stdout" if name == "stdout" else "stderr"
    on_output(stream, line.decode(errors="backslashreplace"))
