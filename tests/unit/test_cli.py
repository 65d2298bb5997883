"""The command: what it prints, and the code it ends with. The daemon itself is an e2e test."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from perago_worker._version import __version__
from perago_worker.adapters.local.queue import LocalQueue
from perago_worker.adapters.system import SystemClock
from perago_worker.cli import app
from perago_worker.cli.drift import changes
from perago_worker.cli.exits import Exit, ServiceRefusedError, exit_code
from perago_worker.errors import (
    ConfigError,
    NotFound,
    QueueUnavailable,
    StoreUnavailable,
    TaskDefinitionError,
)
from perago_worker.models import Outcome

CONFIG = """\
[worker]
modules = ["cli_tasks"]
[queue]
kind = "local"
[store]
kind = "local"
"""

MODULE = """\
from pathlib import Path
from pydantic import BaseModel
from perago_worker import PublishBudget, TaskControls, TimeoutPolicy, WorkspaceSpec, task

class Params(BaseModel):
    name: str = "x"
    count: int = 1

class Result(BaseModel):
    words: int

@task(name="demo.count", owner_email="owner@example.com", workspace=WorkspaceSpec())
def count(workspace: Path, params: Params) -> Result:
    return Result(words=3)

@task(name="demo.plain", owner_email="owner@example.com")
def plain(params: Params) -> Result:
    return Result(words=1)
"""

SHORT_LEASE = """
@task(
    name="demo.short",
    owner_email="owner@example.com",
    workspace=WorkspaceSpec(),
    controls=TaskControls(
        timeout=TimeoutPolicy(response_seconds=5),
        publish_budget=PublishBudget(
            observed_merge_p99_seconds=20,
            safety_margin_seconds=10,
            lakefs_merge_timeout_seconds=45,
            conductor_completion_timeout_seconds=15,
            worker_shutdown_grace_seconds=30,
            heartbeat_interval_seconds=10,
        ),
    ),
)
def short(workspace: Path, params: Params) -> Result:
    return Result(words=1)
"""

Run = Callable[..., "Ran"]


class Ran:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def told(self) -> tuple[int, str]:
        return self.code, self.err


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a configuration and a module of tasks; the current one."""
    (tmp_path / "worker.toml").write_text(CONFIG)
    (tmp_path / "cli_tasks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delenv("PERAGO_CONFIG", raising=False)
    yield tmp_path
    sys.modules.pop("cli_tasks", None)


@pytest.fixture
def run(project: Path) -> Run:
    """Run the command in the project."""

    def run(*arguments: str, typed: str | None = None) -> Ran:
        sys.modules.pop("cli_tasks", None)
        result = CliRunner().invoke(app, list(arguments), input=typed)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def queue(project: Path) -> Iterator[LocalQueue]:
    """The project's queue, as a worker has it."""
    (project / "var").mkdir()
    with closing(
        LocalQueue(project / "var/queue.db", clock=SystemClock(), worker_id="worker")
    ) as queue:
        yield queue


def work(queue: LocalQueue, task_type: str, outcome: Outcome) -> str:
    """Do what a worker does with the next task; return its id."""
    (lease,) = queue.poll(task_type, count=1, wait_s=0)
    queue.complete(lease, outcome)
    return lease.task_id


# --- the command itself ---------------------------------------------------------------------------


def test_version(run: Run) -> None:
    assert run("--version").out == f"perago-worker {__version__}\n"


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_commands_and_exit_codes(option: str, run: Run) -> None:
    text = run(option).out

    for word in ("check", "taskdef", "submit", "tasks", "--until-idle", "PERAGO_CONFIG"):
        assert word in text
    assert "3 queue or store unreachable" in " ".join(text.split())


def test_the_command_loads_no_adapter_before_it_needs_one() -> None:
    """They take most of a second, and completion and --help wait for every import."""
    code = (
        "import sys, perago_worker.cli; "
        "heavy = ('conductor.sdk', 'lakefs.sdk', 'local'); "
        "print([name for name in heavy if f'perago_worker.adapters.{name}' in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout == "[]\n"


def test_the_package_can_be_run() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "perago_worker", "--config", "none.toml", "check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == Exit.CONFIG
    assert ran.stderr.startswith("none.toml: there is no such file")
    assert "Traceback" not in ran.stderr


def test_a_wrong_configuration_is_told_line_by_line(project: Path, run: Run) -> None:
    (project / "worker.toml").write_text(CONFIG + "url = 1\n[htp]\n")

    assert run().told == (
        Exit.CONFIG,
        (
            "worker.toml:7: store.url: unknown key; it belongs in [queue]\n"
            "worker.toml:8: htp: unknown section; did you mean [http]?\n"
        ),
    )


def test_errors_come_with_their_traceback_at_debug_only(project: Path, run: Run) -> None:
    assert "Traceback" not in run("--config", "none.toml", "tasks").err
    assert "Traceback" in run("--log-level", "debug", "--config", "none.toml", "tasks").err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config", "other.toml", "check"),
        ("check", "--config", "other.toml"),
        ("check", "-c", "other.toml"),
        ("--config", "none.toml", "check", "--config", "other.toml"),
    ],
)
def test_the_configuration_is_named_before_or_after_the_command(
    arguments: tuple[str, ...], project: Path, run: Run
) -> None:
    (project / "worker.toml").rename("other.toml")

    ran = run(*arguments)

    assert ran.code == 0
    assert "ok: config: other.toml" in ran.out


