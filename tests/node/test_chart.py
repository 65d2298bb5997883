"""The chart on a real node, under Pod Security "restricted"."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from deploy.node.node import NodeError
from tests.e2e.worker import fetch
from tests.integration.load import SteadyLoad
from tests.integration.platform import wait_for, workspace
from tests.node.release import Release, World, helm

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1200)]

RESTARTS = 5
# Longer than everything that may happen to a pod before its body ends.
LONG_S = 12.0

_log = logging.getLogger(__name__)


def test_pods_are_ready_and_probes_answer(shop: Release, tmp_path: Path) -> None:
    """As few rights as the chart promises, in the process that runs."""
    pods = shop.pods()
    assert len(pods) == 2
    for name, pod in pods.items():
        address = f"http://{pod['status']['podIP']}:9464"
        for path in ("/livez", "/readyz", "/startupz", "/metrics", "/status.json"):
            assert fetch(address + path)[0] == 200, path
        assert shop.exec(name, "id", "-u").strip() == "10001"
        status = shop.exec(name, "cat", "/proc/1/status")
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        assert shop.exec(name, "sh", "-c", "touch /x 2>/dev/null || echo refused") == "refused\n"
        assert shop.exec(name, "sh", "-c", "ls /var/run/secrets 2>/dev/null | wc -l") == "0\n"


def test_example_runs_in_the_cluster(shop: Release, world: World) -> None:
    """Registered, checked and run from inside of pods; published once."""
    pod = next(iter(shop.pods()))
    shop.exec(pod, "perago-worker", "taskdef", "register", "--yes")
    helm(world.node, "--namespace", shop.namespace, "test", "shop", "--timeout=120s")

    platform = world.platform
    repository, ref = platform.repository({"texts/a.txt": b"hello small world"})
    inputs = {"workspace": workspace(repository, ref), "params": {"shortest": 6}}
    workflow_id = platform.start_task("shop.count_words", inputs)
    state = platform.wait_ended(workflow_id)
    assert state["status"] == "COMPLETED", state.get("reasonForIncompletion")
    assert state["tasks"][0]["outputData"]["result"] == {"files": 1, "words": 0}
    assert len(platform.publications(repository)) == 1
    assert "a.txt" in str(platform.content(repository, "main", "texts/words.table"))


def test_pod_that_wants_more_rights_is_refused(shop: Release) -> None:
    """The namespace is one in which the chart's own pods would have been refused."""
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "greedy"},
        "spec": {"containers": [{"name": "c", "image": "localhost/pause:1"}]},
    }
    with pytest.raises(NodeError, match='violates PodSecurity "restricted'):
        shop.kubectl("create", "--filename=-", stdin=json.dumps(pod))


def test_rolling_restarts_lose_and_double_nothing(
    shop: Release, world: World, tmp_path: Path
) -> None:
    """`kubectl rollout restart` again and again, with workspace tasks all the time; no retry."""
    load = SteadyLoad(world.platform)
    load.go_on(4)
    before = set(shop.pods())
    for number in range(RESTARTS):
        shop.kubectl("rollout", "restart", "deployment/shop")
        shop.wait_rolled_out(tmp_path / f"rollout-{number}", load)
    verdict = load.finish()
    _log.info("%d rollouts: %s", RESTARTS, verdict)
    assert before.isdisjoint(shop.pods())
    assert verdict.lost == []
    assert verdict.doubled == []
    assert verdict.retried == []
    assert verdict.publications == 2 * verdict.workflows
    assert shop.restarts() == 0


def test_pod_that_is_killed_loses_and_doubles_nothing(
    shop: Release, world: World, tmp_path: Path
) -> None:
    """One second to end in: what ran there is run again when its lease is over."""
    load = SteadyLoad(world.platform)
    long = load.start(seconds=LONG_S)
    victim = load.wait_for(lambda: _pod_that_runs(shop, world, long), "long body")
    shop.kubectl("delete", "pod", victim, "--grace-period=1", "--wait=false")
    shop.wait_rolled_out(tmp_path / "rollout", load)
    verdict = load.finish(timeout_s=240)
    _log.info("Killed a pod: %s", verdict)
    assert verdict.lost == []
    assert verdict.doubled == []
    assert verdict.publications == 2 * verdict.workflows
    assert long in verdict.retried, "the pod was gone before it could be killed"


def test_eviction_is_a_drain(shop: Release, world: World, tmp_path: Path) -> None:
    """The body goes on, publishes and reports; the budget lets go of one pod at a time."""
    load = SteadyLoad(world.platform)
    long = load.start(seconds=LONG_S)
    victim = load.wait_for(lambda: _pod_that_runs(shop, world, long), "long body")
    other = next(name for name in shop.pods() if name != victim)
    logs = tmp_path / "logs"
    following = shop.node.kubectl_process(
        "--namespace", shop.namespace, "logs", "--follow", victim, output=logs
    )
    evicted_at = time.time()
    _evict(shop, victim)
    with pytest.raises(NodeError, match="violate the pod's disruption budget"):
        _evict(shop, other)
    load.wait_for(lambda: following.poll() is not None, "end of the evicted pod")
    shop.wait_rolled_out(tmp_path / "rollout", load)
    verdict = load.finish()
    _log.info("Evicted a pod: %s", verdict)
    assert verdict.lost == []
    assert verdict.doubled == []
    assert verdict.retried == []
    first = world.platform.state(long)["tasks"][0]
    assert (first["status"], first["pollCount"]) == ("COMPLETED", 1)
    assert first["workerId"].startswith(victim)
    assert first["endTime"] / 1000 > evicted_at, "the body had ended before the eviction"
    events = [json.loads(line) for line in logs.read_text().splitlines() if line.startswith("{")]
    states = [e["state"] for e in events if e["event"] == "worker.state_changed"]
    assert states[-2:] == ["draining", "stopped"]
    assert shop.restarts() == 0


def test_servers_that_are_away_restart_no_pod(shop: Release, world: World) -> None:
    """Not ready while the queue cannot be polled, alive all the time, ready again by itself."""
    addresses = [f"http://{p['status']['podIP']}:9464" for p in shop.pods().values()]
    world.servers.conductor.stop()
    try:
        wait_for(lambda: all(fetch(a + "/readyz")[0] == 503 for a in addresses), "not ready")
        assert all(fetch(a + "/livez")[0] == 200 for a in addresses)
        wait_for(lambda: not _any_ready(shop), "pods that are not ready")
    finally:
        world.servers.conductor.start()
    wait_for(lambda: _all_ready(shop), "pods that are ready again")
    assert shop.restarts() == 0


def _pod_that_runs(shop: Release, world: World, workflow_id: str) -> str | None:
    task = world.platform.state(workflow_id)["tasks"][0]
    if task["status"] != "IN_PROGRESS":
        return None
    return next(name for name in shop.pods() if task["workerId"].startswith(name))


def _evict(shop: Release, pod: str) -> None:
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": shop.namespace},
    }
    path = f"/api/v1/namespaces/{shop.namespace}/pods/{pod}/eviction"
    shop.node.kubectl("create", "--raw", path, "--filename=-", stdin=json.dumps(eviction))


def _readiness(shop: Release) -> list[bool]:
    return [
        condition["status"] == "True"
        for pod in shop.pods().values()
        for condition in pod["status"]["conditions"]
        if condition["type"] == "Ready"
    ]


def _any_ready(shop: Release) -> bool:
    return any(_readiness(shop))


def _all_ready(shop: Release) -> bool:
    return all(_readiness(shop))
