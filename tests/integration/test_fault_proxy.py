"""Faults on the wire: a proxy between a worker and both real servers, one fault in each case.

A worker meets the fault; held requests are let go when it has ended; clean workers finish, without
a proxy. PERAGO_TEST_PROXY_CASES says how many cases run: a number, `all`, or a pattern of names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.servers.servers import LakeFSAccess
from perago_worker.runtime.janitor import MIN_AGE_S
from tests.integration.platform import Platform
from tests.rig.fault_proxy import ACTIONS, FaultProxy, Rule, Sent
from tests.rig.history import Called, Entry
from tests.rig.kill_points import finished
from tests.rig.sampling import choose, run_all, tell, time_limit, wanted
from tests.rig.served import SERVED_SCENES, ServedCase, ServedScene
from tests.rig.worker_main import Forkers, forkers

pytestmark = pytest.mark.servers

CASES = "PERAGO_TEST_PROXY_CASES"
EVERYDAY = 20
REPEAT = f"{CASES}='{{}}' python -m pytest tests/integration/test_fault_proxy.py"
THREADS = 4

LASTING = {"reset_before", "503", "429"}
"""Actions that are tried three times in a row, too."""

SCENES = {"first": 3, "fenced_replace": 2}
"""Name -> how many objects are read from lakeFS: all three, or those that are not in the cache."""

READING = "GET /api/v1/repositories/*/refs/*/objects"


BEATS = {"queue.observe": "GET /api/tasks/*", "queue.extend": "POST /api/tasks"}
"""Calls of a heartbeat, with the requests they make."""


@dataclass(frozen=True)
class Case:
    """One fault in one scene, before one of the servers."""

    scene: ServedScene
    server: str
    rule: Rule

    def __str__(self) -> str:
        rule = self.rule
        at = f"{rule.at.call.replace(' /', ':').replace('*', '_')}:{rule.at.nth}"
        return f"{self.scene.name}/{self.server}/{at}/{rule.action}x{rule.times}"


@pytest.fixture
def workers() -> Iterator[Forkers]:
    with forkers(for_servers=True) as opened:
        yield opened


@contextmanager
def proxies(platform: Platform, rules: Mapping[str, Rule]) -> Iterator[dict[str, FaultProxy]]:
    """Offer a proxy before each server, with these rules."""
    targets = {
        "conductor": platform.conductor_url.removesuffix("/api"),
        "lakefs": platform.lakefs_access.endpoint,
    }
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(closing(FaultProxy(target, rules.get(name))))
            for name, target in targets.items()
        }


def run_worker(served: ServedCase, opened: Mapping[str, FaultProxy]) -> int:
    """Run a worker that finds the servers behind the proxies."""
    urls = {name: proxy.url for name, proxy in opened.items()}
    return served.run("faulty", calls=True, **urls)


@pytest.mark.timeout(time_limit(CASES, 240))
def test_no_fault_on_the_wire_breaks_a_promise(
    conductor_url: str, lakefs: LakeFSAccess, tmp_path: Path, workers: Forkers
) -> None:
    """The task completes in the end; nothing is published twice, lost, or left behind."""

    def watch(scene: ServedScene) -> Iterator[tuple[str, Sent]]:
        """Yield the requests of a worker that meets no fault."""
        with closing(Platform(conductor_url, lakefs)) as platform:
            served = ServedCase(scene, tmp_path / f"watched-{scene.name}", platform, workers)
            with proxies(platform, {}) as opened:
                assert run_worker(served, opened) == 0, served.log()
            beats = heartbeats(served.journal.read())
            assert served.finish() == [], served.log()
        reads = [sent for sent in opened["lakefs"].sent if sent.call == READING]
        assert len(reads) == SCENES[scene.name]
        for name, proxy in opened.items():
            yield from ((name, sent) for sent in certain(proxy.sent, beats))

    def run(case: Case) -> list[str]:
        with closing(Platform(conductor_url, lakefs)) as platform:
            root = tmp_path / "".join(c if c.isalnum() else "-" for c in str(case))
            return run_case(case, ServedCase(case.scene, root, platform, workers))

    matrix = [
        Case(scene, server, rule)
        for name in SCENES
        for scene in [SERVED_SCENES[name]]
        for server, sent in watch(scene)
        for rule in rules_of(sent, scene)
    ]
    assert len(matrix) >= 150
    cases = choose(matrix, wanted(CASES, EVERYDAY))
    assert cases, "no case has such a name"
    summary = run_all(cases, run, threads=THREADS, repeat=REPEAT)
    tell(f"faults on the wire: {summary}, of {len(matrix)}")


def heartbeats(history: Sequence[Entry]) -> Counter[str]:
    """Count the requests of heartbeats: how many there are, only the time tells."""
    calls = [entry for entry in history if isinstance(entry, Called)]
    return Counter(BEATS[call.name] for call in calls if call.thread.startswith("heartbeat"))


def certain(sent: Sequence[Sent], beats: Counter[str]) -> Iterator[Sent]:
    """Yield the requests that every run makes: as many as there are without heartbeats."""
    numbers = Counter(each.call for each in sent) - beats
    yield from (each for each in sent if each.nth <= numbers[each.call] and is_of_attempt(each))


def is_of_attempt(sent: Sent) -> bool:
    """Whether a request belongs to the attempt, not to the polls and looks after it."""
    return ("poll" not in sent.call and "queue" not in sent.call) or sent.nth == 1


def rules_of(sent: Sent, scene: ServedScene) -> Iterator[Rule]:
    """Yield what can go wrong with a request in a scene."""
    for action in ACTIONS:
        if action == "held" and not scene.fenced:
            continue  # late merges are kept out by the fence and by nothing else
        for times in (1, 3) if action in LASTING else (1,):
            yield Rule(sent, action, times)


def run_case(case: Case, served: ServedCase) -> list[str]:
    """Let a worker meet its fault and clean ones finish; return what is wrong then."""
    complaints = []
    with proxies(served.platform, {case.server: case.rule}) as opened:
        code = run_worker(served, opened)
        if code != 0:
            complaints.append(f"the worker ended with {code}")
        if not opened[case.server].hits:
            complaints.append("the fault did not happen")
        served.await_retry()
        released = opened[case.server].release()
    # Nobody has heard of what a late request made, on which the fence was to be tried for instance.
    complaints += served.finish(ahead_s=MIN_AGE_S if released else 0.0)
    if not complaints:
        return []
    ends = [f"{e.kind} {e.code} {e.reason}" for e in finished(served.journal.read())]
    return [*complaints, *ends, *served.log()]
