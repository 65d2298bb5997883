"""A worker in trouble, for real: what its probes, its status and the alerts say of it.

Each test brings a process into a trouble, looks at what it says, and hands what Prometheus would
have scraped before and during it to the alerts, as if the trouble had gone on for a quarter of an
hour.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.alert_cases import WORKER, braced
from tests.deploy.promtool import RULES, alerts, promtool
from tests.e2e.worker import (
    Worker,
    fetch,
    run_command,
    started_worker,
    submit,
    write_local_config,
)

BEFORE_MINUTES = 10
DURING_MINUTES = 15

WEDGED = """
import threading
from perago_worker.cli import main
from perago_worker.runtime.poller import Poller

one, other, meeting = threading.Lock(), threading.Lock(), threading.Barrier(2)
poll, silent_for_s = Poller._poll, Poller.silent_for_s

def take_both(first, second):
    with first:
        meeting.wait()
        with second:
            pass

def poll_and_wait_for_each_other(self, *arguments):
    answer = poll(self, *arguments)
    if self.task_type == "probe.plain":
        self.since = 300.0  # what would take minutes
        self.polled_at -= self.since
        threading.Thread(target=take_both, args=(other, one), daemon=True).start()
        take_both(one, other)
    return answer

Poller._poll = poll_and_wait_for_each_other
Poller.silent_for_s = lambda self: silent_for_s(self) + getattr(self, "since", 0.0)
main()
"""

WITHOUT_ROOM = """
import resource, shutil
from perago_worker.cli import main

ROOM = 1 << 20
usage = shutil.disk_usage
shutil.disk_usage = lambda path: usage(path)._replace(free=ROOM)
resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
main()
"""
"""The kernel refuses to let a file grow beyond a mebibyte, as a full disk would, which a process
may ask of it without being privileged; how much is left on the disk has to be made up then."""


class Scrape:
    """What a worker's metrics were at one moment."""

    def __init__(self, text: str) -> None:
        self.values = {
            sample.name + braced({**WORKER, **sample.labels}): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith(("perago_worker_", "process_start_time"))
        }


def expect_alerts(folder: Path, before: Scrape, during: Scrape | None, expected: set[str]) -> None:
    """Assert which alerts fire when what was scraped twice goes on so; None is never again."""
    up = f"1x{BEFORE_MINUTES - 1} {int(during is not None)}x{DURING_MINUTES}"
    series = {f"up{braced(WORKER)}": up}
    series |= {name: _went_on(name, value, during) for name, value in before.values.items()}
    case = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": n, "values": v} for n, v in series.items()],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"}) * 0',
                        "eval_time": f"{BEFORE_MINUTES + DURING_MINUTES - 1}m",
                        "exp_samples": [
                            {"labels": braced({"alertname": name}), "value": 0}
                            for name in sorted(expected)
                        ],
                    }
                ],
            }
        ],
    }
    file = folder / "case.yaml"
    file.write_text(yaml.safe_dump(case))
    result = promtool("test", "rules", str(file))
    assert result.returncode == 0, result.stdout + result.stderr
    assert expected <= set(alerts())


def _went_on(name: str, before: float, during: Scrape | None) -> str:
    """Return the values of a series, a minute apart, in promtool's notation."""
    first = BEFORE_MINUTES - 1
    if "process_start_time" in name:
        before = 0.0
    if "timestamp_seconds" in name:
        # Of a clock that begins with the test; it goes on where it went on for real.
        if not before:
            return f"0x{first + DURING_MINUTES}"
        if during is not None and during.values[name] > before:
            return f"0+60x{first + DURING_MINUTES}"
        return f"0+60x{first} {60 * first}x{DURING_MINUTES}"
    if during is None:
        return _repeated(before, first)
    now = 0.0 if "process_start_time" in name else during.values[name]
    is_counter = "_total{" in name or "_count{" in name or "_bucket{" in name
    if is_counter and now > before:
        return f"{before}x{first} {now}+{now - before}x{DURING_MINUTES}"
    return f"{_repeated(before, first)} {_repeated(now, DURING_MINUTES)}"


def _repeated(value: float, times: int) -> str:
    if not math.isfinite(value):  # promtool repeats none of these
        return " ".join(["+Inf"] * (times + 1))
    return f"{value}x{times}"


def scrape(address: str) -> Scrape:
    status, text = fetch(f"{address}/metrics")
    assert status == 200
    return Scrape(text)


def address_of(worker: Worker) -> str:
    return f"http://{worker.wait_event('http.listening')['address']}"


def told(address: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fetch(f"{address}/status.json")[1])
    return found


