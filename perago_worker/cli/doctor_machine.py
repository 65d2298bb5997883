"""What a worker needs of its machine: descriptors, processes, a recent kernel, a port."""

from __future__ import annotations

import errno
import http.client
import json
import os
import resource
import socket
from contextlib import closing, suppress
from pathlib import Path

from perago_worker.cli.diagnosis import Diagnosis
from perago_worker.cli.exits import Exit
from perago_worker.config import WorkerConfig

OWN_DESCRIPTORS = 128
"""The worker's own: modules, logs, the port with its clients, pollers' connections."""
PER_SLOT_DESCRIPTORS = 16
"""A child's channel, pipes and process, the attempt's folders, its files being moved."""
OWN_THREADS = 32

ASK_TIMEOUT_S = 3.0


def examine_machine(diagnosis: Diagnosis, config: WorkerConfig, *, slots: int) -> None:
    """Look at the machine, for a worker with so many slots."""
    _descriptors(diagnosis, slots, per_slot=config.workspace.transfer_connections)
    _processes(diagnosis, slots, per_slot=config.workspace.transfer_connections)
    _kernel(diagnosis)
    _port(diagnosis, config)


def _descriptors(diagnosis: Diagnosis, slots: int, *, per_slot: int) -> None:
    needed = OWN_DESCRIPTORS + slots * (PER_SLOT_DESCRIPTORS + 2 * per_slot)
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    _compare(
        diagnosis,
        "file descriptors",
        needed,
        limit,
        why="When they run out, files and connections cannot be opened and attempts fail.",
        todo=f"raise the limit (ulimit -n, LimitNOFILE; the hard limit is {_limit(hard)}), or "
        "lower worker.concurrency or workspace.transfer_connections",
    )


def _processes(diagnosis: Diagnosis, slots: int, *, per_slot: int) -> None:
    limits = [resource.getrlimit(resource.RLIMIT_NPROC)[0]]
    for file in ("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"):
        with suppress(OSError, ValueError):
            limits.append(int(Path(file).read_text()))
    limited = [limit for limit in limits if limit != resource.RLIM_INFINITY]
    _compare(
        diagnosis,
        "processes",
        OWN_THREADS + slots * (4 + per_slot),
        min(limited, default=resource.RLIM_INFINITY),
        why="Threads count too; when no more are allowed, bodies cannot be started.",
        todo="raise the limit (ulimit -u, TasksMax, the container's pids limit), or lower "
        "worker.concurrency",
    )


def _compare(
    diagnosis: Diagnosis, what: str, needed: int, limit: int, *, why: str, todo: str
) -> None:
    found = f"{_limit(limit)} allowed, about {needed} needed"
    if limit == resource.RLIM_INFINITY or limit >= needed:
        diagnosis.ok(what, found)
    else:
        diagnosis.warn(what, found, why=why, todo=todo)


def _limit(limit: int) -> str:
    return "any number" if limit == resource.RLIM_INFINITY else str(limit)


def _kernel(diagnosis: Diagnosis) -> None:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        diagnosis.fail(
            "kernel",
            f"{os.uname().release} gives no process descriptors: {error}",
            why="Bodies are ended through them.",
            todo="use Linux 5.3 or newer, and allow pidfd_open in the container's seccomp profile",
        )
    else:
        diagnosis.ok("kernel", f"{os.uname().release}, gives process descriptors")


# --- the port -------------------------------------------------------------------------------------


def _port(diagnosis: Diagnosis, config: WorkerConfig) -> None:
    address = config.http.address
    if address is None:
        diagnosis.warn(
            "port",
            "http.listen is empty",
            why="There are no probes, no metrics and no status.",
            todo='give it an address, such as "127.0.0.1:9464"',
        )
        return
    problem = _cannot_listen(address)
    if problem is None:
        diagnosis.ok("port", f"{config.http.listen} is free" if address[1] else "any free one")
    elif problem == errno.EADDRINUSE and (worker := _who_answers(address)):
        diagnosis.ok("port", f"{config.http.listen} is served by {worker}")
    else:
        taken = problem == errno.EADDRINUSE
        diagnosis.fail(
            "port",
            f"{config.http.listen}: {os.strerror(problem)}"
            + (", and no worker answers there" if taken else ""),
            why="A worker that cannot listen there does not start.",
            todo='name another port in http.listen, 0 for any free one, or "" for none',
            code=Exit.CONFIG,
        )


def _cannot_listen(address: tuple[str, int]) -> int | None:
    """Return the number of the error that listening gives."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            trial.listen()
    except OSError as error:
        return error.errno or errno.EINVAL
    return None


def _who_answers(address: tuple[str, int]) -> str | None:
    """Return which worker answers at an address; None when something else or nothing does."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])  # noqa: S104 -- asked
    connection = http.client.HTTPConnection(host, address[1], timeout=ASK_TIMEOUT_S)
    try:
        with closing(connection):
            connection.request("GET", "/status.json")
            answer = connection.getresponse()
            if answer.headers.get("Server") != "perago-worker":
                return None
            worker = json.loads(answer.read())["worker"]
            return f"worker {worker['name']}, which is {worker['state']}"
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None
