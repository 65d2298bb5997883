"""A one-node Kubernetes for all tests of this folder, with Conductor and lakeFS beside it.

`make node-test` runs them where such a node can be started; see deploy/node/enclosed.py.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from deploy.node.node import Node
from deploy.render import CHART
from deploy.servers.servers import Servers
from tests.integration.platform import Platform
from tests.node.release import Release, World, helm, values

STEADY = Path(__file__).parents[1] / "tasks/steady.py"
_NODE = pytest.StashKey[Node]()


@pytest.fixture(scope="session")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """The node and both servers, ready."""
    folder = os.environ.get("PERAGO_NODE_DIR")
    if not folder:
        pytest.fail("These tests need a network of their own: make node-test", pytrace=False)
    node = Node(Path(folder))
    servers = Servers.in_directory(Path(folder, "servers"), listen="0.0.0.0")  # noqa: S104 -- in a network of its own
    try:
        servers.conductor.spawn()  # takes as long as the node
        node.start()
        request.config.stash[_NODE] = node
        servers.start()
        platform = Platform(servers.addresses.conductor_url, servers.addresses.lakefs)
        yield World(node, servers, platform)
        platform.close()
    finally:
        node.stop()
        servers.stop()


@pytest.fixture(scope="session")
def shop(world: World, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The chart, installed under Pod Security "restricted", with tasks that write for a while."""
    folder = tmp_path_factory.mktemp("chart")
    release = Release(world.node, "perago", "shop")
    world.add_namespace(release.namespace, folder)
    release.kubectl("create", "configmap", "more-tasks", f"--from-file={STEADY}")
    (folder / "values.yaml").write_text(
        values(
            world,
            modules=["shop", "steady"],
            tasks={"steady.write": {"concurrency": 2}},
            files="more-tasks",
        )
    )
    said = helm(
        world.node,
        *("--namespace", release.namespace, "upgrade", "--install", "shop"),
        *(str(CHART), "--values", str(folder / "values.yaml"), "--wait", "--timeout=180s"),
    )
    assert "violate" not in said, said
    return release


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what was on the node when a test failed."""
    report = yield
    node = item.config.stash.get(_NODE, None)
    if report.failed and node is not None:
        for title, arguments in (
            ("pods", ("get", "pods", "--all-namespaces", "--output=wide")),
            ("events", ("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp")),
            (
                "workers",
                ("logs", "--namespace=perago", "--selector=app.kubernetes.io/name=perago-worker"),
            ),
        ):
            report.sections.append((f"Kubernetes: {title}", node.say(*arguments)))
    return report
