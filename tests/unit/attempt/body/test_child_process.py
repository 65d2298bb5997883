"""One child process that runs bodies, from exec to its end: real processes throughout."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from perago_worker.attempt.body.child_process import (
    MAX_OUTPUT_LINE_BYTES,
    ChildProcess,
    ChildSpec,
)
from perago_worker.attempt.body.protocol import Raised, Returned
from perago_worker.attempt.body.runner import Died, Reply, Stopped
from perago_worker.attempt.stop import StopCause, StopToken
from tests.support import ROOT, child_spec, eventually, is_running
from tests.unit.attempt.body import obedient as obedient_task
from tests.unit.attempt.body.authors import authors_module, call, stopping


class Child:
    """A child, and what it said."""

    def __init__(self, spec: ChildSpec, scratch: Path) -> None:
        self.process = ChildProcess(spec)
        self.scratch = scratch
        self.said: list[tuple[str, str]] = []

    def hear(self, stream: str, line: str) -> None:
        self.said.append((stream, line))

    def run(
        self, *, stop: StopToken | None = None, remaining_s: float | None = None, **params: Any
    ) -> Reply:
        stop = stop or StopToken()
        early = self.process.wait_ready(stop=stop, on_output=self.hear)
        if early is not None:
            return early
        order = call(self.scratch, remaining_s=remaining_s, **params)
        try:
            return self.process.call(order, stop=stop, on_output=self.hear)
        except BaseException:
            self.process.end()  # it is busy, and no use to the next test
            raise


Start = Callable[[ChildSpec], Child]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    made = tmp_path / "scratch"
    made.mkdir()
    return made


@pytest.fixture
def start(scratch: Path) -> Iterator[Start]:
    """Starts children that end with the test."""
    started: list[Child] = []

    def run(spec: ChildSpec) -> Child:
        started.append(Child(spec, scratch))
        return started[-1]

    yield run
    for child in started:
        child.process.close()
        assert not is_running(child.process.pid)


class Warm:
    """Children that serve one test after the other, until one of them ends them."""

    def __init__(self) -> None:
        self._children: dict[str, Child] = {}

    def child(self, spec: ChildSpec, scratch: Path) -> Child:
        child = self._children.get(spec.task_name)
        if child is None or not child.process.alive:
            if child is not None:
                child.process.close()
            child = self._children[spec.task_name] = Child(spec, scratch)
        child.scratch, child.said = scratch, []
        return child

    def close(self) -> None:
        for child in self._children.values():
            child.process.close()
            assert not is_running(child.process.pid)


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    warm = Warm()
    yield warm
    warm.close()


@pytest.fixture
def plain(warm: Warm, scratch: Path) -> Child:
    """A child for the deeds of `probe.plain`."""
    return warm.child(child_spec("probe.plain"), scratch)


@pytest.fixture
def obedient(warm: Warm, scratch: Path) -> Child:
    """A child that runs the code it is sent."""
    spec = child_spec(obedient_task.NAME, obedient_task.__name__, memory_limit=1 << 30)
    return warm.child(spec, scratch)


SHUT = "import socket; socket.socket(fileno=os.dup(CHANNEL)).shutdown(socket.SHUT_WR)"
"""Closes the child's side of the channel, for good and in a way that is noticed at once."""


