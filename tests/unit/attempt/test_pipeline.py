"""Whole attempts over the local pair: how each one ends, and that it leaves nothing behind."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from perago_worker import TaskControls, WorkspaceSpec, require_file, task
from perago_worker.attempt.body.process import ProcessBody
from perago_worker.attempt.body.runner import BodyRunner
from perago_worker.attempt.codes import Code
from perago_worker.attempt.pipeline import STEP_NAMES, run_attempt, steps_of
from perago_worker.attempt.stop import StopCause
from perago_worker.attempt.workspace import Limits
from perago_worker.errors import (
    PublishUnknown,
    QueueRefused,
    QueueUnavailable,
    StoreRefused,
    StoreUnavailable,
)
from perago_worker.events import (
    AttemptFinished,
    AttemptStarted,
    StageLeft,
    StepFinished,
    Transferred,
)
from perago_worker.models import Lease, Outcome
from perago_worker.models.outcome import MAX_REASON_CHARS
from perago_worker.task import TaskDefinition
from tests.support import (
    BRANCH,
    REPOSITORY,
    HastyClock,
    Rig,
    child_spec,
    contents,
    eventually,
    is_running,
    put,
    raising,
    rig,
)
from tests.tasks.probe import files, look, plain

FILES = TaskDefinition.of(files)
LOOK = TaskDefinition.of(look)
PLAIN = TaskDefinition.of(plain)
AWAY = StoreUnavailable("the store is away")
RETRIED = ["FAILED", "SCHEDULED"]
ENDED = ["FAILED_WITH_TERMINAL_ERROR"]
DONE = ["COMPLETED"]


class Nothing(BaseModel):
    """No parameters, no result."""


@task(
    name="pipeline.needs",
    owner_email="tests@example.com",
    workspace=WorkspaceSpec(prefix="data", pre=[require_file("missing.csv")]),
    controls=TaskControls(),
)
def needs(workspace: Path, params: Nothing) -> Nothing:
    """Need a file that is not there."""
    raise AssertionError("the body must not run")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Rig]:
    """The local pair, on a clock whose waits end at once."""
    with rig(tmp_path, clock=HastyClock()) as opened:
        yield opened
        assert opened.leftovers() == []


@pytest.fixture(scope="module")
def children() -> Iterator[dict[str, ProcessBody]]:
    """Warm children, by task."""
    bodies: dict[str, ProcessBody] = {}
    yield bodies
    for body in bodies.values():
        body.close()


@dataclass
class Ran:
    """An attempt that is over."""

    lease: Lease
    outcome: Outcome

    @property
    def code(self) -> str:
        return self.outcome.code


class Run:
    """Carries out attempts, in warm children unless told otherwise."""

    def __init__(self, here: Rig, children: dict[str, ProcessBody]) -> None:
        self._here = here
        self._children = children

    def __call__(
        self,
        definition: TaskDefinition = FILES,
        *,
        in_thread: bool = False,
        prepare: Callable[[Lease], object] = lambda _: None,
        stop: tuple[StopCause, Callable[[], bool]] | None = None,
        **order: Any,
    ) -> Ran:
        """Submit a task, poll it, carry it out.

        Args:
            prepare: Called with the lease before the attempt begins.
            stop: Why to stop the attempt, and when.
        """
        self._here.submit(definition, **order)
        return self.next(definition, in_thread=in_thread, prepare=prepare, stop=stop)

    def next(
        self,
        definition: TaskDefinition = FILES,
        *,
        in_thread: bool = False,
        prepare: Callable[[Lease], object] = lambda _: None,
        stop: tuple[StopCause, Callable[[], bool]] | None = None,
    ) -> Ran:
        """Carry out what waits in the queue."""
        lease = self._here.poll(definition)
        prepare(lease)
        body = None if in_thread else self._child(definition)
        attempt = self._here.attempt(definition, lease, body)
        stopper = threading.Thread(target=self._stop, args=(attempt.stop.trip, stop))
        stopper.start()
        outcome = run_attempt(attempt)
        stopper.join()
        return Ran(lease, outcome)

    @staticmethod
    def _stop(
        trip: Callable[..., object], stop: tuple[StopCause, Callable[[], bool]] | None
    ) -> None:
        if stop is not None:
            eventually(stop[1])
            trip(stop[0], "the test says so")

    def _child(self, definition: TaskDefinition) -> BodyRunner:
        if definition.name not in self._children:
            self._children[definition.name] = ProcessBody(
                child_spec(definition.name), on_started=lambda *_: None
            )
        return self._children[definition.name]


@pytest.fixture
def run(here: Rig, children: dict[str, ProcessBody]) -> Run:
    return Run(here, children)


def statuses(here: Rig) -> list[str]:
    """Return how the queue shows the tasks, oldest first."""
    return [task.status for task in reversed(here.local_queue.tasks())]


def reason(here: Rig, ran: Ran) -> str:
    return here.task(ran.lease.task_id).reason


class TestCompleted:
    def test_a_change_is_published(self, here: Rig, run: Run) -> None:
        ran = run(do="write", path="sub/out.txt", text="new")

        assert (ran.code, statuses(here)) == (Code.PUBLISHED, DONE)
        assert ran.outcome.output_ref == here.head().id
        assert contents(here.local_store, here.head().id) == {
            "data/in.txt": b"input",
            "data/sub/out.txt": b"new",
            "other/kept.txt": b"kept",
        }
        assert here.task(ran.lease.task_id).output == {
            "result": {"did": "write", "detail": {}},
            "workspace": here.workspace_input(ref=here.head().id),
        }

    def test_a_deletion_is_published(self, here: Rig, run: Run) -> None:
        assert run(do="delete", path="in.txt").code == Code.PUBLISHED
        assert contents(here.local_store, here.head().id) == {"other/kept.txt": b"kept"}

    @pytest.mark.parametrize("do", ["nothing", "rewrite"])
    def test_no_change_is_no_publication(self, here: Rig, run: Run, do: str) -> None:
        ran = run(do=do)

        assert (ran.code, statuses(here)) == (Code.NO_OP, DONE)
        assert here.head() == here.start
        assert ran.outcome.output_ref == here.start.id
        assert not here.store.calls("stage")

    def test_a_read_only_task_publishes_nothing(self, here: Rig, run: Run) -> None:
        ran = run(LOOK)

        assert (ran.code, statuses(here)) == (Code.READ_ONLY, DONE)
        output = here.task(ran.lease.task_id).output
        assert output["result"]["detail"] == {"names": ["in.txt"]}
        assert output["workspace"] == here.workspace_input()
        assert not here.store.calls("history")

    def test_a_read_only_task_may_work_on_any_commit(self, here: Rig, run: Run) -> None:
        """Where the branch is by now is no concern of it."""
        put(here.local_store, {"data/in.txt": "newer"})

        assert run(LOOK).code == Code.READ_ONLY

    def test_a_task_without_workspace_asks_the_store_nothing(self, here: Rig, run: Run) -> None:
        ran = run(PLAIN, do="nothing")

        assert (ran.code, statuses(here)) == (Code.NO_WORKSPACE, DONE)
        assert here.task(ran.lease.task_id).output == {"result": {"did": "nothing", "detail": {}}}
        assert not here.store.calls("resolve")

    @pytest.mark.parametrize("spelling", ["ref_type", "refType"])
    def test_the_output_is_spelled_like_the_input(self, here: Rig, run: Run, spelling: str) -> None:
        given = here.workspace_input()
        given[spelling] = given.pop("ref_type")

        ran = run(workspace=given)

        output = here.task(ran.lease.task_id).output["workspace"]
        assert output == {**given, "ref": here.head().id}

    def test_an_abbreviated_commit_is_found(self, here: Rig, run: Run) -> None:
        ran = run(workspace=here.workspace_input(ref=here.start.id[:10]))

        assert ran.code == Code.PUBLISHED

    def test_the_next_task_goes_on_from_the_output(self, here: Rig, run: Run) -> None:
        first = run(path="one.txt")
        output = here.task(first.lease.task_id).output["workspace"]

        second = run(path="two.txt", workspace=output)

        assert second.code == Code.PUBLISHED
        assert {"data/one.txt", "data/two.txt"} <= set(contents(here.local_store, here.head().id))


class TestTerminal:
    def check(self, here: Rig, ran: Ran, code: Code) -> str:
        """Check that the task ended for good, with nothing published; return the reason."""
        assert (ran.outcome.kind, ran.code, statuses(here)) == ("terminal", code, ENDED)
        assert ran.outcome.output is None
        said = reason(here, ran)
        assert said.startswith(f"{code}: ")
        assert len(said) <= MAX_REASON_CHARS
        assert str(here.root) not in said
        return said

    @pytest.mark.parametrize(
        ("params", "said"),
        [
            ({"do": "no such deed"}, "do: Input should be 'write'"),
            ("text", "'params' is a str"),
            (None, "'params' is a NoneType"),
            ([], "'params' is a list"),
        ],
    )
    def test_invalid_params(self, here: Rig, run: Run, params: object, said: str) -> None:
        ran = run(params=params)

        assert said in self.check(here, ran, Code.PARAMS_INVALID)
        assert not here.store.calls("resolve")

    @pytest.mark.parametrize(
        ("workspace", "said"),
        [
            ("text", "the object: Input should be"),
            ({"repository": REPOSITORY}, "branch: Field required"),
            ({"ref_type": "branch"}, "ref_type: Input should be 'commit'"),
            ({"ref_type": "commit", "refType": "commit"}, "are the same field"),
            ({"ref": " "}, "is blank"),
            ({"more": "x"}, "more: Extra inputs are not permitted"),
        ],
    )
    def test_a_malformed_workspace(self, here: Rig, run: Run, workspace: Any, said: str) -> None:
        if isinstance(workspace, dict) and "repository" not in workspace:
            workspace = here.workspace_input(**workspace)

        ran = run(workspace=workspace)

        assert said in self.check(here, ran, Code.WORKSPACE_INVALID)

    @pytest.mark.parametrize(
        "fields",
        [{"repository": "none"}, {"branch": "none"}, {"ref": "0" * 40}, {"ref": BRANCH}],
    )
    def test_what_does_not_exist(self, here: Rig, run: Run, fields: dict[str, str]) -> None:
        ran = run(workspace=here.workspace_input(**fields))

        said = self.check(here, ran, Code.NOT_FOUND)
        assert next(iter(fields.values()))[:12] in said

    def test_a_pre_guard(self, here: Rig, run: Run) -> None:
        ran = run(TaskDefinition.of(needs), in_thread=True, params={})

        assert "missing.csv" in self.check(here, ran, Code.PRE_GUARD)

    def test_a_terminal_error_of_the_body(self, here: Rig, run: Run) -> None:
        said = self.check(here, run(do="terminal"), Code.TASK_TERMINAL)

        assert said == "task_terminal: this input can never work"

    def test_a_branch_that_had_moved_is_found_out_before_any_work(
        self, here: Rig, run: Run
    ) -> None:
        foreign = put(here.local_store, {"data/foreign.txt": "theirs"})

        ran = run()

        assert "has moved since the input commit" in self.check(here, ran, Code.HEAD_MOVED)
        assert not here.store.calls("list")
        assert here.head() == foreign

    @pytest.mark.parametrize("do", ["write", "nothing"])
    def test_a_branch_that_moves_meanwhile(self, here: Rig, run: Run, do: str) -> None:
        """Also where nothing was changed: what is on the branch was not looked at."""
        here.store.after("list", lambda: put(here.local_store, {"data/x": "theirs"}), nth=1)

        ran = run(do=do)

        self.check(here, ran, Code.HEAD_MOVED)
        assert here.publications() == 1

    def test_a_result_over_the_limit(self, here: Rig, run: Run) -> None:
        ran = run(PLAIN, do="huge")

        assert "write it to the workspace" in self.check(here, ran, Code.OUTPUT_TOO_LARGE)

    def test_a_workspace_over_the_limit(self, here: Rig, run: Run) -> None:
        here.limits = Limits(objects=0)

        self.check(here, run(), Code.WORKSPACE_TOO_LARGE)

    @pytest.mark.parametrize("method", ["history", "list", "stage", "stage.commit"])
    def test_a_refusal_of_the_store(self, here: Rig, run: Run, method: str) -> None:
        here.store.before(method, raising(StoreRefused("no permission")))

        assert "no permission" in self.check(here, run(), Code.STORE_REFUSED)

    def test_a_report_that_the_queue_does_not_take(self, here: Rig, run: Run) -> None:
        """The result is on the branch, and the reason says which commit it is."""
        here.queue.before("complete", raising(QueueRefused("too large")), nth=1)

        ran = run()

        said = self.check(here, ran, Code.REPORT_REFUSED)
        assert "too large" in said
        assert here.head().id[:12] in said


class TestFailed:
    def check(self, here: Rig, ran: Ran, code: Code) -> str:
        """Check that the task will be tried again, with nothing published; return the reason."""
        assert (ran.outcome.kind, ran.code, statuses(here)) == ("failed", code, RETRIED)
        assert here.head() == here.start
        said = reason(here, ran)
        assert said.startswith(f"{code}: ")
        assert len(said) <= MAX_REASON_CHARS
        assert str(here.root) not in said
        return said

    @pytest.mark.parametrize(
        ("do", "code", "said"),
        [
            ("fail", Code.TASK_FAILED, "task_failed: the upstream service is away"),
            (
                "raise",
                Code.TASK_EXCEPTION,
                "No such file or directory: 'workspace/there is no such file'",
            ),
            ("wrong_result", Code.RESULT_INVALID, "the body did not return what it declares"),
            ("forbidden", Code.POST_GUARD, "*.forbidden"),
            ("symlink", Code.FILE_REFUSED, "file 'link' cannot be published: it is a symbolic"),
            ("fifo", Code.FILE_REFUSED, "file 'pipe' cannot be published: it is a named pipe"),
            ("hardlink", Code.FILE_REFUSED, "file 'hard' cannot be published: it is a hard link"),
            ("die", Code.CHILD_DIED, "killed by SIGKILL (peak memory"),
            ("exit", Code.CHILD_DIED, "ended with exit code 3"),
        ],
    )
    def test_what_a_body_does_wrong(
        self, here: Rig, run: Run, do: str, code: Code, said: str
    ) -> None:
        assert said in self.check(here, run(do=do), code)

    def test_an_exceptions_traceback_is_in_the_log_of_the_task(self, here: Rig, run: Run) -> None:
        ran = run(do="raise")

        log = "\n".join(here.task(ran.lease.task_id).log)
        assert "Traceback (most recent call last)" in log
        assert "in _raise" in log
        assert log in here.recorder.of(AttemptFinished)[0].error

    def test_a_body_that_takes_too_long(self, here: Rig, run: Run, tmp_path: Path) -> None:
        here.body_timeout_s = 0.05
        begun = tmp_path / "begun"

        ran = run(do="loop", signal_file=str(begun))

        self.check(here, ran, Code.BODY_TIMEOUT)
        assert not begun.exists() or not is_running(int(begun.read_text() or "0"))

    @pytest.mark.parametrize(
        ("method", "code"),
        [
            ("history", Code.TRANSFER_FAILED),
            ("list", Code.TRANSFER_FAILED),
            ("read", Code.TRANSFER_FAILED),
            ("stage", Code.STAGE_FAILED),
            ("stage.write", Code.STAGE_FAILED),
            ("stage.commit", Code.STAGE_FAILED),
            ("publish", Code.PUBLISH_FAILED),
        ],
    )
    def test_a_store_that_stays_away(self, here: Rig, run: Run, method: str, code: Code) -> None:
        here.store.before(method, raising(AWAY))

        reason = self.check(here, run(), code)
        assert "the store is away" in reason
        assert "did not answer" not in reason  # it may have, and what it said is in the reason

    def test_a_queue_that_cannot_confirm_the_lease(self, here: Rig, run: Run) -> None:
        here.queue.before("observe", raising(QueueUnavailable("the queue is away")))

        assert "the queue is away" in self.check(here, run(), Code.PUBLISH_FAILED)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
    def test_a_full_disk(self, here: Rig, run: Run, number: int) -> None:
        here.store.before("read", raising(OSError(number, "No room", str(here.root))))

        self.check(here, run(), Code.DISK_FULL)

    @pytest.mark.parametrize(
        "error", [PermissionError(13, "Permission denied", "PLACE"), ZeroDivisionError("oops")]
    )
    def test_a_failure_of_the_worker_itself(self, here: Rig, run: Run, error: Exception) -> None:
        if isinstance(error, OSError):
            error.filename = str(here.root)
        here.store.before("history", raising(error))

        ran = run()

        said = self.check(here, ran, Code.WORKER_ERROR)
        assert f"the worker failed: {type(error).__name__}" in said
        assert "Traceback" in here.recorder.of(AttemptFinished)[0].error

    def test_a_directory_that_cannot_be_made(self, here: Rig, run: Run) -> None:
        """The path that the kernel complains about is nobody's business."""
        here.directories.close()
        (here.root / "work" / "owner").write_text("in the way")

        ran = run()

        assert (ran.outcome.kind, ran.code) == ("failed", Code.WORKER_ERROR)
        assert str(here.root) not in reason(here, ran)
        (here.root / "work" / "owner").unlink()
        here.directories.open()

    def test_secrets_are_taken_out_of_reasons_and_logs(self, here: Rig, run: Run) -> None:
        here.redact = lambda text: text.replace("upstream", "***")

        ran = run(do="fail")

        task = here.task(ran.lease.task_id)
        assert task.reason == "task_failed: the *** service is away"
        assert "upstream" not in "".join(task.log)


