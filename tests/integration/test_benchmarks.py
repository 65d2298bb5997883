"""The benchmark measures something: every kind of contender that needs no download, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.servers.servers import Addresses

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]


def test_the_quick_benchmark_measures_everyone(servers: Addresses, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks", "--quick", "--out", str(tmp_path / "out"),
            "--rows", "small,calls,backlog,parts", "--contenders", "worker,plain,limit",
        ],
        cwd=ROOT,
        env={**os.environ, **servers.to_environment()},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = {row["row"]: row for row in written["rows"]}
    measured = {
        key: {sample["contender"] for sample in row["samples"]} for key, row in rows.items()
    }
    assert measured == {
        "cold": {"worker", "limit"},
        "warm": {"worker", "limit"},
        "calls": {"worker"},
        "calls-again": {"worker"},
        "backlog-10": {"worker", "plain", "limit"},
        "parts": {"worker", "limit"},
    }
    for row in rows.values():
        if row["row"] == "parts":
            continue  # differences, of so few attempts that they may come to nothing
        assert all(summary["value"] > 0 for summary in row["summaries"])
    (attempt,) = (s for s in rows["cold"]["samples"] if s["contender"] == "worker")
    assert {"download", "body", "stage", "publish", "report"} <= set(attempt["steps"])
    assert "no-op backlog, 10 slots" in done.stdout
    assert str(tmp_path) not in json.dumps(written)
