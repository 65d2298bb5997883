"""The compose file and the systemd unit: what they name exists, and workers have time to end."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from perago_worker.config import WorkerConfig, load_config
from tests.deploy.promtool import ROOT, RULES, promtool

COMPOSE = ROOT / "deploy/compose"
UNIT = ROOT / "deploy/systemd/perago-worker.service"


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text(encoding="utf-8"))
    return content


def time_to_end(config: WorkerConfig) -> float:
    """Return the seconds for the drain, for publishing and for handing back."""
    publish = config.publish.merge_timeout + config.publish.completion_timeout
    return max(
        config.worker.drain_timeout + publish + 15, max(config.worker.drain_timeout, 30) + 35
    )


def test_what_compose_mounts_exists() -> None:
    services = compose()["services"]
    sources = [
        volume.split(":")[0]
        for service in services.values()
        for volume in service.get("volumes", [])
        if volume.startswith(".")
    ]
    sources += [secret["file"] for secret in compose()["secrets"].values()]
    sources += [services["worker"]["build"]["context"]]
    assert sources
    assert [source for source in sources if not (COMPOSE / source).exists()] == []


def test_compose_listens_on_the_loopback_interface_only() -> None:
    for name, service in compose()["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name


def test_composed_worker_accepts_its_configuration(tmp_path: Path) -> None:
    text = (COMPOSE / "worker.toml").read_text(encoding="utf-8")
    worker = compose()["services"]["worker"]
    for secret in worker["secrets"]:
        mounted = tmp_path / secret["target"]
        shutil.copy(COMPOSE / compose()["secrets"][secret["source"]]["file"], mounted)
        mounted.chmod(0o400)
    (tmp_path / "worker.toml").write_text(text.replace("/run/secrets", str(tmp_path)))
    config = load_config(tmp_path / "worker.toml", environ={})
    assert not config.warnings
    assert worker["stop_grace_period"] == f"{time_to_end(config):.0f}s"


def test_composed_worker_has_the_keys_of_the_composed_store() -> None:
    store = compose()["services"]["lakefs"]["environment"]
    for name in ("access-key-id", "secret-access-key"):
        key = (COMPOSE / "secrets" / name).read_text(encoding="utf-8").strip()
        assert key == store[f"LAKEFS_INSTALLATION_{name.replace('-', '_').upper()}"]


def test_composed_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    shutil.copy(COMPOSE / "prometheus.yml", tmp_path)
    shutil.copy(RULES, tmp_path)
    result = promtool("check", "config", str(tmp_path / "prometheus.yml"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 rule files found" in result.stdout


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """With a program that exists in the worker's place."""
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"=/opt/perago-worker/bin/\S+", "=/bin/true", UNIT.read_text()))
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    exposed = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert exposed.returncode == 0, exposed.stdout


def test_unit_gives_the_worker_time_to_end(tmp_path: Path) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read(UNIT)
    (tmp_path / "worker.toml").write_text(
        '[worker]\nmodules = ["shop"]\n[queue]\nkind = "local"\n[store]\nkind = "local"\n'
    )
    defaults = load_config(tmp_path / "worker.toml", environ={})
    assert float(parser["Service"]["TimeoutStopSec"]) == time_to_end(defaults)