@contextmanager
def started(arguments: list[str]) -> Iterator[Worker]:
    """Start a worker by another command than its own."""
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield Worker(process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_worker_that_is_paused_does_not_answer(tmp_path: Path) -> None:
    """Neither probes nor scrapes, which is what an alert says; it goes on where it was."""
    config = write_local_config(tmp_path)
    with started_worker(config) as worker:
        address = address_of(worker)
        worker.wait_event("poll.finished", count=8)
        before = scrape(address)
        worker.signal(signal.SIGSTOP)
        try:
            host, _, port = address.removeprefix("http://").partition(":")
            with closing(socket.create_connection((host, int(port)), timeout=0.5)) as probe:
                probe.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
                with pytest.raises(TimeoutError):
                    probe.recv(1)
        finally:
            worker.signal(signal.SIGCONT)
        assert fetch(f"{address}/livez") == (200, "ok\n")
        assert fetch(f"{address}/readyz") == (200, "ok\n")
        worker.signal()
        assert worker.wait_exit() == 0

    expect_alerts(tmp_path, before, None, {"PeragoWorkerNotAnswering"})


def test_a_worker_whose_threads_wait_for_each_other_is_not_alive(tmp_path: Path) -> None:
    """Two threads of a poller hold a lock each and want the other's."""
    config = write_local_config(tmp_path)
    with started([sys.executable, "-c", WEDGED, "--config", str(config)]) as worker:
        address = address_of(worker)
        before = scrape(address)
        stalled = worker.wait_event("service.stalled")
        assert stalled["service"] == "poller probe.plain"
        assert stalled["stack"].count("in take_both") == 2
        status, reasons = fetch(f"{address}/livez")
        assert (status, "poller probe.plain has made no progress" in reasons) == (503, True)
        status, reasons = fetch(f"{address}/readyz")
        assert (status, "probe.plain: last polled" in reasons) == (503, True)
        assert "poller probe.plain" in told(address)["not_alive"][0]
        assert "in take_both" in fetch(f"{address}/stacks")[1]
        asked = run_command(config, "status", "--url", address)
        assert asked.returncode == 1
        assert "not alive: poller probe.plain" in asked.stdout
        during = scrape(address)
        before.values = {name: before.values[name] for name in during.values}

    expect_alerts(tmp_path, before, during, {"PeragoWorkerStalled", "PeragoWorkerNotPolling"})


def test_a_worker_without_room_fails_attempts_and_stays_ready(tmp_path: Path) -> None:
    """It is told in the outcome, the log and the metrics; the next attempt may find room."""
    config = write_local_config(tmp_path)
    files = tmp_path / "files"
    (files / "data").mkdir(parents=True)
    (files / "data/in.txt").write_bytes(os.urandom(4 << 20))
    with started([sys.executable, "-c", WITHOUT_ROOM, "--config", str(config)]) as worker:
        address = address_of(worker)
        worker.wait_event("poll.finished", count=8)
        before = scrape(address)
        submit(config, "probe.files", {"do": "nothing"}, files=files)
        finished = worker.wait_event("attempt.finished", count=2)  # there is one retry
        assert (finished["outcome"], finished["code"]) == ("failed", "disk_full")
        polls = len(worker.all_events("poll.finished"))
        worker.wait_event("poll.finished", count=polls + 8)
        assert fetch(f"{address}/livez") == (200, "ok\n")
        assert fetch(f"{address}/readyz") == (200, "ok\n")
        assert told(address)["recent"][0]["code"] == "disk_full"
        during = scrape(address)

    expect_alerts(tmp_path, before, during, {"PeragoWorkerDiskLow", "PeragoWorkerAttemptsFail"})


def test_a_worker_whose_server_is_down_is_alive_and_not_ready(tmp_path: Path) -> None:
    """Nothing is gained by a restart; it says which task types it cannot poll for, and why."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    config = write_local_config(tmp_path)
    kind = f'kind = "conductor"\nurl = "http://127.0.0.1:{port}"'
    config.write_text(config.read_text().replace('kind = "local"', kind, 1))
    with started_worker(config) as worker:
        address = address_of(worker)
        before = scrape(address)
        worker.wait_event("poll.finished", count=8, outcome="error")
        assert fetch(f"{address}/livez") == (200, "ok\n")
        status, reasons = fetch(f"{address}/readyz")
        assert (status, reasons.count("cannot poll: ")) == (503, 4)
        assert fetch(f"{address}/startupz")[0] == 503
        (server,) = told(address)["servers"]
        assert (server["name"], server["answered_ago_s"]) == ("conductor", None)
        assert run_command(config, "status", "--url", address).returncode == 1
        during = scrape(address)
        worker.signal()
        assert worker.wait_exit() == 0

    expect_alerts(tmp_path, before, during, {"PeragoWorkerNotPolling", "PeragoWorkerPollErrors"})