class TestReplies:
    def test_a_result(self, plain: Child) -> None:
        assert plain.run(do="nothing") == Returned(result={"did": "nothing", "detail": {}})

    @pytest.mark.parametrize(
        ("do", "kind", "reason"),
        [
            ("fail", "failed", "the upstream service is away"),
            ("terminal", "terminal", "this input can never work"),
            ("raise", "exception", "FileNotFoundError: [Errno 2]"),
            ("wrong_result", "result", "did: Field required"),
            ("no such deed", "params", "do: Input should be"),
        ],
    )
    def test_every_kind_of_raising(self, plain: Child, do: str, kind: str, reason: str) -> None:
        reply = plain.run(do=do)

        assert isinstance(reply, Raised)
        assert reply.kind == kind
        assert reply.reason.startswith(reason)

    def test_one_child_takes_many_calls(self, plain: Child) -> None:
        before = plain.process.calls

        replies = [plain.run(do=do) for do in ("nothing", "fail", "raise", "nothing")]

        assert [type(reply) for reply in replies] == [Returned, Raised, Raised, Returned]
        assert plain.process.calls == before + 4
        assert plain.process.alive

    def test_each_call_has_its_own_directory(self, plain: Child, tmp_path: Path) -> None:
        for name in ("one", "other"):
            plain.scratch = tmp_path / name
            plain.scratch.mkdir()
            plain.run(do="write")
            assert (plain.scratch / "out.txt").read_text() == "written"

    def test_a_large_result_comes_whole(self, plain: Child) -> None:
        reply = plain.run(do="huge")

        assert isinstance(reply, Returned)
        assert len(reply.result["detail"]["text"]) == 12 * 1024 * 1024

    def test_large_params_go_whole(self, obedient: Child) -> None:
        reply = obedient.run(code="return len(value)", value="x" * 5_000_000)

        assert reply == Returned(result={"value": 5_000_000})

    def test_text_comes_back_as_it_was(self, obedient: Child) -> None:
        text = "line\nend\r\t\0 \u2028 é 😀 \x7f"

        assert obedient.run(code="return value", value=text) == Returned(result={"value": text})


class TestDeath:
    def test_a_signal_is_named_with_what_it_usually_means(self, plain: Child) -> None:
        reply = plain.run(do="die")

        assert isinstance(reply, Died)
        assert reply.reason.startswith("the child process was killed by SIGKILL (peak memory ")
        assert reply.reason.endswith("usually the kernel ending it for want of memory")
        assert not plain.process.alive

    @pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT"])
    def test_faults_in_native_code_are_told(self, obedient: Child, name: str) -> None:
        reply = obedient.run(code=f"os.kill(os.getpid(), signal.{name})")

        assert isinstance(reply, Died)
        assert name in reply.reason
        assert "native code" in reply.reason

    def test_an_exit_code_is_told(self, plain: Child) -> None:
        reply = plain.run(do="exit")

        assert isinstance(reply, Died)
        assert "ended with exit code 3 before the body returned (peak memory" in reply.reason

    def test_what_was_printed_before_is_not_lost(self, obedient: Child) -> None:
        assert isinstance(obedient.run(code="print('last words', end=''); os._exit(1)"), Died)
        assert obedient.said == [("stdout", "last words")]

    def test_a_body_that_closes_the_channel_is_ended(self, obedient: Child) -> None:
        reply = obedient.run(code=f"{SHUT}; time.sleep(600)")

        assert reply == Died(
            "the body closed the child process's channel to the worker; it was ended"
        )
        assert not obedient.process.alive

    def test_a_dead_child_takes_no_call(self, plain: Child) -> None:
        plain.run(do="nothing")
        os.kill(plain.process.pid, signal.SIGKILL)
        eventually(lambda: not plain.process.alive)

        assert isinstance(plain.run(do="nothing"), Died)

    @pytest.mark.parametrize("how", ["os._exit(3)", "os.kill(os.getpid(), 9)"])
    def test_processes_of_its_group_do_not_outlive_it(self, obedient: Child, how: str) -> None:
        reply = obedient.run(code=f"print(subprocess.Popen(SLEEP).pid, flush=True); {how}")

        assert isinstance(reply, Died)
        ((_, pid),) = obedient.said
        eventually(lambda: not is_running(int(pid)))


