"""The daemon over the embedded pair, as an operator runs it."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.worker import (
    DEADLINE_S,
    Worker,
    child_pids,
    command,
    fetch,
    recorded_tasks,
    run_command,
    started_worker,
    submit,
    write_local_config,
)
from tests.support import eventually


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_local_config(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "data").mkdir(parents=True)
    (folder / "data/in.txt").write_text("input")
    return folder


def submit_files(config: Path, data: Path, **order: object) -> str:
    """Queue the workspace task of the probe module."""
    return submit(config, "probe.files", order, files=data)


def git(config: Path, *arguments: str) -> str:
    """Ask plain git about the repository."""
    repository = config.parent / "var/repositories/repo.git"
    return subprocess.run(
        ["git", f"--git-dir={repository}", *arguments], capture_output=True, text=True, check=True
    ).stdout


def leftovers(config: Path) -> list[str]:
    """Return the attempt directories and hidden stages that are still there."""
    workspaces = config.parent / "var/workspaces"
    refs = git(config, "for-each-ref", "--format=%(refname)", "refs/perago").split()
    return [*(p.name for p in workspaces.iterdir()), *refs]


def test_workspace_task_is_published_as_a_merge_of_input_and_stage(
    config: Path, data: Path
) -> None:
    """The branch's head has the input as first parent and the staged commit as second."""
    submit_files(config, data, do="write")
    before = git(config, "rev-parse", "main").strip()
    done = run_command(config, "--until-idle")
    assert done.returncode == 0, done.stderr
    (record,) = recorded_tasks(config)
    assert record["status"] == "COMPLETED"
    head = git(config, "rev-parse", "main").strip()
    assert record["output"]["workspace"]["ref"] == head
    first, second = git(config, "show", "-s", "--format=%P", head).split()
    assert first == before
    assert git(config, "show", "-s", "--format=%P", second).strip() == before
    assert git(config, "show", f"{head}:data/out.txt") == "written"
    assert f"COMPLETED  {'':0}" in done.stdout
    assert head in done.stdout
    assert leftovers(config) == []


def test_task_without_a_workspace(config: Path) -> None:
    submit(config, "probe.plain", {"do": "nothing"})
    assert run_command(config, "--until-idle").returncode == 0
    (record,) = recorded_tasks(config)
    assert record["output"] == {"result": {"did": "nothing", "detail": {}}}


def test_read_only_task_answers_with_its_input_ref(config: Path, data: Path) -> None:
    submit(config, "probe.look", {"do": "nothing"}, files=data)
    assert run_command(config, "--until-idle").returncode == 0
    (record,) = recorded_tasks(config)
    assert record["output"]["workspace"] == record["input"]["workspace"]
    assert record["output"]["result"]["detail"] == {"names": ["in.txt"]}


def test_what_a_body_says_reaches_the_log_and_the_task(config: Path) -> None:
    submit(config, "probe.plain", {"do": "print"})
    with started_worker(config, "--until-idle") as worker:
        assert worker.wait_exit() == 0
        said = {(e["stream"], e["line"]) for e in worker.all_events("body.output")}
    expected = {
        ("stdout", "to standard output"),
        ("stderr", "to standard error"),
        ("log", "to the task log"),
        ("progress", "1/2 half"),
    }
    assert said == expected
    (record,) = recorded_tasks(config)
    assert set(record["log"]) == {line for _, line in expected}


def test_of_a_body_that_ends_the_worker_the_log_has_what_there_was(tmp_path: Path) -> None:
    config = write_local_config(tmp_path, extra='[tasks."probe.plain"]\nisolation = "thread"\n')
    task_id = submit(config, "probe.plain", {"do": "exit"})
    with started_worker(config) as worker:
        assert worker.wait_exit() == 3
        assert worker.all_events("attempt.started", task_id=task_id)
        assert worker.all_events("body.output", task_id=task_id, line="about to exit")