def test_the_configuration_is_named_by_the_environment(
    project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "worker.toml").rename("other.toml")
    monkeypatch.setenv("PERAGO_CONFIG", "other.toml")

    assert run("check").code == 0
    assert run("check", "--config", "none.toml").code == Exit.CONFIG


def test_until_idle_is_refused_with_a_command(run: Run) -> None:
    assert run("--until-idle", "check").told == (
        Exit.CONFIG,
        "--until-idle is for running the worker, not for a command\n",
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError([]), 2),
        (TaskDefinitionError("x"), 5),
        (QueueUnavailable("x"), 3),
        (StoreUnavailable("x"), 3),
        (ServiceRefusedError("x"), 4),
        (NotFound("branch", "x"), 1),
    ],
)
def test_exit_codes(error: Any, code: int) -> None:
    assert exit_code(error) == code


# --- check ----------------------------------------------------------------------------------------


def test_check_says_what_is_right(run: Run) -> None:
    ran = run("check", "--connect")

    assert ran.told == (0, "")
    assert ran.out.splitlines() == [
        "ok: config: worker.toml",
        "ok: tasks: demo.count, demo.plain",
        "ok: folders: can be written to",
        "ok: queue: local, answers",
        "ok: store: local, answers",
    ]


def test_check_makes_nothing(project: Path, run: Run) -> None:
    before = set(project.iterdir())

    assert run("check").code == 0
    assert set(project.iterdir()) == before


def test_check_finds_a_module_that_cannot_be_used(project: Path, run: Run) -> None:
    (project / "cli_tasks.py").write_text("import no_such_module\n")

    ran = run("check")

    assert ran.code == Exit.TASK_MODULE
    assert "no_such_module" in ran.err
    assert "Traceback" not in ran.err
    assert "ok: folders" in ran.out


def test_check_finds_settings_of_tasks_that_do_not_exist(project: Path, run: Run) -> None:
    (project / "worker.toml").write_text(CONFIG + '[tasks."demo.plan"]\n')

    ran = run("check")

    assert ran.code == Exit.CONFIG
    assert "worker.toml:7" in ran.err
    assert "did you mean 'demo.plain'?" in ran.err


def test_check_finds_folders_that_cannot_be_written_to(project: Path, run: Run) -> None:
    (project / "var").write_text("a file")

    assert run("check").told == (
        Exit.CONFIG,
        "".join(
            f"worker.toml: {key}: {project}/var is a file; expected a folder\n"
            for key in ("workspace.root", "queue.path", "store.path")
        ),
    )


def test_check_tells_the_most_basic_problem_by_its_exit_code(project: Path, run: Run) -> None:
    (project / "cli_tasks.py").write_text("x =\n")
    (project / "var").write_text("a file")

    ran = run("check")

    assert ran.code == Exit.CONFIG
    assert "cli_tasks" in ran.err
    assert "var is a file" in ran.err


def test_check_passes_on_warnings(project: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "cli_tasks.py").write_text(MODULE + SHORT_LEASE)
    monkeypatch.setenv("PERAGO_WORKER_NAME", "x")

    ran = run("check")

    assert ran.code == 0
    first, second = ran.err.splitlines()
    assert first.startswith("warning: PERAGO_WORKER_NAME: has no effect")
    assert second.startswith("warning: ")
    assert "demo.short" in second