class TestHostileMessages:
    @pytest.mark.parametrize(
        "message",
        [
            "b'no json\\n'",
            "b'\\xff\\xfe\\n'",
            'b\'{"type": "returned"}\\n\'',
            'b\'{"type": "returned", "result": {}, "more": 1}\\n\'',
        ],
    )
    def test_what_is_no_message_ends_the_child(self, obedient: Child, message: str) -> None:
        reply = obedient.run(code=f"os.write(CHANNEL, {message}); time.sleep(600)")

        assert reply == Died("the child process sent something that is no message")
        assert not obedient.process.alive

    def test_a_message_without_end_ends_the_child(self, obedient: Child) -> None:
        """The worker reads no more than it accepts as one message."""
        reply = obedient.run(code="while True: os.write(CHANNEL, b'x' * (1 << 20))")

        assert reply == Died("the child process sent something that is no message")

    def test_ready_is_no_answer_to_a_call(self, obedient: Child) -> None:
        reply = obedient.run(code='os.write(CHANNEL, b\'{"type": "ready"}\\n\'); time.sleep(600)')

        assert reply == Died("the child process answered out of turn")
        assert not obedient.process.alive

    def test_a_fork_that_comes_back_from_the_body_answers_nothing(self, obedient: Child) -> None:
        """Else its answer would be taken for that to the next call."""
        fork = "if os.fork(): os.wait()\nreturn value"

        for code, value in ((fork, 1), ("return value", 2), ("return value", 3)):
            assert obedient.run(code=code, value=value) == Returned(result={"value": value})


class TestStop:
    @pytest.mark.parametrize("do", ["wait", "loop"])
    def test_a_body_is_ended(self, plain: Child, tmp_path: Path, do: str) -> None:
        """Also one that ignores SIGTERM and never lets go of the interpreter."""
        begun, stop = tmp_path / "begun", StopToken()

        with stopping(stop, begun.exists):
            reply = plain.run(stop=stop, do=do, signal_file=str(begun))

        assert reply == Stopped()
        assert not is_running(plain.process.pid)

    def test_an_order_given_before_the_call_ends_it(self, plain: Child) -> None:
        stop = StopToken()
        stop.trip(StopCause.DRAINED, "why")

        assert plain.run(stop=stop, do="wait") == Stopped()

    def test_a_body_that_used_up_its_time_is_ended(self, obedient: Child) -> None:
        stop = StopToken()

        reply = obedient.run(stop=stop, code="time.sleep(600)", remaining_s=0.05)

        assert reply == Stopped()
        assert stop.stop is not None
        assert stop.stop.cause is StopCause.BODY_TIMEOUT

    def test_a_module_that_never_loads_is_ended(self, start: Start, tmp_path: Path) -> None:
        begun, stop = tmp_path / "begun", StopToken()
        code = f"open({str(begun)!r}, 'w').close(); time.sleep(600)"
        child = start(authors_module(tmp_path, code))

        with stopping(stop, begun.exists):
            assert child.run(stop=stop) == Stopped()
        assert not is_running(child.process.pid)

    def test_an_order_that_comes_with_the_answer_does_not_disturb_the_next_call(
        self, plain: Child
    ) -> None:
        class Late(StopToken):
            @contextmanager
            def notifying(self, callback: Callable[[], None]) -> Iterator[None]:
                with super().notifying(callback):
                    yield
                callback()

        assert isinstance(plain.run(stop=Late(), do="nothing"), Returned)
        for _ in range(3):
            assert isinstance(plain.run(do="print"), Returned)
        pending = plain.process._selector.select(0)  # it would be found again and again
        assert [key.data for key, _ in pending] == []

    def test_an_order_after_the_end_reaches_nobody(self, start: Start) -> None:
        callbacks: list[Callable[[], None]] = []

        class Remembering(StopToken):
            @contextmanager
            def notifying(self, callback: Callable[[], None]) -> Iterator[None]:
                callbacks.append(callback)
                with super().notifying(callback):
                    yield

        child = start(child_spec("probe.plain"))
        child.run(stop=Remembering(), do="nothing")
        child.process.close()
        # All descriptors that were closed may stand for other files by now.
        pipes = [os.pipe() for _ in range(8)]
        for callback in callbacks:
            callback()
        for reader, writer in pipes:
            os.set_blocking(reader, False)
            with pytest.raises(BlockingIOError):
                os.read(reader, 1)
            os.close(reader)
            os.close(writer)


