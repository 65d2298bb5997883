"""A server process: started, waited for, stopped, killed, frozen, brought back with its data."""

from __future__ import annotations

import http.client
import os
import secrets
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from deploy.servers.tools import LOG_TAIL_LINES, ServersError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ProcessId:
    """A process, told from a later one that was given the same number.

    Attributes:
        pid: Its number.
        born: When it started, in clock ticks since boot: proc_pid_stat(5), field 22.
    """

    pid: int
    born: int

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Identify a process that is running, or that this process has not yet waited for."""
        return cls(pid=pid, born=int(_proc_stat(pid)[19]))

    def alive(self) -> bool:
        """Tell whether it still runs; a zombie does not."""
        try:
            fields = _proc_stat(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return fields[0] != "Z" and int(fields[19]) == self.born


def _proc_stat(pid: int) -> list[str]:
    # The command name, in parentheses, may hold spaces: count the fields from behind it.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


class Server:
    """One server with a port and a data directory that outlive its process.

    Not thread-safe. Every `start` after a `stop` or `kill` finds the same port and the same data.
    """

    name: ClassVar[str]
    health_path: ClassVar[str]
    start_timeout_s: ClassVar[float]
    stop_timeout_s: ClassVar[float] = 30.0

    def __init__(
        self,
        directory: Path,
        *,
        port: int = 0,
        process: ProcessId | None = None,
        listen: str = LOOPBACK,
    ) -> None:
        """Describe a server; nothing starts yet.

        Args:
            directory: Its working directory; holds its data and its log. Made if missing.
            port: Loopback port to listen on; 0 picks a free one, once.
            process: The process, when it is already running.
            listen: Address to listen on; the server is asked on the loopback interface in any case.
        """
        self.directory = directory.absolute()
        self.listen = listen
        self.port = port or _free_port()
        self.process = process
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The root address, without a path and without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_path(self) -> Path:
        """The file that holds what every process of this server has printed."""
        return self.directory / f"{self.name}.log"

    @property
    def running(self) -> bool:
        """Whether the process runs; it may not be ready to answer."""
        return self.process is not None and self.process.alive()

    def command(self) -> list[str]:
        """Give the command line."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Give the whole environment: what this machine sets for others stays outside."""
        return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.directory)}

    def start(self, *, detach: bool = False) -> None:
        """Start the server and wait until it answers. Does nothing if it runs.

        Args:
            detach: Let it outlive this process and its terminal.

        Raises:
            MissingToolError: Java is missing or too old.
            ServersError: It ended, or did not answer in time; the message ends with its log.
        """
        self.spawn(detach=detach)
        self.wait_ready()

    def spawn(self, *, detach: bool = False) -> None:
        """Start the process without waiting for it; see `start`."""
        if self.running:
            return
        (self.directory / "tmp").mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(  # noqa: S603 - the command is spelled out by the subclass
                self.command(),
                cwd=self.directory,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=detach,
            )
        self.process = ProcessId.of(self._child.pid)

    def wait_ready(self) -> None:
        """Wait until the server answers; see `start`."""
        deadline = time.monotonic() + self.start_timeout_s
        while not self.healthy():
            if not self.running:
                raise ServersError(f"{self.name} ended while starting.\n{self.log_tail()}")
            if time.monotonic() > deadline:
                waited = f"{self.name} did not answer within {self.start_timeout_s:.0f} s."
                raise ServersError(f"{waited}\n{self.log_tail()}")
            time.sleep(0.1)

    def healthy(self) -> bool:
        """Ask the server whether it is ready; no answer means it is not."""
        # Not urllib: it would send even a loopback request through a proxy that the machine sets.
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", self.health_path)
            answer = connection.getresponse()
            return answer.status == http.client.OK and self.is_healthy(answer.read())
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def is_healthy(self, body: bytes) -> bool:  # noqa: ARG002 - the status alone may be enough
        """Read the body of a good answer to the health check."""
        return True

    def stop(self) -> None:
        """Ask the server to end and wait for it, by force after half a minute. Safe twice."""
        # A paused process would not get as far as its SIGTERM.
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        if not self._ended_within(self.stop_timeout_s):
            self.kill()
        self._reap()

    def kill(self) -> None:
        """End the server as a crash would: nothing is finished or flushed. Safe twice."""
        self._signal(signal.SIGKILL)
        if not self._ended_within(self.stop_timeout_s):
            raise ServersError(f"{self.name} (process {self.process}) survives SIGKILL.")
        self._reap()

    def restart(self) -> None:
        """Stop the server and start it again, on the same port, with the same data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server: connections are accepted, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        self._signal(signal.SIGCONT)

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """Give the end of the log, under a heading."""
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return "\n".join([f"--- {self.log_path}", *text.splitlines()[-lines:]])

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.alive():
            os.kill(self.process.pid, number)

    def _ended_within(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.running and time.monotonic() < deadline:
            time.sleep(0.05)
        return not self.running

    def _reap(self) -> None:
        if self._child is not None:
            self._child.wait()
        self._child = self.process = None


def _free_port() -> int:
    # Below the range from which the kernel numbers outgoing connections (ip_local_port_range):
    # in that range a client that keeps trying a stopped server may take its port, or even connect
    # to itself.
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
