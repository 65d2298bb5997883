"""How many requests an attempt takes: each of them is a wait, and a load on a server.

Counted, never timed. The interval of heartbeats is longer than these attempts take, which leaves
the one that confirms the lease before the merge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.worker import REPOSITORY_ROOT, started_worker
from tests.integration.platform import Platform, workspace
from tests.rig.fault_proxy import FaultProxy

pytestmark = pytest.mark.servers

REPOSITORY = "/api/v1/repositories/*"
CONDUCTOR = ["GET /api/tasks/*", "POST /api/tasks"]

LOOK = f"GET {REPOSITORY}/refs/*/commits"
READ = [
    f"GET {REPOSITORY}/refs/*/objects/ls",  # the listing of the workspace
    f"GET {REPOSITORY}/refs/*/objects",  # its one file
]
PUBLISHED = [
    LOOK,  # where the branch is, and with it the input commit
    f"GET {REPOSITORY}/refs/*/objects/ls",  # whether that holds the fence, asked once of a commit
    *READ,
    f"POST {REPOSITORY}/branches",
    f"POST {REPOSITORY}/branches/*/objects",
    f"POST {REPOSITORY}/branches/*/commits",
    LOOK,  # decides
    f"POST {REPOSITORY}/refs/*/merge/main",
    f"GET {REPOSITORY}/commits/*",  # the merge, to be verified
    f"DELETE {REPOSITORY}/branches/*",  # after the report
]
UNCHANGED = [LOOK, *READ, LOOK]
KEPT = [call for call in PUBLISHED if call not in READ]
KEPT.insert(1, f"GET {REPOSITORY}/refs/*/objects/ls")  # for the fence
DIFFERENCE = [
    f"GET {REPOSITORY}/refs/*/diff/*",  # what others have changed since
    f"GET {REPOSITORY}/refs/*/objects",  # the one file of it
]


def documented() -> list[str]:
    """Return the calls that the documentation asks permissions for, as proxies see them."""
    _, _, text = (REPOSITORY_ROOT / "docs/operations.md").read_text().partition("### Least privil")
    calls = re.findall(r"^\| `([A-Z]+) (/\S+)` \|", text, re.MULTILINE)
    roots = {"/user": "/api/v1", "/config": "/api/v1", "/repositories/*": "/api/v1"}
    return [f"{method} {roots.get(path, REPOSITORY)}{path}" for method, path in calls]


class Watched:
    """A worker's configuration, whose requests are written down on their way."""

    def __init__(self, platform: Platform, folder: Path, *, warm: int, cache: str = "0") -> None:
        self._conductor_root = platform.conductor_url.removesuffix("/api")
        self.conductor = FaultProxy(self._conductor_root)
        self.lakefs = FaultProxy(platform.lakefs_access.endpoint)
        self.config = platform.write_config(
            folder, heartbeat="60s", extra=f'[workspace]\nwarm = {warm}\ncache_max = "{cache}"\n'
        )
        text = self.config.read_text().replace(self._conductor_root, self.conductor.url)
        text = text.replace(platform.lakefs_access.endpoint, self.lakefs.url)
        self.config.write_text(text)

    def calls(self, proxy: FaultProxy) -> list[str]:
        """Return the requests so far, but for polls."""
        return [sent.call for sent in proxy.sent if "/poll/" not in sent.call]


@pytest.fixture(params=[0])
def watched(
    platform: Platform, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Watched]:
    """Watch a worker that keeps no workspace, or as many as the test asks for."""
    made = Watched(platform, tmp_path, warm=request.param)
    with closing(made.conductor), closing(made.lakefs):
        yield made


@pytest.mark.parametrize(
    ("deed", "of_store", "of_queue"),
    [
        # the lease is confirmed, observed once more, and the outcome reported
        ("write", PUBLISHED, [*CONDUCTOR, *CONDUCTOR]),
        ("nothing", UNCHANGED, CONDUCTOR),
    ],
)
def test_an_attempt_asks_for_nothing_twice(
    platform: Platform, watched: Watched, deed: str, of_store: list[str], of_queue: list[str]
) -> None:
    repository, ref = platform.repository({"data/in.txt": b"input"})
    with started_worker(watched.config) as worker:
        for nth in range(2):  # the first one finds out what holds for all that follow
            before = [len(watched.calls(p)) for p in (watched.lakefs, watched.conductor)]
            params = {"do": deed, "path": "in.txt", "text": f"text {nth}"}
            inputs = {"workspace": workspace(repository, ref), "params": params}
            state = platform.wait_ended(platform.start_task("probe.files", inputs))
            assert state["status"] == "COMPLETED", state
            ref = state["tasks"][0]["outputData"]["workspace"]["ref"]
            worker.wait_event("attempt.finished", count=nth + 1)

    assert watched.calls(watched.lakefs)[before[0] :] == of_store
    assert watched.calls(watched.conductor)[before[1] :] == of_queue


