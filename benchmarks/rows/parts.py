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
    "an attempt that does nothing, its parts alone, CPU ms",
    (
        Metric("poll", "its part of a poll for 8"),
        Metric("report", "report"),
        Metric("core", "steps and lease"),
        Metric("telemetry", "log, metrics, status"),
        Metric("child", "child process"),
        Metric("total", "in all"),
    ),
)


def parts(bench: Bench) -> Iterator[Sample]:
    """Measure the parts in a process of their own, once in each round."""
    for number in range(bench.scale.rounds):
        bench.say(f"parts: {number + 1} of {bench.scale.rounds}")
        run = bench.new_run()
        task = task_name("noop", run)
        bench.conductor.start_many(task, {"params": {}}, bench.scale.backlog)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "benchmarks.parts"),
                    *(bench.setting.addresses.conductor_url, task, str(bench.scale.backlog)),
                    folder,
                ],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        if done.returncode:
            raise BenchmarkError(f"the parts cannot be measured: {done.stderr[-2000:]}")
        yield Sample(PARTS.key, "worker", json.loads(done.stdout))
