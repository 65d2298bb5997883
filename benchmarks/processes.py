"""What a process and everything it started cost: processor time and memory."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil

MIB = 1 << 20


def tree(pid: int) -> list[psutil.Process]:
    """Return a process and those below it; none when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the processor time of trees so far, that of ended and awaited children included."""
    total = 0.0
    for process in _everything(pids):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def pss_mib(pids: Sequence[int]) -> list[float]:
    """Return the proportional set size of each process, roots first, in MiB.

    Pages that processes share count once in the sum; a resident set size counts them in each.
    """
    sizes = []
    for process in _everything(pids):
        try:
            sizes.append(process.memory_full_info().pss / MIB)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return sizes


def rss_mib(pid: int) -> float:
    """Return the resident set size of one process in MiB."""
    return float(psutil.Process(pid).memory_info().rss) / MIB


def _everything(pids: Sequence[int]) -> Iterator[psutil.Process]:
    for pid in pids:
        yield from tree(pid)


def kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill processes and all below them. Some contenders do not end when they are asked to."""
    everything = list(_everything([process.pid for process in processes]))
    for process in everything:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    for started in processes:
        started.wait()
    psutil.wait_procs(everything, timeout=10)


class Watch:
    """Samples taken several times a second while something else goes on.

    Attributes:
        cpu: Pairs of wall clock and processor seconds of the trees.
        peak_mib: Largest proportional set size of the trees at once.
    """

    def __init__(self, pids: Sequence[int], *, memory: bool, interval_s: float) -> None:
        self.cpu: list[tuple[float, float]] = []
        self.peak_mib = 0.0
        self._pids = pids
        self._memory = memory
        self._interval_s = interval_s
        self._done = threading.Event()

    def run(self) -> None:
        """Take samples until told to end; takes one at the start and one at the end."""
        while True:
            ending = self._done.wait(self._interval_s if self.cpu else 0)
            self.cpu.append((time.time(), cpu_seconds(self._pids)))
            if self._memory:
                self.peak_mib = max(self.peak_mib, sum(pss_mib(self._pids)))
            if ending:
                return

    def end(self) -> None:
        """Take a last sample and end."""
        self._done.set()

    def cpu_between(self, start: float, end: float) -> float:
        """Return the processor seconds used between two instants of the wall clock."""
        return _at(self.cpu, end) - _at(self.cpu, start)


def _at(samples: Sequence[tuple[float, float]], instant: float) -> float:
    """Return what a growing value was at an instant, on the line between its samples."""
    before = samples[0]
    if instant <= before[0]:
        return before[1]
    for after in samples[1:]:
        if instant <= after[0]:
            share = (instant - before[0]) / (after[0] - before[0])
            return before[1] + share * (after[1] - before[1])
        before = after
    return before[1]


@contextmanager
def watched(
    pids: Sequence[int], *, memory: bool = False, interval_s: float = 0.1
) -> Iterator[Watch]:
    """Watch trees of processes during the block."""
    watch = Watch(pids, memory=memory, interval_s=interval_s)
    thread = threading.Thread(target=watch.run, name="watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.end()
        thread.join()