def test_what_is_in_the_cache_is_not_asked_for(platform: Platform, tmp_path: Path) -> None:
    """What the first attempt read and what it published are found by the second one's process."""
    watched = Watched(platform, tmp_path, warm=0, cache="1MiB")
    others = {f"data/{number}.txt": b"%d" % number for number in range(20)}
    repository, ref = platform.repository({"data/in.txt": b"input", **others})
    with closing(watched.conductor), closing(watched.lakefs):
        for deed in ("write", "nothing"):
            before = len(watched.calls(watched.lakefs))
            with started_worker(watched.config) as worker:
                params = {"do": deed, "path": "in.txt", "text": "text"}
                inputs = {"workspace": workspace(repository, ref), "params": params}
                state = platform.wait_ended(platform.start_task("probe.files", inputs))
                assert state["status"] == "COMPLETED", state
                ref = state["tasks"][0]["outputData"]["workspace"]["ref"]
                worker.wait_event("attempt.finished")
                worker.signal()  # what is killed can have a poll open that takes the next task
                assert worker.wait_exit() == 0

        object_reads = [call for call in watched.calls(watched.lakefs) if call == READ[-1]]
        assert len(object_reads) == 21
        assert READ[-1] not in watched.calls(watched.lakefs)[before:]


@pytest.mark.parametrize("watched", [1], indirect=True)
def test_a_kept_workspace_is_asked_for_differences_only(
    platform: Platform, watched: Watched
) -> None:
    """Nothing is listed and nothing read when nothing is different; else what is."""
    others = {f"data/{number}.txt": b"%d" % number for number in range(20)}
    repository, ref = platform.repository({"data/in.txt": b"input", **others})
    requests: list[list[str]] = []
    with started_worker(watched.config) as worker:
        for nth in range(4):
            before = len(watched.calls(watched.lakefs))
            params = {"do": "write", "path": "in.txt", "text": f"text {nth}"}
            inputs = {"workspace": workspace(repository, ref), "params": params}
            state = platform.wait_ended(platform.start_task("probe.files", inputs))
            assert state["status"] == "COMPLETED", state
            ref = state["tasks"][0]["outputData"]["workspace"]["ref"]
            worker.wait_event("attempt.finished", count=nth + 1)
            requests.append(watched.calls(watched.lakefs)[before:])
            if nth == 2:
                platform.lakefs.upload(repository, "main", "data/7.txt", b"other")
                ref = platform.lakefs.commit(repository, "main", message="somebody's")

    assert requests[2] == KEPT
    assert requests[3] == [*KEPT[:2], *DIFFERENCE, *KEPT[2:]]
    assert platform.content(repository, ref, "data/7.txt") == "other"


def test_no_attempt_asks_for_more_than_the_documented_policy_allows(
    platform: Platform, watched: Watched
) -> None:
    """Whatever bodies do; and of what the policy allows, attempts use most."""
    repository, ref = platform.repository({"data/in.txt": b"input", "data/more.txt": b"more"})
    with started_worker(watched.config) as worker:
        deeds = ("write", "delete", "nothing", "fail")
        for nth, deed in enumerate(deeds):
            params = {"do": deed, "path": "more.txt", "text": f"text {nth}"}
            inputs = {"workspace": workspace(repository, ref), "params": params}
            state = platform.wait_ended(platform.start_task("probe.files", inputs))
            output = state["tasks"][0].get("outputData", {})
            ref = output.get("workspace", {}).get("ref", ref)
            worker.wait_event("attempt.finished", count=nth + 1)

    called = set(watched.calls(watched.lakefs))
    assert called - set(documented()) == set()
    assert {*PUBLISHED, f"POST {REPOSITORY}/branches/*/objects/delete"} - called == set()
