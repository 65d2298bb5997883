"""Workers that are replaced one after the other while tasks keep coming, on the real servers.

PERAGO_TEST_RESTARTS says how often all workers are replaced. PERAGO_TEST_OLDER_WORKER names the
checkout of an older version: every second worker is one of those then; both serve one queue.
"""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.worker import REPOSITORY_ROOT, Worker, started_worker
from tests.integration.load import SteadyLoad
from tests.integration.platform import Platform
from tests.rig.fault_proxy import FaultProxy, Sent

RESTARTS = int(os.environ.get("PERAGO_TEST_RESTARTS", "4"))
OLDER = os.environ.get("PERAGO_TEST_OLDER_WORKER", "")
WORKERS = 2

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180 + 60 * RESTARTS)]

_log = logging.getLogger(__name__)


class Extensions(FaultProxy):
    """Stands before Conductor and knows when each lease was extended last."""

    def __init__(self, target: str) -> None:
        self.last: dict[str, float] = {}
        super().__init__(target)

    @property
    def api_url(self) -> str:
        """The address workers are given."""
        return f"{self.url}/api"

    def note(self, method: str, target: str, body: bytes) -> tuple[Sent, str]:
        """Take note of a request."""
        if method == "POST" and b'"extendLease"' in body:
            update = json.loads(body)
            if update["extendLease"]:
                self.last[update["taskId"]] = time.time()
        return super().note(method, target, body)


class Deployment:
    """Workers over one configuration; a new one is ready before an old one is told to end."""

    def __init__(self, config: Path, load: SteadyLoad, stack: ExitStack) -> None:
        self._config, self._load, self._stack = config, load, stack
        self._running: list[Worker] = []
        self.ended: list[Worker] = []

    def scale_up(self) -> None:
        """Start one more worker and wait until it polls."""
        number = len(self._running) + len(self.ended)
        source = Path(OLDER) if OLDER and number % 2 == 0 else REPOSITORY_ROOT
        environment = {"PYTHONPATH": str(source)}
        worker = self._stack.enter_context(
            started_worker(self._config, env=environment, cwd=source)
        )
        self._running.append(worker)
        self._load.wait_for(
            lambda: worker.all_events("worker.state_changed", state="running"), "new worker"
        )

    def scale_down(self) -> None:
        """Tell the oldest worker to end and wait until it has."""
        worker = self._running.pop(0)
        worker.signal()
        self._load.wait_for(lambda: worker.process.poll() is not None, "end of a worker")
        assert worker.wait_exit() == 0
        self.ended.append(worker)

    def restart(self) -> None:
        """Replace every worker, one at a time."""
        for _ in range(WORKERS):
            self.scale_up()
            self.scale_down()

    def stop(self) -> None:
        """End all workers."""
        while self._running:
            self.scale_down()


def test_rolling_restarts_under_a_steady_load_lose_and_double_nothing(
    platform: Platform, tmp_path: Path
) -> None:
    """No retry is used, and heartbeats go on for longer than the body writes."""
    config = platform.write_config(
        tmp_path,
        modules="steady",
        root=REPOSITORY_ROOT / "tests/tasks",
        extra='[tasks."steady.write"]\nconcurrency = 2\n',
    )
    load = SteadyLoad(platform)
    with closing(Extensions(platform.conductor_url)) as conductor, ExitStack() as stack:
        config.write_text(config.read_text().replace(platform.conductor_url, conductor.api_url))
        deployment = Deployment(config, load, stack)
        for _ in range(WORKERS):
            deployment.scale_up()
        load.go_on(4)
        for _ in range(RESTARTS):
            deployment.restart()
        verdict = load.finish()
        deployment.stop()
    ended_while_draining = sum(len(_finished_while_draining(w)) for w in deployment.ended)
    _log.info(
        "%d restarts: %s, %d attempts ended while draining",
        *(RESTARTS, verdict, ended_while_draining),
    )
    assert verdict.lost == []
    assert verdict.doubled == []
    assert verdict.retried == []
    assert verdict.publications == 2 * verdict.workflows
    assert ended_while_draining > 0, "no worker had anything to do when it was told to end"
    for attempt in verdict.attempts:
        last_byte_at = attempt["outputData"]["result"]["last_byte_at"]
        assert conductor.last[attempt["taskId"]] > last_byte_at


def _finished_while_draining(worker: Worker) -> list[dict[str, Any]]:
    (draining,) = worker.all_events("worker.state_changed", state="draining")
    finished = worker.all_events("attempt.finished", outcome="completed")
    return [event for event in finished if _when(event) > _when(draining)]


def _when(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["timestamp"]).timestamp()