def test_sigterm_lets_the_running_body_finish_and_publish(
    config: Path, data: Path, tmp_path: Path
) -> None:
    """No poll is sent after the signal; the attempt is published and reported; exit code 0."""
    begun = tmp_path / "begun"
    task_id = submit_files(config, data, do="wait", signal_file=str(begun))
    with started_worker(config) as worker:
        worker.wait_for(begun.exists, "begun body")
        worker.signal()
        worker.wait_event("worker.state_changed", state="draining")
        polls = len(worker.all_events("poll.finished"))
        begun.unlink()
        assert worker.wait_exit() == 0
        in_flight = len(worker.all_events("poll.finished")) - polls
    assert in_flight <= 4, "a poller sent a poll after the signal"
    (record,) = recorded_tasks(config)
    assert (record["task_id"], record["status"]) == (task_id, "COMPLETED")
    assert git(config, "show", "main:data/out.txt") == "written"
    assert leftovers(config) == []


def test_sigterm_ends_a_worker_whose_log_nobody_reads(config: Path) -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen(command(config), stdout=writing, stderr=subprocess.DEVNULL)
    try:
        submit(config, "probe.plain", {"do": "nothing"})
        eventually(lambda: recorded_tasks(config)[0]["status"] == "COMPLETED")
        fill(writing)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)