def test_check_as_json(project: Path, run: Run) -> None:
    (project / "worker.toml").write_text(CONFIG + "[http]\nlisten = 1\n")

    ran = run("check", "--format", "json")

    assert ran.code == Exit.CONFIG
    assert ran.err == ""
    assert json.loads(ran.out) == {
        "ok": False,
        "exit_code": 2,
        "config": "worker.toml",
        "passed": {},
        "findings": [
            {
                "check": "config",
                "level": "error",
                "message": 'got 1; expected an address with a port, such as "127.0.0.1:9464" or '
                '"[::]:9464", or "" for none',
                "where": "worker.toml:8",
                "key": "http.listen",
            }
        ],
    }


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def servers_config(project: Path) -> str:
    (project / "secret").write_text("secret")
    (project / "secret").chmod(0o600)
    return f"""\
[worker]
modules = ["cli_tasks"]
[queue]
kind = "conductor"
url = "http://127.0.0.1:{closed_port()}"
[store]
kind = "lakefs"
endpoint = "http://127.0.0.1:{closed_port()}"
access_key_id_file = "secret"
secret_access_key_file = "secret"
"""


def test_check_finds_servers_that_do_not_answer(project: Path, run: Run) -> None:
    (project / "worker.toml").write_text(servers_config(project))

    assert run("check").code == 0
    ran = run("check", "--connect")

    assert ran.code == Exit.UNREACHABLE
    assert [line.partition(":")[0] for line in ran.err.splitlines()] == ["queue", "store"]


def test_check_finds_a_queue_file_that_is_none(project: Path, run: Run) -> None:
    (project / "var").mkdir()
    (project / "var/queue.db").write_text("something else " * 100)

    ran = run("check", "--connect")

    assert ran.code == Exit.CONFIG
    assert ran.err.startswith("worker.toml: queue.path: ")


# --- taskdef --------------------------------------------------------------------------------------


def test_export_writes_all_definitions_as_a_list(run: Run) -> None:
    ran = run("taskdef", "export")

    assert ran.told == (0, "")
    assert [definition["name"] for definition in json.loads(ran.out)] == [
        "demo.count",
        "demo.plain",
    ]


def test_export_writes_those_that_are_named(run: Run) -> None:
    (definition,) = json.loads(run("taskdef", "export", "demo.plain").out)

    assert definition["name"] == "demo.plain"
    assert definition["ownerEmail"] == "owner@example.com"


def test_export_writes_files(project: Path, run: Run) -> None:
    ran = run("taskdef", "export", "--output", "a/b")

    assert ran.out.splitlines() == ["a/b/demo.count.json", "a/b/demo.plain.json"]
    assert json.loads((project / "a/b/demo.plain.json").read_text())["name"] == "demo.plain"


@pytest.mark.parametrize("command", ["export", "diff", "register"])
def test_a_task_that_does_not_exist_is_refused(command: str, run: Run) -> None:
    assert run("taskdef", command, "demo.plan").told == (
        Exit.CONFIG,
        "there is no task 'demo.plan'; did you mean 'demo.plain'?\n",
    )


def test_definitions_are_registered_once_and_then_up_to_date(run: Run, queue: LocalQueue) -> None:
    ran = run("taskdef", "diff")
    assert (ran.code, ran.out) == (1, "demo.count: not registered\ndemo.plain: not registered\n")

    ran = run("taskdef", "register", "--yes", "demo.plain")
    assert (ran.code, ran.out) == (0, "demo.plain: not registered\nregistered demo.plain\n")
    assert queue.taskdef("demo.plain") is not None

    ran = run("taskdef", "diff")
    assert (ran.code, ran.out) == (1, "demo.count: not registered\n1 up to date\n")
    assert run("taskdef", "register", "-y").code == 0
    ran = run("taskdef", "diff")
    assert (ran.code, ran.out) == (0, "all 2 up to date\n")
    ran = run("taskdef", "register")
    assert (ran.code, ran.out) == (0, "all 2 up to date\n")


def test_what_registering_would_change_is_shown(project: Path, run: Run, queue: LocalQueue) -> None:
    run("taskdef", "register", "--yes")
    (project / "cli_tasks.py").write_text(MODULE.replace("owner@example.com", "new@example.com", 1))

    ran = run("taskdef", "diff")

    assert ran.code == 1
    assert ran.out == (
        "demo.count: differs\n"
        '  ownerEmail: "owner@example.com" -> "new@example.com"\n'
        "1 up to date\n"
    )


def test_nothing_is_registered_where_nobody_can_be_asked(run: Run, queue: LocalQueue) -> None:
    ran = run("taskdef", "register")

    assert ran.told == (
        Exit.CONFIG,
        "there is nobody to ask here; give --yes to register without asking\n",
    )
    assert queue.taskdef("demo.plain") is None


