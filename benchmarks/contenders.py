"""Those that are compared: how each is started as its documentation says, and stopped.

Each serves the same tasks at the same servers, in processes of its own and in a folder that is
empty at its start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.platform import BenchmarkError
from benchmarks.processes import kill
from benchmarks.tasks.contract import CONTRACT_VARIABLE, RUN_VARIABLE, task_name
from deploy.servers.pair import Addresses

ROOT = Path(__file__).parents[1]
PAUSE_S = 0.05
"""How long the body of `pause` takes, where no parameters say so."""

CONFIG = """
[worker]
modules = [{modules}]
python_path = ["{root}"]
concurrency = {slots}
body_env = ["{run}"]
drain_timeout = "5s"
[queue]
kind = "conductor"
url = "{conductor}"
[store]
kind = "lakefs"
endpoint = "{lakefs}"
access_key_id_file = "id"
secret_access_key_file = "key"
[http]
listen = "127.0.0.1:0"
[logging]
format = "json"
"""


@dataclass
class Running:
    """A contender at work.

    Attributes:
        name: Which one.
        run: What its tasks' names are told apart by.
        started_at: When its first process was started, by the wall clock.
        folder: Where it keeps its files.
    """

    name: str
    run: str
    started_at: float
    folder: Path
    processes: list[subprocess.Popen[bytes]]

    @property
    def pids(self) -> list[int]:
        """The processes that were started; what they start is below them."""
        return [process.pid for process in self.processes]

    @property
    def log(self) -> Path:
        """What its processes wrote."""
        return self.folder / "log"

    def check(self) -> None:
        """Fail when a process has ended.

        Raises:
            BenchmarkError: With the end of its log.
        """
        for process in self.processes:
            if process.poll() is not None:
                tail = self.log.read_text(errors="replace")[-2000:]
                raise BenchmarkError(f"{self.name} ended with {process.returncode}: {tail}")

    def steps(self) -> dict[str, tuple[float, float]]:
        """Return step -> seconds and count so far, from the worker's metrics; else nothing."""
        if self.name not in {"worker", "worker-threads"}:
            return {}
        with urllib.request.urlopen(f"http://{self._address()}/metrics", timeout=10) as page:
            return step_times(page.read().decode())

    def _address(self) -> str:
        give_up_at = time.monotonic() + 30
        while time.monotonic() < give_up_at:
            self.check()
            for line in self.log.read_text().splitlines():
                if '"http.listening"' in line:
                    return str(json.loads(line)["address"])
            time.sleep(0.05)
        raise BenchmarkError("the worker serves no metrics")


def step_times(metrics: str) -> dict[str, tuple[float, float]]:
    """Read seconds and count of each step from a page of metrics, over all task types."""
    totals: dict[str, list[float]] = {}
    for line in metrics.splitlines():
        name, _, rest = line.partition("{")
        column = {
            "perago_worker_phase_duration_seconds_sum": 0,
            "perago_worker_phase_duration_seconds_count": 1,
        }.get(name)
        if column is None:
            continue
        labels, _, value = rest.rpartition("} ")
        step = labels.partition('phase="')[2].partition('"')[0]
        totals.setdefault(step, [0.0, 0.0])[column] += float(value)
    return {step: (seconds, count) for step, (seconds, count) in totals.items()}


@dataclass(frozen=True)
class Setting:
    """What all contenders are given.

    Attributes:
        addresses: The servers.
        perago: Returns the folder of perago's commands, installing it when first asked.
    """

    addresses: Addresses
    perago: Callable[[], Path]


Commands = list[tuple[list[str], dict[str, str]]]
"""Command lines with their environments."""


@dataclass(frozen=True)
class Plan:
    """What a contender is to do.

    Attributes:
        kinds: The tasks it serves.
        slots: How many of each at once.
        run: What the tasks' names are told apart by.
    """

    kinds: Sequence[str]
    slots: int
    run: str


Start = Callable[[Setting, Plan, Path], Commands]
"""Makes command lines, and the files they need in a folder."""


