"""Finding and ending everything that a process has started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from perago_worker.attempt.body.process_tree import descendants, kill_all, kill_tree
from tests.support import eventually, is_running

FAMILY = """
import subprocess, sys, time
def start(code, **how):
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, **how)
sleep = "print(flush=True); import time; time.sleep(600)"
parent = "import subprocess, sys\\nc = subprocess.Popen([sys.executable, '-c', %r]" % sleep
parent += ", stdout=subprocess.PIPE)\\nc.stdout.readline()\\nprint(c.pid, flush=True)\\nc.wait()"
near, far = start(sleep), start(parent, start_new_session=True)
near.stdout.readline()
print(near.pid, far.pid, far.stdout.readline().decode().strip(), flush=True)
time.sleep(600)
"""
"""A child, a child in a session of its own, and a child of that one."""


@pytest.fixture
def family() -> Iterator[tuple[int, list[int]]]:
    """A session leader and its three descendants, running."""
    leader = subprocess.Popen(
        [sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, start_new_session=True
    )
    assert leader.stdout is not None
    pids = [int(word) for word in leader.stdout.readline().split()]
    yield leader.pid, pids
    kill_all([leader.pid, *pids], signal.SIGKILL)
    leader.wait()
    leader.stdout.close()


def test_descendants_are_found_wherever_they_went(family: tuple[int, list[int]]) -> None:
    leader, pids = family

    assert sorted(descendants(leader)) == sorted(pids)


def test_a_process_that_does_not_exist_has_none() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()

    assert descendants(ended.pid) == []


def test_the_whole_tree_is_ended(family: tuple[int, list[int]]) -> None:
    leader, pids = family

    kill_tree(leader, signal.SIGKILL)

    for pid in (leader, *pids):
        eventually(lambda pid=pid: not is_running(pid))  # type: ignore[misc]


def test_who_is_gone_already_is_no_error() -> None:
    ended = subprocess.Popen(["true"], start_new_session=True)
    ended.wait()

    kill_tree(ended.pid, signal.SIGTERM)
    kill_all([ended.pid], signal.SIGTERM)


def test_this_process_is_not_its_own_descendant() -> None:
    assert os.getpid() not in descendants(os.getpid())