def test_changes_are_those_of_what_is_declared() -> None:
    registered = {
        "name": "a",
        "retryCount": 3,
        "kept": 1,
        "inputSchema": {"name": "a.input", "createTime": 5, "data": {"properties": {"old": {}}}},
    }
    declared = {
        "name": "a",
        "retryCount": 5,
        "enabled": True,
        "inputSchema": {"name": "a.input", "data": {"properties": {"new": {"type": "string"}}}},
    }

    assert [str(change) for change in changes(registered, declared)] == [
        "retryCount: 3 -> 5",
        "enabled: (none) -> true",
        'inputSchema.data.properties.new: (none) -> {"type": "string"}',
        "inputSchema.data.properties.old: {} -> (none)",
    ]
    assert changes(declared, declared) == []
    assert [str(change) for change in changes({"a": 1}, {"a": True})] == ["a: 1 -> true"]


# --- submit ---------------------------------------------------------------------------------------


def test_a_task_without_a_workspace_is_queued(run: Run, queue: LocalQueue) -> None:
    ran = run("submit", "demo.plain", "--params", '{"count": 2}')

    assert ran.told == (0, "")
    (record,) = queue.tasks()
    assert record.input == {"params": {"count": 2}}
    assert ran.out.splitlines() == [
        f"task {record.task_id} of demo.plain waits in the queue, in workflow {record.workflow_id}",
        "  run it:   perago-worker --config worker.toml --until-idle",
        "  look:     perago-worker --config worker.toml tasks",
    ]


def test_params_can_come_from_a_file(project: Path, run: Run, queue: LocalQueue) -> None:
    (project / "params.json").write_text('{"name": "é"}')

    assert run("submit", "demo.plain", "--params", "@params.json").code == 0
    assert queue.tasks()[0].input == {"params": {"name": "é"}}


def test_files_are_imported_before_the_task_is_queued(
    project: Path, run: Run, queue: LocalQueue
) -> None:
    (project / "data").mkdir()
    (project / "data/in.txt").write_text("in")

    ran = run("submit", "demo.count", "--workspace", "demo@dev", "--import", "data")

    assert ran.told == (0, "")
    workspace = queue.tasks()[0].input["workspace"]
    assert workspace == {
        "repository": "demo",
        "branch": "dev",
        "ref_type": "commit",
        "ref": workspace["ref"],
    }
    assert ran.out.startswith(f"imported data into demo@dev, commit {workspace['ref']}\n")

    assert run("submit", "demo.count", "--workspace", "demo@dev").code == 0
    assert queue.tasks()[0].input["workspace"] == workspace


def test_a_branch_is_main_unless_given(project: Path, run: Run, queue: LocalQueue) -> None:
    (project / "data").mkdir()

    assert run("submit", "demo.count", "--workspace", "demo", "--import", "data").code == 0
    assert queue.tasks()[0].input["workspace"]["branch"] == "main"


def test_a_task_is_queued_for_its_domain(project: Path, run: Run, queue: LocalQueue) -> None:
    (project / "worker.toml").write_text(CONFIG + '[tasks."demo.plain"]\ndomain = "gpu"\n')

    assert run("submit", "demo.plain").code == 0
    assert queue.tasks()[0].domain == "gpu"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo.plan"], "there is no task 'demo.plan'; did you mean 'demo.plain'?"),
        (["zzz"], "there is no task 'zzz'; the tasks are demo.count, demo.plain"),
        (["demo.plain", "--params", "{"], "--params: is not JSON: "),
        (["demo.plain", "--params", "[]"], "--params: got []; expected a JSON object"),
        (["demo.plain", "--params", "@none"], "--params: cannot read none: "),
        (
            ["demo.plain", "--params", '{"count": "many"}'],
            "--params: not what demo.plain takes: count: ",
        ),
        (["demo.plain", "--workspace", "r"], "--workspace: demo.plain works without a workspace"),
        (["demo.plain", "--import", "."], "--workspace: demo.plain works without a workspace"),
        (["demo.count"], "--workspace: is missing; demo.count works on REPO[@BRANCH]"),
        (
            ["demo.count", "--workspace", "@main"],
            "--workspace: got '@main'; expected REPO[@BRANCH]",
        ),
        (
            ["demo.count", "--workspace", "none"],
            "--workspace: repository 'none' does not exist; --import DIR makes it",
        ),
    ],
)
def test_what_a_task_would_refuse_is_not_queued(
    arguments: list[str], message: str, run: Run, queue: LocalQueue
) -> None:
    ran = run("submit", *arguments)

    assert ran.code == Exit.CONFIG
    assert ran.err.startswith(message)
    assert len(ran.err.splitlines()) == 1
    assert queue.tasks() == []


