"""Bodies in a warm child process: one that hogs, leaks or crashes harms only itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from perago_worker.attempt.body.child_process import ChildProcess, ChildSpec
from perago_worker.attempt.body.protocol import Call, Raised, Returned
from perago_worker.attempt.body.runner import Died, OnOutput, Reply, Stopped
from perago_worker.attempt.stop import StopToken

ALWAYS_PASSED = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "TZ", "USER")
"""Variables of the worker's environment that a body always sees; none of them is a secret."""


def child_environment(
    environ: Mapping[str, str], *, allowed: Iterable[str], python_path: Sequence[Path]
) -> dict[str, str]:
    """Return the environment of a child: what is listed, and where to find the author's modules."""
    passed = {name: environ[name] for name in (*ALWAYS_PASSED, *allowed) if name in environ}
    inherited = [Path(part).resolve() for part in _split(environ.get("PYTHONPATH", ""))]
    passed["PYTHONPATH"] = os.pathsep.join(str(path) for path in (*python_path, *inherited))
    # Bodies' lines reach the log when they are printed, not when a buffer is full.
    passed["PYTHONUNBUFFERED"] = "1"
    return passed


def _split(path: str) -> list[str]:
    return [part for part in path.split(os.pathsep) if part]


class ProcessBody:
    """`BodyRunner` that keeps one child warm, and replaces it when it died or served its time."""

    def __init__(self, spec: ChildSpec, *, on_started: Callable[[int, str], None]) -> None:
        """Prepare; the child is started by `warm_up` or the first call.

        Args:
            on_started: Told the process id of every new child, and why it was started.
        """
        self._spec = spec
        self._on_started = on_started
        self._child: ChildProcess | None = None
        self._cause = "start"

    def warm_up(self) -> None:
        """Start the child if there is none; it loads its task while the slot waits for work."""
        self._usable_child()

    def run(self, call: Call, *, stop: StopToken, on_output: OnOutput) -> Reply:
        """Run the body in the child, or in a new one when it has died while it waited."""
        child = self._usable_child()
        try:
            reply = child.wait_ready(stop=stop, on_output=on_output)
            if reply is None:
                reply = child.call(call, stop=stop, on_output=on_output)
        except BaseException:
            self._discard("ended")  # its answer would be taken for that to the next call
            raise
        if isinstance(reply, Stopped):
            self._discard("stopped")
        elif not child.alive or isinstance(reply, Died) or _is_broken(reply):
            self._discard("ended")
        elif isinstance(reply, Returned) and reply.threads_left:
            # They could go on writing to what is about to be checked and published.
            self._discard("ended")
        elif child.calls >= self._spec.max_calls:
            self._discard("recycled")
        return reply

    def _usable_child(self) -> ChildProcess:
        if self._child is not None and not self._child.alive:
            self._discard("ended")
        if self._child is None:
            self._child = ChildProcess(self._spec)
            self._on_started(self._child.pid, self._cause)
        return self._child

    def _discard(self, cause: str) -> None:
        self.close()
        self._cause = cause

    def close(self) -> None:
        """End the child and everything it started. Idempotent."""
        if self._child is not None:
            self._child.close()
            self._child = None


def _is_broken(reply: Reply) -> bool:
    return isinstance(reply, Raised) and reply.kind == "broken"