class TestTriesAgain:
    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize(
        "method",
        ["history", "list", "read", "stage", "stage.write", "stage.commit", "publish"],
    )
    def test_one_lost_answer_costs_nothing(
        self, here: Rig, run: Run, method: str, when: str
    ) -> None:
        error = PublishUnknown("lost") if method == "publish" else AWAY
        getattr(here.store, when)(method, raising(error), nth=1)

        ran = run()

        assert (ran.code, statuses(here)) == (Code.PUBLISHED, DONE)
        assert here.publications() == 1

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_one_lost_report_costs_nothing(self, here: Rig, run: Run, when: str) -> None:
        getattr(here.queue, when)("complete", raising(QueueUnavailable("lost")), nth=1)

        assert (run().code, statuses(here)) == (Code.PUBLISHED, DONE)

    def test_a_stage_that_cannot_be_dropped_is_told(self, here: Rig, run: Run) -> None:
        here.store.before("drop_stage", raising(AWAY))

        assert run().code == Code.PUBLISHED

        (event,) = here.recorder.of(StageLeft)
        assert here.local_store.stages(REPOSITORY) == [event.name]
        here.local_store.drop_stage(REPOSITORY, event.name)

    def test_a_stage_is_dropped_at_a_second_try(self, here: Rig, run: Run) -> None:
        here.store.before("drop_stage", raising(AWAY), nth=1)

        assert run().code == Code.PUBLISHED
        assert not here.recorder.of(StageLeft)


