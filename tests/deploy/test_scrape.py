"""A real Prometheus scrapes a running worker: every metric arrives, every panel has data."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.metric_names import registered
from tests.deploy.promtool import RULES, alerts
from tests.deploy.test_dashboard import expressions
from tests.e2e.worker import Worker, started_worker, submit, write_local_config

DEADLINE_S = 60.0


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self._url = url
        self._process = process

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its API; nothing while it is not ready."""
        assert self._process.poll() is None, "Prometheus has ended"
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{query}", timeout=10) as answer:  # noqa: S310 -- an address of ours
                return json.load(answer)["data"]
        except (urllib.error.URLError, ConnectionError):
            return None

    def series(self, expression: str) -> list[dict[str, Any]]:
        """Return what an expression gives now."""
        data = self.ask("query", query=expression)
        result: list[dict[str, Any]] = data["result"] if data else []
        return result


@contextmanager
def started_prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Start a Prometheus that scrapes one worker every second and has our rules."""
    command = shutil.which("prometheus")
    if command is None:
        pytest.fail("prometheus is missing; Debian has it in its package prometheus")
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "workers", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                command,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Prometheus(f"http://127.0.0.1:{port}", process)
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


@pytest.fixture
def scraped(tmp_path: Path) -> Iterator[tuple[Worker, Prometheus, Path]]:
    """A worker that Prometheus has seen at rest."""
    config = write_local_config(tmp_path)
    with started_worker(config) as worker:
        address = str(worker.wait_event("http.listening")["address"])
        with started_prometheus(tmp_path, address.removeprefix("http://")) as prometheus:
            wait_for(lambda: prometheus.series("perago_worker_build_info"), "scrape")
            yield worker, prometheus, config
        worker.signal()
        worker.wait_exit()


def wait_for(probe: Callable[[], Any], what: str) -> Any:
    """Wait until `probe` returns something true."""
    give_up_at = time.monotonic() + DEADLINE_S
    while not (found := probe()):
        assert time.monotonic() < give_up_at, f"no {what} in {DEADLINE_S} s"
        time.sleep(0.2)
    return found


def test_every_metric_arrives_and_every_panel_has_data(
    scraped: tuple[Worker, Prometheus, Path], tmp_path: Path
) -> None:
    worker, prometheus, config = scraped
    files = tmp_path / "files"
    (files / "data").mkdir(parents=True)
    (files / "data/in.txt").write_text("input")
    submit(config, "probe.files", {"do": "write"}, files=files)
    submit(config, "probe.plain", {"do": "terminal"})
    worker.wait_event("attempt.finished", count=2)

    names = prometheus.ask("label/__name__/values")
    # The embedded queue and store are asked without requests.
    expected = {name for name in registered() if not name.startswith("perago_worker_http_")}
    assert expected - set(names) == set()
    for expression in expressions():
        if "_http_" in expression or "< Inf" in expression:
            continue  # and no lease is held at rest
        wait_for(partial(prometheus.series, expression), f"data for {expression}")
    published = 'perago_worker_attempts_total{task="probe.files", outcome="completed"} > 0'
    assert wait_for(lambda: prometheus.series(published), "completed attempt")


def test_every_rule_is_evaluated_and_a_worker_at_rest_has_no_alert(
    scraped: tuple[Worker, Prometheus, Path],
) -> None:
    _, prometheus, _ = scraped

    def evaluated() -> list[dict[str, Any]]:
        groups = (prometheus.ask("rules") or {"groups": []})["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return [] if any(rule["health"] == "unknown" for rule in rules) else rules

    rules = wait_for(evaluated, "evaluation of the rules")
    assert {rule["name"] for rule in rules} == set(alerts())
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []
