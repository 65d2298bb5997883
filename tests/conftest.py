"""The real servers, for the tests that are marked `servers`, and how hypothesis searches.

Servers are started at most once per session, and only when a selected test needs them. Those named
by PERAGO_TEST_* (as `servers.py up` prints them) are used instead of starting any. A test that
takes a server down asks for its own: `private_conductor`, `private_lakefs`, `private_servers`.
Without Java, Maven or Go such tests are skipped with the reason, except in CI, where they fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

from deploy.servers.object_storage import LakeFSOnObjectStore
from deploy.servers.servers import (
    Addresses,
    ConductorServer,
    LakeFSAccess,
    LakeFSServer,
    MissingToolError,
    Server,
    Servers,
    ServersError,
    install,
)

IN_CI = bool(os.environ.get("CI"))

_SHARED = frozenset({"servers", "conductor_url", "lakefs"})
_PRIVATE = frozenset({"installed"})  # which all that start servers of their own ask for
_S = TypeVar("_S", bound=Server)
_PROBLEM = pytest.StashKey[ServersError]()

# Example times vary widely where servers, threads and other tests share two cores.
settings.register_profile(
    "dev", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
# The same examples in every run: a red CI run is about the change, and repeats on any machine.
settings.register_profile(
    "ci", parent=settings.get_profile("dev"), max_examples=100, derandomize=True, print_blob=True
)
settings.load_profile("ci" if IN_CI else "dev")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin long tests first, after their order was drawn: none is to be alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Install the servers that the selected tests will start.

    Here and not in a fixture, because the first time takes minutes, and a fixture's time counts
    against its test's timeout.
    """
    if session.config.option.collectonly:
        return
    try:
        given = Addresses.from_environment(os.environ)
        wanted = _PRIVATE if given else _PRIVATE | _SHARED
        if any(wanted.intersection(getattr(item, "fixturenames", ())) for item in session.items):
            install()
    except ServersError as problem:
        session.config.stash[_PROBLEM] = problem


@pytest.fixture(scope="session")
def installed(request: pytest.FixtureRequest) -> None:
    """Skip, or fail in CI, when the servers could not be installed."""
    problem = request.config.stash.get(_PROBLEM, None)
    if problem is None:
        return
    if isinstance(problem, MissingToolError) and not IN_CI:
        pytest.skip(str(problem))
    pytest.fail(str(problem), pytrace=False)


@pytest.fixture(scope="session")
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Addresses]:
    """Both servers, shared by the whole session: leave them running, use names of your own."""
    if given := Addresses.from_environment(os.environ):
        yield given
        return
    request.getfixturevalue("installed")
    pair = Servers.in_directory(tmp_path_factory.mktemp("servers"))
    pair.start()
    yield pair.addresses
    pair.stop()


@pytest.fixture(scope="session")
def conductor_url(servers: Addresses) -> str:
    """The shared Conductor's REST address, `/api` included."""
    return servers.conductor_url


@pytest.fixture(scope="session")
def lakefs(servers: Addresses) -> LakeFSAccess:
    """The shared lakeFS: `endpoint` (without a path), `access_key_id`, `secret_access_key`."""
    return servers.lakefs


@pytest.fixture(scope="session")
def lakefs_on_object_store(
    installed: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LakeFSOnObjectStore]:
    """A lakeFS that signs addresses, and its object store, shared: use names of your own."""
    pair = LakeFSOnObjectStore(tmp_path_factory.mktemp("lakefs-on-object-store"))
    pair.start()
    yield pair
    pair.stop()


@pytest.fixture
def private_servers(private_conductor: ConductorServer, private_lakefs: LakeFSServer) -> Servers:
    """A Conductor and a lakeFS that only this test uses, running."""
    return Servers(private_conductor, private_lakefs)


@pytest.fixture
def private_conductor(installed: None, tmp_path: Path) -> Iterator[ConductorServer]:
    """A running Conductor that this test may stop, kill, pause and bring back (16 s a start)."""
    yield from _started(ConductorServer(tmp_path / "conductor"))


@pytest.fixture
def private_lakefs(installed: None, tmp_path: Path) -> Iterator[LakeFSServer]:
    """A running lakeFS that this test may stop, kill, pause and bring back (a second a start)."""
    yield from _started(LakeFSServer(tmp_path / "lakefs"))


def _started(server: _S) -> Iterator[_S]:
    try:
        server.start()
        yield server
    finally:
        server.stop()