def fill(writing: int) -> None:
    """Write to a pipe until it takes nothing more."""
    # Opened anew: not to wait is a property of the open file, which the worker has, too.
    own = os.open(f"/proc/self/fd/{writing}", os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(own, b"\n")
    os.close(own)


@pytest.mark.key("worker.drain_timeout", "worker.kill_grace")
def test_sigterm_past_the_drain_timeout_gives_the_task_back(data: Path, tmp_path: Path) -> None:
    """The body is ended, nothing is published, no retry is used, the task waits in the queue."""
    config = write_local_config(tmp_path, drain_timeout="100ms")
    begun = tmp_path / "begun"
    submit_files(config, data, do="loop", signal_file=str(begun))
    before = git(config, "rev-parse", "main")
    with started_worker(config) as worker:
        worker.wait_for(begun.exists, "begun body")
        body = int(begun.read_text())
        worker.signal()
        assert worker.wait_exit() == 0
        worker.wait_event("attempt.finished", outcome="released")
    assert not Path(f"/proc/{body}").exists()
    (record,) = recorded_tasks(config)
    assert (record["status"], record["retry_count"]) == ("SCHEDULED", 0)
    assert git(config, "rev-parse", "main") == before
    assert leftovers(config) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_second_signal_ends_the_worker_at_once(
    config: Path, data: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    begun = tmp_path / "begun"
    submit_files(config, data, do="loop", signal_file=str(begun))
    with started_worker(config) as worker:
        worker.wait_for(begun.exists, "begun body")
        body = int(begun.read_text())
        worker.signal(number)
        worker.wait_event("worker.state_changed", state="draining")
        worker.signal(number)
        assert worker.wait_exit() == code
    assert not Path(f"/proc/{body}").exists()
    (record,) = recorded_tasks(config)
    assert record["status"] == "SCHEDULED"


@pytest.mark.long
def test_killed_worker_leaves_no_body_and_the_next_one_completes_the_task(
    config: Path, data: Path, tmp_path: Path
) -> None:
    """SIGKILL: the child dies with its parent; the lease runs out; the retry is published."""
    begun = tmp_path / "begun"
    submit(
        config,
        "probe.short_lease",
        {"do": "loop", "signal_file": str(begun), "seconds": 30},
        files=data,
    )
    with started_worker(config) as worker:
        worker.wait_for(begun.exists, "begun body")
        children = child_pids(worker.process.pid)
        worker.signal(signal.SIGKILL)
        worker.wait_exit()
        worker.wait_for(lambda: not any(map(_runs, children)), "end of the children")
    (record,) = recorded_tasks(config)
    assert record["status"] == "IN_PROGRESS"
    with started_worker(config) as successor:
        successor.wait_event("gc.removed", kind="directory")
        successor.signal()
        assert successor.wait_exit() == 0
    assert leftovers(config) == []


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.key("logging.format", "logging.level", "publish.heartbeat_interval")
@pytest.mark.long
def test_deaf_body_does_not_delay_heartbeats(config: Path, data: Path, tmp_path: Path) -> None:
    """A body that holds the interpreter and ignores SIGTERM keeps its lease of three seconds."""
    begun = tmp_path / "begun"
    submit(
        config,
        "probe.short_lease",
        {"do": "loop", "signal_file": str(begun)},
        files=data,
    )
    with started_worker(config) as worker:
        worker.wait_for(begun.exists, "begun body")
        worker.wait_event("heartbeat.sent", count=6, outcome="held")
        begun.unlink()
        worker.wait_event("attempt.finished", outcome="completed")
        assert worker.all_events("heartbeat.sent", outcome="lost") == []
    (record,) = recorded_tasks(config)
    assert record["poll_count"] == 1


@pytest.mark.key("http.listen")
def test_probes_and_metrics(config: Path) -> None:
    with started_worker(config) as worker:
        address = _address(worker)
        worker.wait_event("poll.finished", count=8)
        assert fetch(f"{address}/livez") == (200, "ok\n")
        assert fetch(f"{address}/readyz") == (200, "ok\n")
        status, metrics = fetch(f"{address}/metrics")
        assert status == 200
        assert 'perago_worker_slots{task="probe.files"} 1.0' in metrics


def _address(worker: Worker) -> str:
    listening = worker.wait_event("http.listening")
    return f"http://{listening['address']}"


def test_stray_processes_of_a_body_are_ended(config: Path, data: Path) -> None:
    submit_files(config, data, do="stray")
    assert run_command(config, "--until-idle").returncode == 0
    (record,) = recorded_tasks(config)
    assert record["status"] == "COMPLETED"
    assert not any(map(_runs, record["output"]["result"]["detail"]["pids"]))


def test_body_sees_nothing_of_the_workers_environment(config: Path) -> None:
    """Neither variables beyond the allowed ones nor open files but its own."""
    submit(config, "probe.plain", {"do": "environment"})
    done = run_command(config, "--until-idle", env={"SECRET_TOKEN": "canary"})
    assert done.returncode == 0
    (record,) = recorded_tasks(config)
    seen = record["output"]["result"]["detail"]
    assert "canary" not in str(seen)
    assert not any("queue.db" in entry for entry in seen["fds"])
    assert str(config.parent / "var/workspaces") in seen["cwd"]


def test_wrong_configuration_names_every_mistake_with_its_line(tmp_path: Path) -> None:
    """Five mistakes, five lines, and the nearest valid name for what is misspelt; exit code 2."""
    config = tmp_path / "worker.toml"
    config.write_text(
        "[worker]\n"
        "modules = []\n"
        'drain_timeuot = "30s"\n'
        "[queue]\n"
        'kind = "conductor"\n'
        'url = "not a url"\n'
        "[stroe]\n"
        'kind = "local"\n'
        "[logging]\n"
        'level = "loud"\n'
    )
    done = run_command(config, "--until-idle")
    assert done.returncode == 2
    problems = [line.partition(": ")[0] for line in done.stderr.splitlines()]
    assert problems == [f"{config}:{line}" for line in (2, 3, 6, 7, 10)], done.stderr
    assert "drain_timeout" in done.stderr
    assert "'store'" in done.stderr or '"store"' in done.stderr or "[store]" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_workers_share_a_queue(config: Path, data: Path, tmp_path: Path) -> None:
    """Every task is carried out once, whichever worker gets it."""
    ids = {submit(config, "probe.plain", {"do": "nothing"}) for _ in range(6)}
    with started_worker(config) as one, started_worker(config) as other:
        done = one.wait_for(
            lambda: [
                event
                for worker in (one, other)
                for event in worker.all_events("attempt.finished", outcome="completed")
            ][5:],
            "sixth finished attempt",
        )
        assert done
    records = recorded_tasks(config)
    assert {r["task_id"] for r in records} == ids
    assert all(r["status"] == "COMPLETED" and r["poll_count"] == 1 for r in records)
    assert os.getpid() not in {r["worker_id"] for r in records}
