"""What a body's process has of the worker's secrets, and what it leaves when it crashes."""

from __future__ import annotations

import os
import resource
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from perago_worker.attempt.body.child_process import ChildProcess
from perago_worker.attempt.body.process import child_environment
from perago_worker.attempt.body.protocol import Returned
from perago_worker.attempt.body.runner import Died, Reply
from perago_worker.attempt.stop import StopToken
from tests.support import ROOT, child_spec
from tests.unit.attempt.body import obedient
from tests.unit.attempt.body.authors import call

WRITE_MEMORY = """
from tests.tasks.memory import write_memory
write_memory(Path(value[0]))
"""

HARD = resource.getrlimit(resource.RLIMIT_CORE)[1]
"""What of a core these tests may ask for."""

CORES_COME_HERE = HARD != 0 and Path("/proc/sys/kernel/core_pattern").read_text()[:1] not in {
    *"|/@\n"
}
"""Whether the kernel writes cores to where a process is; elsewhere a handler may take them."""

ASK_FOR_CORES = """
import os, resource, signal, time
for limit in (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_CORE)[1]):
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
        break
    except ValueError:
        pass  # the former is for a privileged user only
"""

CRASHES = {
    "SIGABRT": "os.abort()",
    "SIGSEGV": "import ctypes; ctypes.string_at(1)",
    # What started the tests may have had it ignored, as a shell does for what runs behind it.
    "SIGQUIT": (
        "signal.signal(signal.SIGQUIT, signal.SIG_DFL)\n"
        "os.kill(os.getpid(), signal.SIGQUIT); time.sleep(60)"
    ),
}


class Bodies:
    """A child that runs code."""

    def __init__(self, scratch: Path, **environment: str) -> None:
        self._scratch = scratch
        spec = child_spec(
            obedient.NAME,
            obedient.__name__,
            environment=child_environment(
                {**os.environ, **environment}, allowed=environment, python_path=[ROOT]
            ),
        )
        self.process = ChildProcess(spec)

    def run(self, code: str, value: Any = None) -> Reply:
        stop = StopToken()
        early = self.process.wait_ready(stop=stop, on_output=_ignore)
        assert early is None, early
        order = call(self._scratch, code=code, value=value)
        return self.process.call(order, stop=stop, on_output=_ignore)


def _ignore(stream: str, line: str) -> None:
    """Hear nothing."""


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    made = tmp_path / "scratch"
    made.mkdir()
    return made


@pytest.fixture
def bodies(scratch: Path) -> Iterator[Bodies]:
    bodies = Bodies(scratch)
    with closing(bodies.process):
        yield bodies


def test_the_memory_of_a_child_has_what_it_was_given_and_nothing_else_of_the_worker(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {where: f"kept-{secrets.token_hex(16)}" for where in ("memory", "environment", "file")}
    given = {where: f"given-{secrets.token_hex(16)}" for where in ("params", "environment")}
    monkeypatch.setenv("KEPT", kept["environment"])
    (tmp_path / "file").write_text(kept["file"])

    with (tmp_path / "file").open() as file:
        os.set_inheritable(file.fileno(), True)
        assert file.read() in kept.values()
        bodies = Bodies(scratch, GIVEN=given["environment"])
        with closing(bodies.process):
            reply = bodies.run(WRITE_MEMORY, [str(tmp_path / "memory"), given["params"]])
    memory = (tmp_path / "memory").read_bytes()

    assert reply == Returned(result={"value": None})
    found = {text for text in (*kept.values(), *given.values()) if text.encode() in memory}
    assert found == set(given.values())


@pytest.mark.parametrize("name", CRASHES)
def test_a_body_that_crashes_leaves_no_core(name: str, bodies: Bodies, tmp_path: Path) -> None:
    """Nor does one that has asked for it."""
    place = tmp_path / "cores"
    place.mkdir()

    reply = bodies.run(f"{ASK_FOR_CORES}\nos.chdir(value)\n{CRASHES[name]}", str(place))

    assert isinstance(reply, Died)
    assert name in reply.reason
    assert list(place.iterdir()) == []


def test_a_body_is_not_dumpable(bodies: Bodies) -> None:
    code = "import ctypes; return ctypes.CDLL(None).prctl(3)"  # PR_GET_DUMPABLE

    assert bodies.run(code) == Returned(result={"value": 0})


def test_programs_that_a_body_starts_leave_no_core(bodies: Bodies, scratch: Path) -> None:
    """No file, since less than a page is allowed, and none that is piped to a handler.

    The kernel pipes with every limit but 1: see NO_CORE.
    """
    code = (
        "import resource\n"
        "died = subprocess.run([sys.executable, '-c', 'import os; os.abort()'])\n"
        "return died.returncode, resource.getrlimit(resource.RLIMIT_CORE), os.listdir()"
    )

    reply = bodies.run(code)

    assert isinstance(reply, Returned)
    code, limits, left = reply.result["value"]
    assert (code, left) == (-signal.SIGABRT, [])
    assert limits == [1, 1] or (HARD == 0 and limits == [0, 0])


@pytest.mark.parametrize("confined", [False, True])
def test_being_not_dumpable_suffices(confined: bool, tmp_path: Path) -> None:
    """The same crash, with all of a core allowed, leaves one of a process that is not confined.

    The kernel says so of every process that has died, wherever its cores go.
    """
    code = (
        f"{ASK_FOR_CORES}\n"
        "from perago_worker.attempt.body import child\n"
        "child.NO_CORE = resource.getrlimit(resource.RLIMIT_CORE)\n"
        f"{confined} and child.confine(memory_limit=0)\n"
        "if not os.fork(): os.abort()\n"
        "print(os.WCOREDUMP(os.wait()[1]))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )

    dumped = done.stdout == "True\n"
    assert bool([*tmp_path.iterdir()]) is (CORES_COME_HERE and not confined)
    assert not (confined and dumped)
    assert dumped or confined or not CORES_COME_HERE
