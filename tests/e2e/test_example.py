"""The example that ships with the project, by the commands that a newcomer types."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.worker import REPOSITORY_ROOT, run_command


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A copy of the shipped configuration and example, with nothing kept beside it yet."""
    folder = tmp_path / "config"
    keep_out = shutil.ignore_patterns("var", "__pycache__")
    shutil.copytree(REPOSITORY_ROOT / "config", folder, ignore=keep_out)
    return folder / "local.toml"


@pytest.mark.long
def test_submit_run_and_look(config: Path) -> None:
    """Two tasks are queued, carried out and shown, with the ref that was published."""
    data = config.parent / "examples/station_data"
    place = ("--workspace", "weather@main", "--import", str(data))
    air = json.dumps({"temperature_c": 21.5, "humidity_percent": 60})
    for arguments in (("weather.daily", *place), ("weather.dew_point", "--params", air)):
        done = run_command(config, "submit", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
    done = run_command(config, "--until-idle")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 COMPLETED" in done.stdout
    records = json.loads(run_command(config, "tasks", "--json").stdout)
    results = {record["task_type"]: record["output"] for record in records}
    assert results["weather.dew_point"] == {"result": {"dew_point_c": 13.41}}
    assert results["weather.daily"]["result"] == {
        "stations": ["harbour", "hilltop", "valley"],
        "readings": 492,
        "dropped": 12,
    }
    table = run_command(config, "tasks").stdout
    assert results["weather.daily"]["workspace"]["ref"][:12] in table
    assert "git --git-dir=" in table