class TestUnreported:
    def take_away(self, here: Rig) -> Callable[[Lease], object]:
        """Return what lets another worker have the task once the workspace is being listed."""

        def prepare(lease: Lease) -> None:
            def act() -> None:
                here.local_queue.give_back(lease)
                with closing(here.another_queue("another")) as queue:
                    assert queue.poll(lease.task_type, count=1, wait_s=0)

            here.store.before("list", act, nth=1)

        return prepare

    def test_a_lease_that_was_lost_publishes_and_reports_nothing(self, here: Rig, run: Run) -> None:
        """Nobody noticed while the body ran; the last look before publishing does."""
        ran = run(prepare=self.take_away(here))

        assert (ran.outcome.kind, ran.code) == ("superseded", Code.SUPERSEDED)
        assert statuses(here) == ["IN_PROGRESS"]
        assert here.head() == here.start
        assert not here.queue.calls("complete")
        assert not here.recorder.of(AttemptFinished)[0].reported

    def test_a_workflow_that_was_ended_gets_no_publication(self, here: Rig, run: Run) -> None:
        def prepare(lease: Lease) -> None:
            here.store.before(
                "list", lambda: here.local_queue.terminate_workflow(lease.workflow_id, "why")
            )

        ran = run(prepare=prepare)

        assert (ran.outcome.kind, ran.code) == ("cancelled", Code.CANCELLED)
        assert statuses(here) == ["CANCELED"]
        assert here.head() == here.start
        assert not here.queue.calls("complete")

    @pytest.mark.parametrize("cause", [StopCause.SUPERSEDED, StopCause.CANCELLED])
    def test_the_body_is_ended_when_a_heartbeat_finds_the_lease_lost(
        self, here: Rig, run: Run, tmp_path: Path, cause: StopCause
    ) -> None:
        begun = tmp_path / "begun"

        ran = run(do="wait", signal_file=str(begun), stop=(cause, begun.exists))

        assert ran.code == cause.value
        assert not here.queue.calls("complete")
        assert not here.queue.calls("give_back")
        assert here.head() == here.start

    @pytest.mark.parametrize("cause", [StopCause.DRAINED, StopCause.SHUT_DOWN])
    def test_a_worker_that_stops_gives_the_task_back(
        self, here: Rig, run: Run, tmp_path: Path, cause: StopCause
    ) -> None:
        begun = tmp_path / "begun"

        ran = run(do="wait", signal_file=str(begun), stop=(cause, begun.exists))

        assert (ran.outcome.kind, ran.code) == ("released", cause.value)
        assert statuses(here) == ["SCHEDULED"]
        again = here.poll(FILES)
        assert (again.task_id, again.retry_count) == (ran.lease.task_id, 0)

    def test_what_can_be_published_when_the_worker_stops_is(self, here: Rig, run: Run) -> None:
        """The work is done; giving it back would do it twice."""
        stopping = threading.Event()
        here.store.before("publish", stopping.set)
        here.store.after("publish", lambda: None)

        ran = run(stop=(StopCause.DRAINED, stopping.is_set))

        assert (ran.code, statuses(here)) == (Code.PUBLISHED, DONE)