class TestStrays:
    def test_what_a_body_leaves_behind_is_gone_when_it_has_answered(self, plain: Child) -> None:
        """Also what went into a session of its own."""
        reply = plain.run(do="stray")

        assert isinstance(reply, Returned)
        assert len(reply.result["detail"]["pids"]) == 2
        assert not any(map(is_running, reply.result["detail"]["pids"]))
        assert plain.process.alive

    def test_what_a_stopped_body_started_is_gone(self, obedient: Child) -> None:
        code = (
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "pids = [subprocess.Popen(SLEEP, start_new_session=new).pid for new in (False, True)]\n"
            "print(*pids, flush=True)\n"
            "time.sleep(600)\n"
        )
        stop = StopToken()

        with stopping(stop, lambda: bool(obedient.said)):
            assert obedient.run(stop=stop, code=code) == Stopped()

        for pid in map(int, obedient.said[0][1].split()):
            eventually(partial(has_ended, pid))

    def test_it_is_gone_though_nobody_waits_for_it(self, obedient: Child) -> None:
        """The children of a process that ignores SIGCHLD leave nothing to wait for."""
        code = (
            "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
            "return [subprocess.Popen(SLEEP).pid for _ in range(3)]\n"
        )

        reply = obedient.run(code=code)

        obedient.process.end()  # it ignores the signal for good, and is no use to the next test
        assert isinstance(reply, Returned)
        assert not any(map(is_running, reply.result["value"]))


def has_ended(pid: int) -> bool:
    return not is_running(pid)


