"""The examination: a line for each thing, and for what is wrong the reason and the next step."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from perago_worker.attempt.watch import Watcher
from perago_worker.cli import app
from perago_worker.cli.check import look_at_folders
from perago_worker.cli.diagnosis import Diagnosis, Level, Line
from perago_worker.cli.doctor import examine
from perago_worker.cli.doctor_files import examine_watching
from perago_worker.cli.doctor_machine import examine_machine
from perago_worker.cli.exits import Exit
from perago_worker.config import load_config
from perago_worker.errors import ConfigError
from perago_worker.telemetry.http import TelemetryServer
from tests.unit.scripted_server import Act, ScriptedServer, answer, serving

MODULE = """\
from pathlib import Path
from pydantic import BaseModel
from perago_worker import TaskControls, TimeoutPolicy, WorkspaceSpec, task

class Params(BaseModel):
    name: str = "x"

class Result(BaseModel):
    words: int

@task(name="demo.count", owner_email="owner@example.com", workspace=WorkspaceSpec())
def count(workspace: Path, params: Params) -> Result:
    return Result(words=3)

@task(
    name="demo.short",
    owner_email="owner@example.com",
    workspace=WorkspaceSpec(),
    controls=TaskControls(timeout=TimeoutPolicy(response_seconds=5, seconds=60)),
)
def short(workspace: Path, params: Params) -> Result:
    return Result(words=1)
"""

LOCAL = """\
[worker]
modules = ["doctor_tasks"]
[queue]
kind = "local"
[store]
kind = "local"
[http]
listen = "127.0.0.1:0"
"""

SERVERS = """\
[worker]
modules = ["doctor_tasks"]
[queue]
kind = "conductor"
url = "{queue}"
auth_key_id_file = "key"
auth_key_secret_file = "key"
[store]
kind = "lakefs"
endpoint = "{store}"
access_key_id_file = "key"
secret_access_key_file = "key"
[http]
listen = ""
"""

Start = Callable[..., ScriptedServer]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a configuration over the embedded pair, and a module of tasks."""
    (tmp_path / "worker.toml").write_text(LOCAL)
    (tmp_path / "doctor_tasks.py").write_text(MODULE)
    (tmp_path / "key").write_text("canary-secret")
    (tmp_path / "key").chmod(0o600)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    yield tmp_path
    sys.modules.pop("doctor_tasks", None)


@pytest.fixture
def start() -> Iterator[Start]:
    with serving() as start:
        yield start


def look(project: Path, *repositories: str, write: bool = False) -> Diagnosis:
    return examine(project / "worker.toml", repositories, write=write)


def line(diagnosis: Diagnosis, what: str) -> Line:
    return next(each for each in diagnosis.lines if each.what == what)


def levels(diagnosis: Diagnosis) -> dict[str, Level]:
    return {each.what: each.level for each in diagnosis.lines}


# --- all is well ----------------------------------------------------------------------------------


def test_an_embedded_pair_is_well_and_left_as_it_was(project: Path) -> None:
    before = set(project.iterdir())

    diagnosis = look(project)

    assert diagnosis.code is Exit.DONE
    assert not [each for each in diagnosis.lines if each.level is Level.FAIL]
    assert {"config", "tasks", "folders", "disk", "kernel", "port", "queue", "store"} <= set(
        levels(diagnosis)
    )
    made = set(project.iterdir()) - before
    assert {path.name for path in made} <= {"var"}  # opening the embedded pair makes its files
    assert not list(project.rglob("perago-doctor-*"))


def test_it_is_told_as_text_and_as_json(project: Path) -> None:
    arguments = ["--config", str(project / "worker.toml"), "doctor"]

    text = CliRunner().invoke(app, arguments)
    as_json = CliRunner().invoke(app, [*arguments, "--json"])

    assert (text.exit_code, as_json.exit_code) == (0, 0)
    told = json.loads(as_json.stdout)
    assert told["ok"] is True
    assert {"level", "what", "found", "why", "todo"} == set(told["lines"][0])
    assert text.stdout.startswith("OK    config: ")
    assert text.stdout.rstrip().endswith(" OK, 0 WARN, 0 FAIL")


def test_what_is_wrong_comes_with_why_and_what_next() -> None:
    diagnosis = Diagnosis()
    diagnosis.fail("port", "is \x1b[31mtaken", why="Because.", todo="do this")

    assert str(diagnosis.lines[0]).splitlines() == [
        r"FAIL  port: is \x1b[31mtaken",
        "      why: Because.",
        "      next: do this",
    ]
    assert diagnosis.code is Exit.UNEXPECTED


# --- configuration, modules, machine --------------------------------------------------------------


def test_without_a_configuration_there_is_nothing_more_to_look_at(project: Path) -> None:
    (project / "worker.toml").write_text(LOCAL.replace("listen", "listens"))

    diagnosis = look(project)

    assert levels(diagnosis) == {"config": Level.FAIL}
    assert "http.listens" in diagnosis.lines[0].found
    assert diagnosis.code is Exit.CONFIG