class TestRetry:
    def crash_before_report(self, here: Rig, run: Run, **order: Any) -> Ran:
        """Publish, and fail to report it until the task has been taken away: as in a crash."""

        def lose_the_report() -> None:
            here.shut_down.set()
            raise QueueUnavailable("the worker ends here")

        here.queue.before("complete", lose_the_report, nth=1)
        ran = run(**order)
        here.shut_down.clear()
        assert statuses(here) == ["IN_PROGRESS"]
        return ran

    @pytest.mark.key("publish.on_abandoned")
    def test_a_published_result_that_was_never_reported_is_adopted(
        self, here: Rig, run: Run
    ) -> None:
        """By the next delivery of the same try, without running the body again."""
        first = self.crash_before_report(here, run, do="write", text="once")
        here.local_queue.give_back(first.lease)
        head = here.head()

        ran = run.next()

        assert (ran.code, statuses(here)) == (Code.ADOPTED, DONE)
        assert here.head() == head
        assert here.task(ran.lease.task_id).output["workspace"]["ref"] == head.id
        assert here.task(ran.lease.task_id).output["result"]["did"] == "write"
        assert [e.step for e in here.recorder.of(StepFinished)].count("body") == 1

    def test_a_retry_that_runs_again_replaces_what_was_left(self, here: Rig, run: Run) -> None:
        first = self.crash_before_report(here, run, do="write")
        here.local_queue.complete(first.lease, Outcome(kind="failed", code="x", reason="lost"))
        here.queue.before("ended", raising(QueueUnavailable("away")))  # so that it is run again

        ran = run.next()

        assert ran.code == Code.REPLACED
        assert here.publications() == 2
        assert contents(here.local_store, here.head().id)["data/out.txt"] == b"written"
        assert here.head().parents[0] == first.outcome.output_ref

    def test_what_is_left_on_the_branch_is_named_when_the_retry_fails(
        self, here: Rig, run: Run
    ) -> None:
        first = self.crash_before_report(here, run)
        here.local_queue.complete(first.lease, Outcome(kind="failed", code="x", reason="lost"))
        here.queue.before("ended", raising(QueueUnavailable("away")))
        here.store.before("read", raising(AWAY))
        here.directories.make_room()

        ran = run.next()

        assert ran.code == Code.TRANSFER_FAILED
        assert f"branch 'main' shows {here.head().id[:12]}" in reason(here, ran)