class TestConfinement:
    def test_the_environment_is_what_was_given_and_nothing_else(
        self, start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("CANARY_SECRET", "canary-value")
        with (tmp_path / "canary").open("w") as secret:
            os.set_inheritable(secret.fileno(), True)
            child = start(child_spec("probe.plain"))
            reply = child.run(do="environment")

        assert isinstance(reply, Returned)
        seen = reply.result["detail"]
        assert "canary" not in str(seen["environment"]).lower()
        assert set(seen["environment"]) <= {
            *("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH", "TZ", "USER"),
            *("PYTHONPATH", "PYTHONUNBUFFERED", "TMPDIR"),
        }
        assert seen["environment"]["TMPDIR"] == seen["cwd"] == str(child.scratch)

    def test_no_descriptors_are_inherited_but_channel_and_orders(
        self, start: Start, tmp_path: Path
    ) -> None:
        with (tmp_path / "canary").open("w") as secret:
            os.set_inheritable(secret.fileno(), True)
            reply = start(child_spec("probe.plain")).run(do="environment")

        assert isinstance(reply, Returned)
        files = sorted(
            each.split(" ", 1)[1].partition(":")[0] for each in reply.result["detail"]["fds"]
        )
        # Besides these, the directory that is being listed.
        assert [name for name in files if not name.startswith("/proc/")] == [
            "/dev/null",
            "pipe",
            "pipe",
            "socket",
            "socket",
        ]

    @pytest.mark.key("worker.child_memory_limit")
    def test_memory_is_limited(self, obedient: Child) -> None:
        reply = obedient.run(code="bytearray(2 << 30)")

        assert isinstance(reply, Raised)
        assert (reply.kind, reply.reason) == ("exception", "MemoryError")

    def test_it_leads_a_session_and_gains_nothing(self, obedient: Child) -> None:
        code = (
            "return [\n"
            "    os.getsid(0) == os.getpid() == os.getpgrp(),\n"
            "    'NoNewPrivs:\\t1' in Path('/proc/self/status').read_text(),\n"
            "    sys.stdin.read(),\n"
            "]\n"
        )

        assert obedient.run(code=code) == Returned(result={"value": [True, True, ""]})

    def test_bodies_run_in_the_main_thread(self, obedient: Child) -> None:
        code = "return threading.current_thread() is threading.main_thread()"

        assert obedient.run(code=code) == Returned(result={"value": True})


class TestOutput:
    def test_lines_of_every_stream_are_heard(self, plain: Child) -> None:
        plain.run(do="print")

        assert sorted(plain.said) == [
            ("log", "to the task log"),
            ("progress", "1/2 half"),
            ("stderr", "to standard error"),
            ("stdout", "to standard output"),
        ]

    def test_lines_are_whole_and_in_order(self, obedient: Child) -> None:
        obedient.run(code="for n in range(5000): print(n)\nos.write(1, b'no end')")

        assert [line for _, line in obedient.said] == [*map(str, range(5000)), "no end"]

    def test_a_line_without_end_is_cut(self, obedient: Child) -> None:
        obedient.run(code="print('x' * 1_000_000)")

        assert "".join(line for _, line in obedient.said) == "x" * 1_000_000
        assert all(len(line) <= 2 * MAX_OUTPUT_LINE_BYTES for _, line in obedient.said)

    def test_what_is_no_text_is_shown(self, obedient: Child) -> None:
        obedient.run(code="os.write(2, b'\\xff\\x00 end\\n')")

        assert obedient.said == [("stderr", "\\xff\x00 end")]

    def test_output_of_what_a_body_starts_is_heard(self, obedient: Child) -> None:
        obedient.run(code="os.system('echo from a shell')")

        assert obedient.said == [("stdout", "from a shell")]

    @pytest.mark.parametrize(
        "code",
        [
            "sys.stdout.close(); return 1",
            "sys.stdout = None; return 1",
            "os.close(1); os.close(2); return 1",
        ],
    )
    def test_a_body_may_close_its_output(self, obedient: Child, code: str) -> None:
        assert obedient.run(code=code) == Returned(result={"value": 1})
        assert obedient.run(code="return 2") == Returned(result={"value": 2})
        obedient.process.end()  # it has nowhere to print any more

    def test_a_thread_that_writes_for_ever_does_not_hold_up_the_answer(
        self, obedient: Child, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is in the pipe may be the body's and is heard; what comes after it is not."""
        (_, pipe), _ = obedient.process._pipes()

        def hear(stream: str, line: str) -> None:
            obedient.said.append((stream, line))
            assert len(obedient.said) < 20_000, "it is read for ever"
            eventually(lambda: select.select([pipe], [], [], 0)[0] != [])

        monkeypatch.setattr(obedient, "hear", hear)
        code = (
            "def write():\n"
            "    while True: os.write(1, b'on and on '.ljust(6000) + b'\\n')\n"
            "threading.Thread(target=write, daemon=True).start()"
        )

        assert isinstance(obedient.run(code=code), Returned)
        obedient.process.end()


class TestLoading:
    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            ("import no_such_module_anywhere", "ModuleNotFoundError"),
            ("sys.exit(1)", "SystemExit"),
        ],
    )
    def test_a_module_that_fails_to_load_is_broken(
        self, start: Start, tmp_path: Path, code: str, reason: str
    ) -> None:
        reply = start(authors_module(tmp_path, code)).run()

        assert isinstance(reply, Raised)
        assert reply.kind == "broken"
        assert reason in reply.reason

    def test_a_module_that_ends_the_process_is_a_death(self, start: Start, tmp_path: Path) -> None:
        reply = start(authors_module(tmp_path, "os._exit(7)")).run()

        assert isinstance(reply, Died)
        assert "exit code 7" in reply.reason

    def test_a_task_that_is_not_there_is_a_death_with_its_traceback(self, start: Start) -> None:
        child = start(child_spec("probe.no_such_task"))

        assert isinstance(child.run(), Died)
        assert any("StopIteration" in line for _, line in child.said)


class TestClose:
    def test_it_is_safe_twice_and_leaves_no_descriptor(self) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        child = ChildProcess(child_spec("probe.plain"))

        child.close()
        child.close()

        assert len(list(Path("/proc/self/fd").iterdir())) == before
        assert not child.alive

    def test_a_child_ends_with_its_worker(self, tmp_path: Path) -> None:
        """However the worker ends: the channel closes, and the kernel sees to it as well."""
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdout=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)}
        )
        assert worker.stdout is not None
        pid = int(worker.stdout.readline())

        worker.kill()
        worker.wait()
        worker.stdout.close()

        eventually(lambda: not is_running(pid))


WORKER = """
import signal
from perago_worker.attempt.body.child_process import ChildProcess
from tests.support import child_spec
print(ChildProcess(child_spec("probe.plain")).pid, flush=True)
signal.pause()
"""
"""A worker that starts a child and waits to be killed."""
