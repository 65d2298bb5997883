"""Where the processor time of an attempt that does nothing goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.contenders import ROOT
from benchmarks.platform import BenchmarkError
from benchmarks.results import Metric, Row, Sample
from benchmarks.tasks.contract import task_name

PARTS = Row(
    "parts",
    "a no-op task, its parts, CPU ms",
    (
        Metric("requests", "report, and an eighth of a poll"),
        Metric("child", "child process"),
        Metric("core", "steps and lease"),
        Metric("telemetry", "log, metrics, status"),
        Metric("total", "in all"),
    ),
)

PARTS_TASKS = 4
"""Times the tasks of a backlog: they are shared by five ways to work them off."""


def parts(bench: Bench) -> Iterator[Sample]:
    """Measure the parts in a process of their own, once in each round."""
    for number in range(bench.scale.rounds):
        bench.say(f"parts: {number + 1} of {bench.scale.rounds}")
        run = bench.new_run()
        task = task_name("noop", run)
        count = PARTS_TASKS * bench.scale.backlog
        bench.conductor.start_many(task, {"params": {}}, count)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "benchmarks.parts"),
                    *(bench.setting.addresses.conductor_url, task, str(count)),
                    folder,
                ],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        if done.returncode:
            raise BenchmarkError(f"the parts cannot be measured: {done.stderr[-2000:]}")
        for contender, values in json.loads(done.stdout).items():
            yield Sample(PARTS.key, contender, values)
