"""Fixtures of the tests over both real servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.servers.servers import LakeFSAccess, Servers
from tests.integration.platform import Platform


@pytest.fixture
def platform(conductor_url: str, lakefs: LakeFSAccess) -> Iterator[Platform]:
    """The shared servers, with a task domain of this test's own."""
    platform = Platform(conductor_url, lakefs)
    yield platform
    platform.close()


@pytest.fixture
def private_platform(private_servers: Servers) -> Iterator[Platform]:
    """Servers of this test's own, which it may take down."""
    addresses = private_servers.addresses
    platform = Platform(addresses.conductor_url, addresses.lakefs)
    yield platform
    platform.close()
