"""What every measurement is given: servers, sizes, who takes part, and the tasks registered."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import STARTS, Plan, Running, Setting, started
from benchmarks.platform import BenchmarkError, Conductor, LakeFS
from benchmarks.tasks.contract import NO_RUN, PREFIX
from deploy.servers.pair import Addresses
from perago_worker import build_taskdef
from perago_worker.task import load_module_tasks

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
KINDS = ("noop", "pause", "touch", "rewrite", "read")
"""The tasks that are measured, each the module of that name."""


@dataclass(frozen=True)
class Scale:
    """How much is done.

    Attributes:
        rounds: How often each contender has its turn.
        repeats: Attempts that follow the first of a turn.
    """

    rounds: int = 3
    repeats: int = 2
    small_files: int = 1000
    large_bytes: int = 256 * MIB
    rewritten_files: int = 200
    backlog: int = 800
    backlog_slots: tuple[int, ...] = (1, 10)
    pickups: int = 20
    idle_s: float = 10.0
    huge_bytes: int = 2 * GIB
    curve_files: tuple[int, ...] = (1, 10, 100, 1_000, 10_000)
    curve_slots: tuple[int, ...] = (1, 4, 16, 64)
    curve_bytes: tuple[int, ...] = (KIB, 32 * KIB, MIB, 32 * MIB, 256 * MIB, GIB)


QUICK = Scale(
    rounds=1,
    repeats=1,
    small_files=20,
    large_bytes=MIB,
    rewritten_files=8,
    backlog=24,
    backlog_slots=(10,),
    pickups=3,
    idle_s=1.0,
    huge_bytes=4 * MIB,
    curve_files=(1, 10),
    curve_slots=(1, 4),
    curve_bytes=(KIB, 100 * KIB),
)
"""Shows that everything works; its figures mean nothing."""


class Bench:
    """One run of the benchmark on one pair of servers.

    Args:
        wanted: Contenders that take part, of those that a measurement has.
        say: Told what is being done.
    """

    def __init__(
        self,
        addresses: Addresses,
        scale: Scale,
        *,
        wanted: Collection[str],
        perago: Callable[[], Path],
        say: Callable[[str], None],
    ) -> None:
        self.scale = scale
        self.say = say
        self.setting = Setting(addresses, perago)
        self.lakefs = LakeFS(addresses)
        self.conductor = Conductor(addresses)
        self.run = uuid.uuid4().hex[:8]
        self._wanted = wanted
        self._runs = itertools.count()
        self._taskdefs = [
            build_taskdef(definition)
            for kind in KINDS
            for definition in load_module_tasks(f"benchmarks.tasks.{kind}")
        ]
        self._repositories: list[str] = []

    def new_run(self) -> str:
        """Register the tasks under names of their own; return what those are told apart by."""
        run = f"{self.run}-{next(self._runs)}"
        text = json.dumps(self._taskdefs).replace(f"bench.{NO_RUN}.", f"bench.{run}.")
        self.conductor.register(json.loads(text))
        return run

    def turns(self, contenders: Sequence[str], rounds: int | None = None) -> Iterator[str]:
        """Yield whose turn it is: all of them in every round, each round one further."""
        present = [name for name in contenders if name in self._wanted]
        for number in range(self.scale.rounds if rounds is None else rounds):
            shift = number % len(present) if present else 0
            yield from present[shift:] + present[:shift]

    @contextmanager
    def start(
        self,
        name: str,
        kinds: Sequence[str],
        *,
        slots: int = 1,
        run: str | None = None,
        addresses: Addresses | None = None,
    ) -> Iterator[Running]:
        """Start a contender, at other addresses of the servers where they are given."""
        setting = Setting(addresses or self.setting.addresses, self.setting.perago)
        plan = Plan(kinds, slots, run or self.new_run())
        with started(name, setting, plan) as running:
            self.conductor.check = running.check
            try:
                yield running
            finally:
                self.conductor.check = lambda: None

    def repository(self, sizes: Sequence[int]) -> tuple[str, str]:
        """Make a fenced repository with random objects; return its name and the commit's id."""
        name = f"bench-{self.run}-{len(self._repositories)}"
        self.lakefs.repository(name)
        self._repositories.append(name)
        self.lakefs.seed(name, PREFIX, sizes)
        self._install_fence(name)
        return name, str(
            self.lakefs.json("GET", "repositories", name, "branches", "main")["commit_id"]
        )

    def _install_fence(self, repository: str) -> None:
        """As operators are told to; all contenders merge through it."""
        with tempfile.TemporaryDirectory(prefix="bench-") as created:
            folder = Path(created)
            plan = Plan(["noop"], 1, self.run)
            ((command, environment),) = STARTS["worker"](self.setting, plan, folder)
            done = subprocess.run(
                [*command, "fence", "install", repository, "main", "--yes"],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, **environment},
            )
        if done.returncode:
            raise BenchmarkError(f"the fence cannot be installed: {done.stderr or done.stdout}")

    def close(self) -> None:
        """Delete the repositories and release the connections."""
        for name in self._repositories:
            self.lakefs.delete_repository(name)
        self.lakefs.close()
        self.conductor.close()


def workspace(repository: str, branch: str, ref: str) -> dict[str, str]:
    """Return a task's `workspace` input, in the spelling that all contenders understand."""
    return {"repository": repository, "branch": branch, "refType": "commit", "ref": ref}
