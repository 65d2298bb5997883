"""A lakeFS whose objects lie in an object store, and that object store.

What such a lakeFS has and one with local files has not is presigned addresses: clients read and
write objects at the object store itself. The object store is moto's, from the Python package
`moto[server]`, which the environment of this process must hold. It keeps objects in memory.
"""

from __future__ import annotations

import http.client
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.servers.pair import LakeFSServer
from deploy.servers.process import Server
from deploy.servers.tools import MissingToolError, ServersError

BUCKET = "objects"


class ObjectStoreServer(Server):
    """moto's S3, which takes any credentials."""

    name = "object-store"
    health_path = "/moto-api/"
    start_timeout_s = 60.0

    def command(self) -> list[str]:
        """Give the command line.

        Raises:
            MissingToolError: This environment does not hold moto.
        """
        if importlib.util.find_spec("moto") is None:
            raise MissingToolError("moto is missing: install the Python package `moto[server]`.")
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    def make_bucket(self) -> None:
        """Make the bucket that repositories are kept in. Does nothing if it is there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("PUT", f"/{BUCKET}", headers={"Host": f"127.0.0.1:{self.port}"})
            answer = connection.getresponse()
            if answer.status not in (200, 409):
                raise ServersError(f"{self.name} answered {answer.status}: {answer.read()!r}")
        finally:
            connection.close()


def lakefs_settings(store: ObjectStoreServer) -> dict[str, str]:
    """Return what lakeFS is told by environment variables in order to keep its objects there."""
    return {
        "LAKEFS_BLOCKSTORE_TYPE": "s3",
        "LAKEFS_BLOCKSTORE_S3_ENDPOINT": store.url,
        "LAKEFS_BLOCKSTORE_S3_FORCE_PATH_STYLE": "true",
        "LAKEFS_BLOCKSTORE_S3_REGION": "us-east-1",
        "LAKEFS_BLOCKSTORE_S3_DISCOVER_BUCKET_REGION": "false",
        "LAKEFS_BLOCKSTORE_S3_CREDENTIALS_ACCESS_KEY_ID": "any",
        "LAKEFS_BLOCKSTORE_S3_CREDENTIALS_SECRET_ACCESS_KEY": "any",
    }


class LakeFSOnObjectStore:
    """Both of them, in one directory."""

    def __init__(
        self,
        directory: Path,
        *,
        store: Mapping[str, Any] | None = None,
        lakefs: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe both; nothing starts yet.

        Args:
            directory: Holds their data and logs.
            store: Keywords for `ObjectStoreServer`, such as those of one that runs already.
            lakefs: Likewise for `LakeFSServer`.
        """
        self.store = ObjectStoreServer(directory / "object-store", **(store or {}))
        self.lakefs = LakeFSServer(
            directory / "lakefs",
            **(lakefs or {}),
            settings=lakefs_settings(self.store),
        )

    def start(self, *, detach: bool = False) -> None:
        """Start both, make the bucket, wait for both; on failure, stop both. See `Server.start`."""
        try:
            self.store.start(detach=detach)
            self.store.make_bucket()
            self.lakefs.start(detach=detach)
        except BaseException:  # an interrupted start must not leave one of them behind
            self.stop()
            raise

    def stop(self) -> None:
        """Stop both. Safe twice."""
        try:
            self.lakefs.stop()
        finally:
            self.store.stop()

    def to_environment(self) -> dict[str, str]:
        """Give the variables by which programs find the lakeFS and its object store."""
        access = self.lakefs.access
        return {
            "PERAGO_TEST_PRESIGNING_LAKEFS_ENDPOINT": access.endpoint,
            "PERAGO_TEST_PRESIGNING_LAKEFS_ACCESS_KEY_ID": access.access_key_id,
            "PERAGO_TEST_PRESIGNING_LAKEFS_SECRET_ACCESS_KEY": access.secret_access_key,
            "PERAGO_TEST_PRESIGNING_LAKEFS_NAMESPACE": f"s3://{BUCKET}",
        }