@pytest.mark.parametrize("command", [["submit", "demo.plain"], ["tasks"]])
def test_commands_for_the_embedded_queue_say_what_to_use_with_conductor(
    command: list[str], project: Path, run: Run
) -> None:
    (project / "worker.toml").write_text(servers_config(project))

    ran = run(*command)

    assert ran.code == Exit.CONFIG
    assert ran.err.startswith('worker.toml: queue.kind: is "conductor", and this command works on')
    assert "with Conductor, " in ran.err


def test_importing_says_what_to_use_with_lakefs(project: Path, run: Run) -> None:
    text = servers_config(project).partition("[store]")[2]
    (project / "worker.toml").write_text(CONFIG.partition("[store]")[0] + "[store]" + text)

    ran = run("submit", "demo.count", "--workspace", "r", "--import", ".")

    assert ran.code == Exit.CONFIG
    assert 'store.kind: is "lakefs"' in ran.err
    assert "lakectl" in ran.err


# --- tasks ----------------------------------------------------------------------------------------


def test_an_empty_queue_says_how_to_fill_it(run: Run) -> None:
    ran = run("tasks")

    assert ran.code == 0
    assert "perago-worker submit --help" in ran.out


def test_tasks_are_shown_with_what_became_of_them(
    project: Path, run: Run, queue: LocalQueue
) -> None:
    (project / "data").mkdir()
    run("submit", "demo.count", "--workspace", "demo", "--import", "data")
    published = {**queue.tasks()[0].input["workspace"], "ref": "f" * 40}
    done = work(
        queue,
        "demo.count",
        Outcome(kind="completed", code="published", output={"workspace": published, "result": {}}),
    )
    run("submit", "demo.plain")
    failed = work(
        queue, "demo.plain", Outcome(kind="terminal", code="pre_guard", reason="no \x1b[2J file")
    )
    run("submit", "demo.plain")

    lines = run("tasks").out.splitlines()

    waiting = queue.tasks()[0].task_id
    assert lines[0].split() == [
        *("SCHEDULED", "TASK", "TASK", "ID", "TRY", "STATUS", "SECONDS", "OUTPUT", "REF", "REASON")
    ]
    assert lines[1].split()[2:] == ["demo.plain", waiting, "0", "SCHEDULED", "-", "-", "-"]
    assert lines[2].split()[2:5] == ["demo.plain", failed, "0"]
    assert "FAILED_WITH_TERMINAL_ERROR" in lines[2]
    assert lines[2].endswith(r"pre_guard: no \x1b[2J file")
    assert lines[3].split()[2:6] == ["demo.count", done, "0", "COMPLETED"]
    assert lines[3].split()[7:] == ["f" * 40, "-"]

    command = shlex.split(lines[-1])
    assert command[0] == "git"
    assert command[2:] == ["log", "--stat", "--first-parent", "main"]
    assert (Path(command[1].removeprefix("--git-dir=")) / "HEAD").is_file()


def test_the_latest_tasks_come_first_and_are_limited(run: Run, queue: LocalQueue) -> None:
    for number in range(3):
        run("submit", "demo.plain", "--params", json.dumps({"count": number}))

    records = json.loads(run("tasks", "--json", "--limit", "2").out)

    assert [record["input"]["params"]["count"] for record in records] == [2, 1]


def test_the_log_of_a_task_is_found_by_the_beginning_of_its_id(run: Run, queue: LocalQueue) -> None:
    run("submit", "demo.plain")
    log = ("first", "second \x07")
    outcome = Outcome(kind="completed", code="no_workspace", output={"result": {}}, log=log)
    task_id = work(queue, "demo.plain", outcome)

    ran = run("tasks", "--log", task_id[:8])

    assert ran.out.splitlines() == [
        f"demo.plain {task_id} COMPLETED",
        "  first",
        r"  second \x07",
    ]


def test_an_empty_log_says_so(run: Run, queue: LocalQueue) -> None:
    run("submit", "demo.plain")

    assert run("tasks", "--log", queue.tasks()[0].task_id).out.endswith("(nothing in its log)\n")


def test_a_task_must_be_told_apart_to_show_its_log(run: Run, queue: LocalQueue) -> None:
    run("submit", "demo.plain")
    run("submit", "demo.plain")

    assert run("tasks", "--log", "none").told == (1, "there is no task none\n")
    assert run("tasks", "--log", "").told == (1, "2 tasks have ids that begin with \n")