def _worker(setting: Setting, plan: Plan, folder: Path, *, extra: str = "") -> Commands:
    access = setting.addresses.lakefs
    for name, secret in (("id", access.access_key_id), ("key", access.secret_access_key)):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(secret)
    text = CONFIG.format(
        modules=", ".join(f'"benchmarks.tasks.{kind}"' for kind in plan.kinds),
        root=ROOT,
        slots=plan.slots,
        run=RUN_VARIABLE,
        conductor=setting.addresses.conductor_url,
        lakefs=access.endpoint,
    )
    config = folder / "worker.toml"
    config.write_text(text.replace("[queue]", f"{extra}[queue]"))
    command = [sys.executable, "-m", "perago_worker", "--config", str(config)]
    return [(command, {"PYTHONPATH": str(ROOT)})]


def _worker_threads(setting: Setting, plan: Plan, folder: Path) -> Commands:
    return _worker(setting, plan, folder, extra='isolation = "thread"\n')


def _perago(setting: Setting, plan: Plan, folder: Path, *, mode: str = "process") -> Commands:
    """One command and one workspace root for each task: it takes one module, which has one task."""
    access = setting.addresses.lakefs
    environment = {
        CONTRACT_VARIABLE: "perago",
        "PYTHONPATH": str(ROOT),
        "CONDUCTOR_SERVER_URL": setting.addresses.conductor_url,
        "LAKECTL_SERVER_ENDPOINT_URL": access.endpoint,
        "LAKECTL_CREDENTIALS_ACCESS_KEY_ID": access.access_key_id,
        "LAKECTL_CREDENTIALS_SECRET_ACCESS_KEY": access.secret_access_key,
    }
    command = str(setting.perago() / "perago")
    return [
        (
            [command, "start", f"benchmarks.tasks.{kind}", "-j", str(plan.slots),
             "--execution-mode", mode],
            environment
            | {
                "PERAGO_WORKSPACE_ROOT": str(folder / kind / "workspaces"),
                "PERAGO_LOG_ROOT": str(folder / kind / "logs"),
            },
        )
        for kind in plan.kinds
    ]  # fmt: skip


def _perago_threads(setting: Setting, plan: Plan, folder: Path) -> Commands:
    return _perago(setting, plan, folder, mode="thread")


def _client(module: str, *words: str) -> Start:
    def start(setting: Setting, plan: Plan, _: Path) -> Commands:
        tasks = [
            f"{task_name(kind, plan.run)}={PAUSE_S if kind == 'pause' else 0}"
            for kind in plan.kinds
        ]
        given = [*words, setting.addresses.conductor_url, str(plan.slots), *tasks]
        return [([sys.executable, "-m", module, *given], {"PYTHONPATH": str(ROOT)})]

    return start


STARTS: Mapping[str, Start] = {
    "worker": _worker,
    "worker-threads": _worker_threads,
    "perago": _perago,
    "perago-threads": _perago_threads,
    "plain": _client("benchmarks.plain_worker"),
    "limit": _client("benchmarks.bare_loop", "batch"),
    "limit-one": _client("benchmarks.bare_loop", "one"),
    "limit-next": _client("benchmarks.bare_loop", "next"),
}
"""`worker` is this project with its defaults, `perago` perago 0.6.1 with its own, `plain` the
TaskHandler of conductor-python, `limit` a bare client, `limit-one` one that takes one task with
each poll, `limit-next` one that takes it with the answer to its last report."""

NAMES = (*STARTS, "limit-verified")
"""All that are compared: `limit-verified`, which is not started but runs here, is the bare client
that computes the MD5 of what it reads."""


@contextmanager
def started(name: str, setting: Setting, plan: Plan) -> Iterator[Running]:
    """Start a contender in an empty folder; end everything it started after the block."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as created:
        folder = Path(created)
        commands = STARTS[name](setting, plan, folder)
        running = Running(name, plan.run, time.time(), folder, [])
        with running.log.open("wb") as log:
            try:
                for command, environment in commands:
                    running.processes.append(
                        subprocess.Popen(
                            command,
                            stdin=subprocess.DEVNULL,
                            stdout=log,
                            stderr=log,
                            cwd=folder,
                            env={**os.environ, RUN_VARIABLE: plan.run, **environment},
                        )
                    )
                yield running
            finally:
                kill(running.processes)