def test_a_module_that_cannot_be_used_does_not_end_it(project: Path) -> None:
    (project / "doctor_tasks.py").write_text("import no_such_module\n")

    diagnosis = look(project)

    assert diagnosis.code is Exit.TASK_MODULE
    assert "no_such_module" in line(diagnosis, "tasks").found
    assert levels(diagnosis)["store"] is Level.OK


def test_what_works_but_is_not_meant_so(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERAGO_WORKER_NAME", "x")

    diagnosis = look(project)

    assert diagnosis.code is Exit.DONE
    assert any(
        each.level is Level.WARN and "PERAGO_WORKER_NAME" in each.found for each in diagnosis.lines
    )


def test_a_folder_that_cannot_be_looked_at(project: Path) -> None:
    """As where a folder above it may not be entered: told, and no traceback."""
    unlookable = project / ("x" * 300) / "root"
    text = LOCAL + f'[workspace]\nroot = "{unlookable}"\n'
    (project / "worker.toml").write_text(text)

    with pytest.raises(ConfigError, match="cannot be looked at by this user: File name too long"):
        look_at_folders(load_config(project / "worker.toml"))

    diagnosis = look(project)
    assert diagnosis.code is Exit.CONFIG
    assert levels(diagnosis)["disk"] is Level.WARN


@pytest.mark.parametrize(
    ("error", "what"),
    [(errno.EMFILE, "no instance to be had"), (errno.ENOSPC, "no watch to be had")],
)
def test_kept_workspaces_that_cannot_be_watched(tmp_path: Path, error: int, what: str) -> None:
    """They are used all the same, so that it is no failure."""

    def open_watcher() -> Watcher:
        raise OSError(error, os.strerror(error))

    diagnosis = Diagnosis()
    examine_watching(diagnosis, tmp_path, kept=3, open_watcher=open_watcher)

    found = line(diagnosis, "inotify")
    assert found.level is Level.WARN
    assert what in found.found
    assert "every file looked at" in found.why
    assert diagnosis.code is Exit.DONE


def test_workspaces_that_are_kept_can_be_watched(project: Path) -> None:
    diagnosis = look(project)

    assert line(diagnosis, "inotify").level is Level.OK
    assert "needs 1 and at most 2000" in line(diagnosis, "inotify").found
    (project / "worker.toml").write_text(LOCAL + "[workspace]\nwarm = 0\n")
    assert "inotify" not in levels(look(project))


@pytest.mark.parametrize(
    ("cache_max", "reflinks"),
    [
        ('"1GiB"', r"^supported: .* share their room|^not supported: .* take room each"),
        ("0", "off"),
    ],
)
def test_what_reflinks_mean_for_the_cache(project: Path, cache_max: str, reflinks: str) -> None:
    (project / "worker.toml").write_text(LOCAL + f"[workspace]\ncache_max = {cache_max}\n")

    assert re.search(reflinks, line(look(project), "reflinks").found)


def test_more_slots_than_the_machine_allows(project: Path) -> None:
    diagnosis = Diagnosis()

    examine_machine(diagnosis, load_config(project / "worker.toml"), slots=10**8)

    assert levels(diagnosis)["file descriptors"] is Level.WARN
    assert "ulimit -n" in line(diagnosis, "file descriptors").todo
    assert diagnosis.code is Exit.DONE


def test_a_port_that_another_server_has(project: Path, start: Start) -> None:
    server = start(answer(404, b"not here"))
    listen = server.endpoint.removeprefix("http://")
    (project / "worker.toml").write_text(LOCAL.replace("127.0.0.1:0", listen))

    diagnosis = look(project)

    assert diagnosis.code is Exit.CONFIG
    assert "no worker answers there" in line(diagnosis, "port").found


def test_a_port_that_our_worker_has(project: Path) -> None:
    def status() -> dict[str, Any]:
        return {"worker": {"name": "host", "state": "running"}}

    server = TelemetryServer(
        "127.0.0.1:0",
        registry=CollectorRegistry(),
        liveness=list,
        readiness=list,
        status=status,
    )
    server.start()
    try:
        assert server.address is not None
        listen = f"127.0.0.1:{server.address[1]}"
        (project / "worker.toml").write_text(LOCAL.replace("127.0.0.1:0", listen))
        diagnosis = look(project)
    finally:
        server.stop()

    assert diagnosis.code is Exit.DONE
    assert line(diagnosis, "port").found.endswith("is served by worker host, which is running")


# --- servers --------------------------------------------------------------------------------------


def dated(status: int, content: object, *, ahead_s: float = 0.0) -> Act:
    """Answer with the date of a clock that is so far ahead."""
    date = formatdate(time.time() + ahead_s, usegmt=True)
    return answer(status, content, Date=date, Content_Type="application/json")


def write_servers(project: Path, queue: str, store: str, *, extra: str = "") -> None:
    (project / "worker.toml").write_text(SERVERS.format(queue=queue, store=store) + extra)


TASKDEF = {"name": "demo.short", "responseTimeoutSeconds": 5, "timeoutSeconds": 60}


def test_servers_that_let_us_in(project: Path, start: Start) -> None:
    """Each step on the way is a line; timeouts and clocks are compared."""
    queue = start(dated(200, {"token": "t"}), dated(200, TASKDEF))
    store = start(dated(200, {"user": {"id": "me"}}, ahead_s=90))
    write_servers(
        project,
        queue.endpoint,
        store.endpoint,
        extra='[tasks."demo.short"]\nbody_timeout = "2m"\n',
    )

    diagnosis = look(project)

    assert diagnosis.code is Exit.DONE
    told = levels(diagnosis)
    for what in ("conductor name", "conductor port", "queue", "lakefs name", "lakefs port"):
        assert told[what] is Level.OK, what
    assert told["conductor clock"] is Level.OK
    assert told["lakefs clock"] is Level.WARN
    assert "s ahead of this machine's" in line(diagnosis, "lakefs clock").found
    times = [each.found for each in diagnosis.lines if each.what == "timeouts"]
    assert [text.partition(": ")[0] for text in times].count("demo.short") == 3
    drift = [each.found for each in diagnosis.lines if each.what == "definitions"]
    assert any("demo.short differs" in text for text in drift)
    assert "canary-secret" not in str(diagnosis)


def test_a_clock_that_is_far_off_fails(project: Path, start: Start) -> None:
    queue = start(dated(200, {"token": "t"}), dated(200, TASKDEF, ahead_s=-3600))
    store = start(dated(200, {"user": {"id": "me"}}))
    write_servers(project, queue.endpoint, store.endpoint)

    diagnosis = look(project)

    assert levels(diagnosis)["conductor clock"] is Level.FAIL
    assert "behind" in line(diagnosis, "conductor clock").found
    assert diagnosis.code is Exit.UNEXPECTED


def test_a_server_that_refuses_our_keys(project: Path, start: Start) -> None:
    refusal = dated(401, {"message": "error authenticating request of canary-secret"})
    write_servers(
        project,
        start(dated(401, {"message": "no such key"})).endpoint,
        start(refusal).endpoint,
    )

    diagnosis = look(project)

    assert diagnosis.code is Exit.UNAUTHORISED
    assert levels(diagnosis)["queue"] is Level.FAIL
    assert "queue.auth_key_secret_file" in line(diagnosis, "queue").todo
    assert levels(diagnosis)["store"] is Level.FAIL
    assert "store.secret_access_key_file" in line(diagnosis, "store").todo
    assert "request of [redacted]" in line(diagnosis, "store").found


def test_servers_that_are_not_there(project: Path) -> None:
    """A name that cannot be one, and a port where nothing listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    write_servers(project, f"http://{'x' * 64}.example:1", f"http://127.0.0.1:{port}")

    diagnosis = look(project)

    assert diagnosis.code is Exit.UNREACHABLE
    told = levels(diagnosis)
    assert told["conductor name"] is Level.FAIL
    assert told["lakefs port"] is Level.FAIL
    assert "queue" not in told
    assert "store" not in told


def test_a_server_without_tls(project: Path, start: Start) -> None:
    server = start(answer(200, {}))
    https = server.endpoint.replace("http:", "https:")
    write_servers(project, https, https)

    diagnosis = look(project)

    assert levels(diagnosis)["conductor TLS"] is Level.FAIL
    assert diagnosis.code is Exit.UNREACHABLE


def test_a_proxy_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:canary@127.0.0.1:1")
    write_servers(project, "http://conductor.invalid", "http://127.0.0.1:1")

    diagnosis = look(project)

    assert line(diagnosis, "conductor network").found.endswith("through the proxy 127.0.0.1")
    assert levels(diagnosis)["queue"] is Level.FAIL
    assert "canary" not in str(diagnosis)


# --- repositories ---------------------------------------------------------------------------------


def test_a_repository_is_read_and_with_write_written_to(project: Path) -> None:
    (project / "data").mkdir()
    (project / "data/in.txt").write_text("input")
    arguments = ["submit", "demo.count", "--workspace", "shop@main"]
    CliRunner().invoke(
        app,
        ["-c", str(project / "worker.toml"), *arguments, "--import", str(project / "data")],
        catch_exceptions=False,
    )

    diagnosis = look(project, "shop", "shop@nowhere", write=True)

    told = levels(diagnosis)
    assert told["shop read"] is Level.OK
    assert told["shop write"] is Level.OK
    assert told["shop@nowhere"] is Level.FAIL
    assert diagnosis.code is Exit.UNEXPECTED
