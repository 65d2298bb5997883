"""The image, built from packages and run: no root, nothing writable but what is mounted."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import image

pytestmark = pytest.mark.timeout(1800)  # the first build makes a base from packages

DEADLINE_S = 60.0
USER = 10001

CONFIG = """
[worker]
modules = ["shop"]
[queue]
kind = "local"
path = "/var/lib/perago-worker/queue.db"
[store]
kind = "local"
path = "/var/lib/perago-worker/repositories"
[workspace]
root = "/var/lib/perago-worker/workspaces"
[logging]
format = "json"
"""


@pytest.fixture(scope="session")
def built() -> str:
    """The example's image, which is the worker's with two layers on top."""
    image.build()
    return image.EXAMPLE


def podman(*arguments: str, check: bool = True) -> str:
    """Run podman on our images; runc, since it runs under any layout of control groups."""
    options = [*image.storage(), "--runtime=runc", "--cgroup-manager=cgroupfs"]
    result = subprocess.run(
        ["podman", *options, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture
def restricted(tmp_path: Path) -> list[str]:
    """Options of a container that may do as little as a pod of the chart, and has no network."""
    (tmp_path / "worker.toml").write_text(CONFIG)
    (tmp_path / "data/texts").mkdir(parents=True)
    (tmp_path / "data/texts/a.txt").write_text("hello small world")
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    subprocess.run(["chown", f"{USER}:{USER}", str(state)], check=True)
    subprocess.run(["chmod", "-R", "a+rX", str(tmp_path / "data")], check=True)
    return [
        *("--network=none", "--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:mode=1777"),
        *("--cap-drop=ALL", "--security-opt=no-new-privileges"),
        *("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"),
        f"--volume={tmp_path / 'worker.toml'}:/etc/perago-worker/worker.toml:ro",
        f"--volume={tmp_path / 'data'}:/data:ro",
        f"--volume={state}:/var/lib/perago-worker",
    ]


@pytest.fixture
def running(built: str, restricted: list[str]) -> Iterator[str]:
    """A container that runs the daemon."""
    container = podman("run", "--detach", *restricted, built).strip()
    try:
        yield container
    finally:
        podman("rm", "--force", container)


def wait_for(probe: Callable[[], Any], what: str) -> None:
    give_up_at = time.monotonic() + DEADLINE_S
    while not probe():
        assert time.monotonic() < give_up_at, f"no {what} in {DEADLINE_S} s"
        time.sleep(0.2)


def test_image_is_small_and_has_what_it_needs_alone(built: str, restricted: list[str]) -> None:
    assert image.size_mb(image.WORKER) < 250
    said = podman("run", "--rm", *restricted, built, "check")
    assert "ok: tasks: shop.count_words" in said
    names = "('pip', 'hatchling', 'tabulate')"
    look = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    python = podman("run", "--rm", *restricted, "--entrypoint=python", built, "-c", look)
    assert python.strip() == "['tabulate']"


def test_worker_works_and_drains_without_privileges(running: str) -> None:
    wait_for(lambda: "running" in podman("logs", running), "start")
    params = ("--params", '{"shortest": 6}')
    place = ("--workspace", "shop", "--import", "/data")
    podman("exec", running, "perago-worker", "submit", "shop.count_words", *place, *params)
    wait_for(lambda: '"code": "published"' in podman("logs", running), "publication")

    assert podman("exec", running, "id", "-u").strip() == str(USER)
    status = podman("exec", running, "cat", "/proc/1/status")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert b"perago-worker" in podman("exec", running, "cat", "/proc/1/cmdline").encode()
    podman("healthcheck", "run", running)

    podman("stop", "--time=60", running)
    assert podman("inspect", "--format={{.State.ExitCode}}", running).strip() == "0"
    assert '"state": "stopped"' in podman("logs", running)


def test_nothing_else_can_be_written_to(running: str) -> None:
    for folder in ("/", "/opt/perago-worker", "/opt/tasks", "/etc/perago-worker"):
        script = f"touch {folder}/x 2>/dev/null || echo refused"
        assert podman("exec", running, "sh", "-c", script).strip() == "refused", folder