class TestEvents:
    @pytest.mark.parametrize("definition", [FILES, LOOK, PLAIN], ids=lambda d: d.name)
    def test_every_step_is_told_in_order(
        self, here: Rig, run: Run, definition: TaskDefinition
    ) -> None:
        run(definition)

        steps = [event.step for event in here.recorder.of(StepFinished)]
        assert steps == [*(step.name for step in steps_of(definition)), "report"]
        assert set(steps) <= set(STEP_NAMES)
        assert len(here.recorder.of(AttemptStarted)) == 1
        (finished,) = here.recorder.of(AttemptFinished)
        assert finished.reported
        assert here.recorder.events[0] == here.recorder.of(AttemptStarted)[0]
        assert here.recorder.events[-1] == finished

    def test_the_step_that_failed_says_so_and_is_the_last(self, here: Rig, run: Run) -> None:
        run(do="fail")

        steps = {event.step: event.error for event in here.recorder.of(StepFinished)}
        assert steps["body"] == "RetryableAttemptError"
        assert list(steps)[-2:] == ["body", "report"]
        assert not any(error for step, error in steps.items() if step != "body")

    def test_transfers_are_counted(self, here: Rig, run: Run) -> None:
        run(text="12345")

        down, up = here.recorder.of(Transferred)
        assert (down.direction, down.objects, down.bytes) == ("download", 1, 5)
        assert (up.direction, up.objects, up.bytes, up.skipped_bytes) == ("upload", 1, 5, 5)

    def test_what_the_body_says_is_in_the_log_of_the_task(self, here: Rig, run: Run) -> None:
        ran = run(do="print")

        assert sorted(here.task(ran.lease.task_id).log) == [
            "1/2 half",
            "to standard error",
            "to standard output",
            "to the task log",
        ]

    def test_stages_are_dropped_after_the_report(self, here: Rig, run: Run) -> None:
        """Whoever waits for the result does not wait for the tidying."""
        order: list[str] = []
        here.queue.after("complete", lambda: order.append("report"))
        here.store.before("drop_stage", lambda: order.append("drop"))

        run()

        assert order == ["report", "drop"]


@pytest.mark.parametrize("do", ["write", "nothing", "fail", "print"])
def test_bodies_in_threads_end_in_the_same_ways(here: Rig, run: Run, do: str) -> None:
    in_child = run(do=do).outcome
    expected = {"write": Code.PUBLISHED, "nothing": Code.NO_OP, "print": Code.NO_OP}

    assert in_child.code == expected.get(do, Code.TASK_FAILED)
    if do == "write":
        here.start = here.head()
    else:
        here.local_queue.poll(FILES.name, count=1, wait_s=0)
    in_thread = run(do=do, path="another.txt", in_thread=True).outcome
    assert (in_thread.kind, in_thread.code) == (in_child.kind, in_child.code)
