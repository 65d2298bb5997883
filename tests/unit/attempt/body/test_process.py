"""A warm child per slot: kept, replaced when it is dead or has served its time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from perago_worker.attempt.body.process import ALWAYS_PASSED, ProcessBody, child_environment
from perago_worker.attempt.body.protocol import Raised, Returned
from perago_worker.attempt.body.runner import Died, Reply, Stopped
from perago_worker.attempt.stop import StopCause, StopToken
from tests.support import ROOT, is_running, process_body
from tests.unit.attempt.body.authors import call, stopping


class Body:
    """A body, the children it started, and why."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.children: list[tuple[int, str]] = []
        self.body: ProcessBody

    def run(self, do: str, *, stop: StopToken | None = None) -> Reply:
        return self.body.run(
            call(self.scratch, do=do), stop=stop or StopToken(), on_output=lambda *_: None
        )

    @property
    def causes(self) -> list[str]:
        return [cause for _, cause in self.children]

    @property
    def pid(self) -> int:
        return self.children[-1][0]


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Body]:
    made = Body(tmp_path)
    with process_body(
        "probe.plain", on_started=lambda *told: made.children.append(told), max_calls=3
    ) as body:
        made.body = body
        yield made
    assert not any(is_running(pid) for pid, _ in made.children)


def test_warming_up_starts_one_child(plain: Body) -> None:
    plain.body.warm_up()
    plain.body.warm_up()

    assert plain.causes == ["start"]
    assert isinstance(plain.run("nothing"), Returned)
    assert plain.causes == ["start"]


def test_a_failing_body_costs_no_child(plain: Body) -> None:
    assert isinstance(plain.run("fail"), Raised)
    assert isinstance(plain.run("nothing"), Returned)
    assert plain.causes == ["start"]


def test_a_child_is_recycled_after_so_many_calls(plain: Body) -> None:
    for _ in range(4):
        assert isinstance(plain.run("nothing"), Returned)

    assert plain.causes == ["start", "recycled"]
    assert not is_running(plain.children[0][0])


def test_a_child_that_died_of_its_body_is_replaced(plain: Body) -> None:
    assert isinstance(plain.run("die"), Died)
    assert isinstance(plain.run("nothing"), Returned)
    assert plain.causes == ["start", "ended"]


def test_a_child_whose_body_left_a_thread_is_ended_at_once(plain: Body) -> None:
    """The thread could write to what is about to be checked and published."""
    assert isinstance(plain.run("thread"), Returned)
    assert not is_running(plain.pid)
    assert isinstance(plain.run("nothing"), Returned)
    assert plain.causes == ["start", "ended"]


def test_a_body_sees_that_it_is_cancelled_before_it_is_ended(plain: Body) -> None:
    begun, stop = plain.scratch / "begun", StopToken()
    order = call(plain.scratch, do="obey", signal_file=str(begun))

    with stopping(stop, begun.exists):
        assert plain.body.run(order, stop=stop, on_output=lambda *_: None) == Stopped()
    assert not begun.exists()


def test_a_child_that_died_while_it_waited_is_replaced_unnoticed(plain: Body) -> None:
    plain.run("nothing")
    os.kill(plain.pid, signal.SIGKILL)
    os.waitid(os.P_PID, plain.pid, os.WEXITED | os.WNOWAIT)

    assert isinstance(plain.run("nothing"), Returned)
    assert plain.causes == ["start", "ended"]


def test_a_child_that_was_stopped_is_replaced(plain: Body) -> None:
    stop = StopToken()
    stop.trip(StopCause.DRAINED, "why")

    assert plain.run("wait", stop=stop) == Stopped()
    assert isinstance(plain.run("nothing"), Returned)
    assert plain.causes == ["start", "stopped"]


def test_a_child_whose_listener_failed_is_replaced(plain: Body) -> None:
    """It goes on with its body, whose answer must not be taken for that to the next call."""

    def fail(stream: str, line: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        plain.body.run(
            call(plain.scratch, do="print"),
            stop=StopToken(),
            on_output=fail,
        )

    assert plain.run("nothing") == Returned(result={"did": "nothing", "detail": {}})
    assert plain.causes == ["start", "ended"]


def test_closing_is_safe_twice_and_before_the_start() -> None:
    with process_body("probe.plain") as body:
        body.close()
        body.warm_up()
        body.close()
        body.close()


def test_a_task_that_cannot_be_loaded_is_tried_anew_each_time(tmp_path: Path) -> None:
    causes: list[str] = []
    with process_body(
        "probe.plain", module="tests.tasks.none", on_started=lambda _, cause: causes.append(cause)
    ) as body:
        for _ in range(2):
            reply = body.run(call(tmp_path), stop=StopToken(), on_output=lambda *_: None)
            assert isinstance(reply, Raised)
            assert reply.kind == "broken"
    assert causes == ["start", "ended"]


class TestEnvironment:
    def test_only_what_is_listed_is_passed(self) -> None:
        environ = {
            "PATH": "/bin",
            "HOME": "/home",
            "SECRET": "x",
            "ALLOWED": "y",
            "LD_PRELOAD": "z",
        }

        found = child_environment(environ, allowed=["ALLOWED", "NOT_SET"], python_path=[])

        assert {name for name in found if not name.startswith("PYTHON")} == {
            "PATH",
            "HOME",
            "ALLOWED",
        }
        assert not any(
            word in name for name in ALWAYS_PASSED for word in ("KEY", "SECRET", "TOKEN")
        )

    def test_the_authors_modules_come_before_what_the_worker_finds(self) -> None:
        environ = {"PYTHONPATH": f"{ROOT}::relative"}

        found = child_environment(environ, allowed=(), python_path=[Path("/authors")])

        expected = ["/authors", str(ROOT), str(Path("relative").resolve())]
        assert found["PYTHONPATH"].split(os.pathsep) == expected
        assert found["PYTHONUNBUFFERED"] == "1"
