"""What a body finds when it asks for its attempt."""

from __future__ import annotations

import logging
import threading
import time
from contextvars import copy_context

import pytest

from perago_worker.current import AttemptReporter, CurrentAttempt, bind_attempt, current_attempt


class Notebook:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def progress(self, done: float, total: float | None, note: str) -> None:
        self.told.append((done, total, note))

    def log(self, text: str) -> None:
        self.told.append((text,))


def attempt(task_id: str = "t-1", reporter: AttemptReporter | None = None) -> CurrentAttempt:
    return CurrentAttempt(
        workflow_id="w-1",
        task_id=task_id,
        task_type="features.build",
        retry_count=2,
        reporter=reporter or Notebook(),
    )


def found_by_new_thread() -> CurrentAttempt:
    found: list[CurrentAttempt] = []
    thread = threading.Thread(target=lambda: found.append(current_attempt()))
    thread.start()
    thread.join()
    return found[0]


def test_outside_of_a_worker_there_is_a_stand_in(caplog: pytest.LogCaptureFixture) -> None:
    here = current_attempt()
    assert (here.workflow_id, here.task_id, here.task_type) == ("local", "local", "local")
    assert (here.retry_count, here.deadline, here.remaining()) == (0, None, None)
    assert not here.cancelled.is_set()
    with caplog.at_level(logging.INFO, logger="perago_worker"):
        here.progress(1, 4, "reading")
        here.progress(2)
        here.log("half-way")
    assert caplog.messages == ["progress 1/4 reading", "progress 2/? ", "half-way"]


def test_stand_ins_do_not_share_their_cancellation() -> None:
    current_attempt().cancelled.set()
    assert not current_attempt().cancelled.is_set()


def test_a_bound_attempt_is_found_until_the_block_ends() -> None:
    outer, inner = attempt("outer"), attempt("inner")
    with bind_attempt(outer):
        with bind_attempt(inner):
            assert current_attempt() is inner
        assert current_attempt() is outer
    assert current_attempt().task_id == "local"


def test_a_bound_attempt_is_let_go_when_the_body_raises() -> None:
    with pytest.raises(KeyError), bind_attempt(attempt(), process_wide=True):
        raise KeyError
    assert current_attempt().task_id == "local"
    assert found_by_new_thread().task_id == "local"


def test_new_threads_find_only_what_is_bound_for_the_process() -> None:
    mine = attempt()
    with bind_attempt(mine):
        assert found_by_new_thread().task_id == "local"
    with bind_attempt(mine, process_wide=True):
        assert found_by_new_thread() is mine
        other = attempt("other")
        with bind_attempt(other):
            assert current_attempt() is other
            assert found_by_new_thread() is mine
    assert found_by_new_thread().task_id == "local"


def test_a_copied_context_takes_the_attempt_along() -> None:
    with bind_attempt(attempt("t-9")):
        context = copy_context()
    assert context.run(current_attempt).task_id == "t-9"


def test_attempts_of_two_threads_do_not_mix() -> None:
    both_bound = threading.Barrier(2, timeout=30)
    found: dict[str, str] = {}

    def body(task_id: str) -> None:
        with bind_attempt(attempt(task_id)):
            both_bound.wait()
            found[task_id] = current_attempt().task_id

    threads = [threading.Thread(target=body, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"a": "a", "b": "b"}


def test_what_a_body_tells_reaches_the_reporter() -> None:
    notebook = Notebook()
    with bind_attempt(attempt(reporter=notebook)):
        current_attempt().progress(3, 10, "rows")
        current_attempt().progress(4.5)
        current_attempt().log("line one\nline two")
    assert notebook.told == [(3, 10, "rows"), (4.5, None, ""), ("line one\nline two",)]


def test_remaining_counts_down_to_zero() -> None:
    later = CurrentAttempt(deadline=time.monotonic() + 3600)
    first, second = later.remaining(), later.remaining()
    assert first is not None
    assert second is not None
    assert 0 < second <= first <= 3600
    assert CurrentAttempt(deadline=time.monotonic() - 1).remaining() == 0
