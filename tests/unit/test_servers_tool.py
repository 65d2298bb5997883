"""The command that runs the real servers, on a server that starts at once."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.servers import install, servers, tools
from deploy.servers.pair import VARIABLES, Addresses, LakeFSAccess, Servers
from deploy.servers.process import ProcessId, Server
from deploy.servers.tools import MissingToolError, ServersError, version_in

ADDRESSES = Addresses("http://c:1/api", LakeFSAccess("http://l:2", "key", "secret"))


class FileServer(Server):
    """A real process that serves its directory."""

    name = "files"
    health_path = "/data.txt"
    start_timeout_s = 30.0

    def command(self) -> list[str]:
        return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(self.port)]


class BrokenServer(FileServer):
    """A process that ends at once."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('the port is cursed')"]


class UnreadyServer(FileServer):
    """A process whose answer is never good, and which is not given long."""

    health_path = "/nothing"
    start_timeout_s = 0.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "data.txt").write_text("kept")
    server = FileServer(tmp_path)
    yield server
    server.stop()


def test_a_server_comes_back_on_its_port_however_it_ended(server: FileServer) -> None:
    server.start()
    first, port = server.process, server.port
    server.restart()
    second = server.process
    server.kill()
    assert not server.running
    assert not server.healthy()
    server.start()
    assert server.healthy()
    assert server.port == port
    assert len({first, second, server.process}) == 3


def test_starting_twice_and_stopping_twice_change_nothing(server: FileServer) -> None:
    server.stop()
    server.start()
    process = server.process
    server.start()
    assert server.process == process
    server.stop()
    server.stop()
    assert not server.running


def test_a_paused_server_can_be_stopped(server: FileServer) -> None:
    server.start()
    server.pause()
    server.stop()
    assert not server.running


def test_a_server_that_ends_while_starting_shows_its_log(tmp_path: Path) -> None:
    broken = BrokenServer(tmp_path)
    with pytest.raises(ServersError, match=r"(?s)ended while starting.*the port is cursed"):
        broken.start()
    broken.stop()


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    unready = UnreadyServer(tmp_path)
    with pytest.raises(ServersError, match="did not answer within 0 s"):
        unready.start()
    assert unready.running
    unready.stop()


def test_another_process_that_got_the_same_number_is_left_alone(server: FileServer) -> None:
    server.start()
    assert server.process is not None
    reused = replace(server.process, born=server.process.born - 1)
    stranger = FileServer(server.directory, port=server.port, process=reused)
    assert not stranger.running
    stranger.stop()
    assert server.running


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    process = ProcessId.of(child.pid)
    assert process.alive()
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not process.alive()
    child.wait()
    assert not process.alive()


def test_what_up_saves_is_recalled_and_private(tmp_path: Path) -> None:
    saved = Servers.in_directory(tmp_path)
    saved.conductor.process = ProcessId.of(os.getpid())
    servers.save(saved, tmp_path)
    recalled = servers.load(tmp_path)
    assert recalled.addresses == saved.addresses
    assert recalled.conductor.process == saved.conductor.process
    assert recalled.lakefs.process is None
    assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600


def test_a_port_may_change_only_while_the_server_is_down(tmp_path: Path) -> None:
    saved = Servers.in_directory(tmp_path)
    saved.conductor.process = ProcessId.of(os.getpid())
    servers.save(saved, tmp_path)
    recalled = servers.load(tmp_path, conductor_port=1001, lakefs_port=1002)
    assert recalled.conductor.port == saved.conductor.port
    assert recalled.lakefs.port == 1002


def test_status_of_servers_never_started_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert servers.main(["status", "--dir", str(tmp_path)]) == 1
    assert capsys.readouterr().out == "conductor: not running\nlakefs: not running\n"


def test_down_without_up_does_nothing(tmp_path: Path) -> None:
    assert servers.main(["down", "--dir", str(tmp_path)]) == 0
    assert not (tmp_path / "state.json").exists()


def test_addresses_survive_the_environment() -> None:
    assert Addresses.from_environment(ADDRESSES.to_environment()) == ADDRESSES
    assert Addresses.from_environment({}) is None


@pytest.mark.parametrize("name", VARIABLES)
def test_half_the_addresses_are_an_error_that_names_the_rest(name: str) -> None:
    environment = ADDRESSES.to_environment()
    del environment[name]
    with pytest.raises(ServersError, match=f": {name} missing"):
        Addresses.from_environment(environment)


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26, 8)),
        ('openjdk version "25.0.1" 2025-10-21 LTS', (25, 0, 1)),
        ('openjdk version "21-ea" 2023-09-19', (21,)),
        ('java version "1.8.0_412"', (1, 8, 0)),
        ("command not found", ()),
    ],
)
def test_versions_are_read_as_java_and_go_print_them(
    printed: str, version: tuple[int, ...]
) -> None:
    assert version_in(printed) == version


def test_a_tool_that_is_too_old_is_named_with_its_version(tmp_path: Path) -> None:
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    old.chmod(0o755)
    found = tools.first_new_enough(
        iter([tmp_path / "absent", old, Path(sys.executable)]),
        arguments=["-c", "print('go version go1.30')"],
        at_least=(1, 26, 4),
        advice="Install Go.",
    )
    assert found == Path(sys.executable)
    with pytest.raises(MissingToolError, match=rf"Install Go. \({old} is 1.19.8\)"):
        tools.first_new_enough(
            iter([old]), arguments=["version"], at_least=(1, 26, 4), advice="Install Go."
        )


@pytest.mark.parametrize(("failures", "succeeds"), [(2, True), (3, False)])
def test_a_download_is_tried_three_times(tmp_path: Path, failures: int, succeeds: bool) -> None:
    attempts = tmp_path / "attempts"
    script = f"echo x >> {attempts}; test $(wc -l < {attempts}) -gt {failures}"
    if succeeds:
        install.download(["sh", "-c", script], cwd=tmp_path, pause_s=0)
    else:
        with pytest.raises(ServersError, match="ended with 1"):
            install.download(["sh", "-c", script], cwd=tmp_path, pause_s=0)
    assert attempts.read_text().count("x") == 3
