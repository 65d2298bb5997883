"""The two servers the worker talks to, and how a client reaches them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.servers.install import conductor_jar, lakefs_binary
from deploy.servers.process import LOOPBACK, ProcessId, Server
from deploy.servers.tools import ServersError, find_java

VARIABLES = (
    "PERAGO_TEST_CONDUCTOR_URL",
    "PERAGO_TEST_LAKEFS_ENDPOINT",
    "PERAGO_TEST_LAKEFS_ACCESS_KEY_ID",
    "PERAGO_TEST_LAKEFS_SECRET_ACCESS_KEY",
)


@dataclass(frozen=True)
class LakeFSAccess:
    """What a client needs to reach a lakeFS.

    Attributes:
        endpoint: Root address, without a path.
        access_key_id: Key of a user who may do everything.
        secret_access_key: Its secret.
    """

    endpoint: str
    access_key_id: str
    secret_access_key: str


@dataclass(frozen=True)
class Addresses:
    """How to reach a Conductor and a lakeFS that somebody has started.

    Attributes:
        conductor_url: Address of the REST interface, `/api` included.
        lakefs: Endpoint and keys.
    """

    conductor_url: str
    lakefs: LakeFSAccess

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Addresses | None:
        """Read what `to_environment` gave; None if not one of the variables is set.

        Raises:
            ServersError: Some are set and others are not.
        """
        values = [environ.get(name, "") for name in VARIABLES]
        if not any(values):
            return None
        if missing := [name for name, value in zip(VARIABLES, values, strict=True) if not value]:
            raise ServersError(f"Set all of {', '.join(VARIABLES)}: {', '.join(missing)} missing.")
        conductor_url, *lakefs = values
        return cls(conductor_url, LakeFSAccess(*lakefs))

    def to_environment(self) -> dict[str, str]:
        """Give the variables by which the tests find servers that already run."""
        lakefs = self.lakefs
        values = (
            self.conductor_url,
            lakefs.endpoint,
            lakefs.access_key_id,
            lakefs.secret_access_key,
        )
        return dict(zip(VARIABLES, values, strict=True))


class ConductorServer(Server):
    """Conductor with its embedded SQLite, no other service."""

    name = "conductor"
    health_path = "/health"
    start_timeout_s = 180.0  # 16 s on two idle cores; machines that build something else are slow

    @property
    def api_url(self) -> str:
        """The address clients are given."""
        return f"{self.url}/api"

    def command(self) -> list[str]:
        """Give the command line; the database is `c123.db` in the working directory."""
        return [
            *(str(find_java()), "-Xmx1g", f"-Djava.io.tmpdir={self.directory / 'tmp'}"),
            *("-jar", str(conductor_jar())),
            *(f"--server.address={self.listen}", f"--server.port={self.port}"),
        ]

    def is_healthy(self, body: bytes) -> bool:
        """Read Conductor's own verdict: it answers before its parts are ready."""
        try:
            return json.loads(body).get("healthy") is True
        except (ValueError, AttributeError):
            return False


class LakeFSServer(Server):
    """lakeFS with an embedded database and local files, no other service."""

    name = "lakefs"
    health_path = "/_health"
    start_timeout_s = 60.0

    def __init__(
        self,
        directory: Path,
        *,
        port: int = 0,
        process: ProcessId | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        settings: Mapping[str, str] | None = None,
        listen: str = LOOPBACK,
    ) -> None:
        """Describe a server; nothing starts yet.

        Args:
            directory: See `Server`.
            port: See `Server`.
            process: See `Server`.
            access_key_id: Key of the first user; made up if None. Fixed by the first start.
            secret_access_key: Its secret; made up if None. Fixed by the first start.
            settings: More `LAKEFS_*` variables, which win over those set here.
            listen: See `Server`.
        """
        super().__init__(directory, port=port, process=process, listen=listen)
        self.access = LakeFSAccess(
            endpoint=self.url,
            access_key_id=access_key_id or f"test-{secrets.token_hex(8)}",
            secret_access_key=secret_access_key or secrets.token_hex(20),
        )
        self._settings = dict(settings or {})

    def command(self) -> list[str]:
        """Give the command line; everything else is in the environment."""
        return [str(lakefs_binary()), "run"]

    def environment(self) -> dict[str, str]:
        """Give the whole configuration; a file of the user's is not looked for."""
        return {
            **super().environment(),
            "LAKEFS_LISTEN_ADDRESS": f"{self.listen}:{self.port}",
            "LAKEFS_DATABASE_TYPE": "local",
            "LAKEFS_DATABASE_LOCAL_PATH": str(self.directory / "meta"),
            "LAKEFS_BLOCKSTORE_TYPE": "local",
            "LAKEFS_BLOCKSTORE_LOCAL_PATH": str(self.directory / "blocks"),
            # Encrypts the stored keys, so it must be the same at every start.
            "LAKEFS_AUTH_ENCRYPT_SECRET_KEY": self.access.secret_access_key,
            "LAKEFS_INSTALLATION_USER_NAME": "admin",
            "LAKEFS_INSTALLATION_ACCESS_KEY_ID": self.access.access_key_id,
            "LAKEFS_INSTALLATION_SECRET_ACCESS_KEY": self.access.secret_access_key,
            # Neither of these may depend on the world outside.
            "LAKEFS_STATS_ENABLED": "false",
            "LAKEFS_SECURITY_CHECK_LATEST_VERSION": "false",
            **self._settings,
        }


@dataclass
class Servers:
    """Both servers of one directory."""

    conductor: ConductorServer
    lakefs: LakeFSServer

    @classmethod
    def in_directory(
        cls,
        directory: Path,
        *,
        conductor_port: int = 0,
        lakefs_port: int = 0,
        listen: str = LOOPBACK,
    ) -> Servers:
        """Describe both servers in a directory; nothing starts yet."""
        return cls(
            ConductorServer(directory / "conductor", port=conductor_port, listen=listen),
            LakeFSServer(directory / "lakefs", port=lakefs_port, listen=listen),
        )

    def start(self, *, detach: bool = False) -> None:
        """Start both at once and wait for both; on failure, stop both. See `Server.start`."""
        try:
            for server in (self.conductor, self.lakefs):
                server.spawn(detach=detach)
            for server in (self.lakefs, self.conductor):
                server.wait_ready()
        except BaseException:  # an interrupted start must not leave one of them behind
            self.stop()
            raise

    def stop(self) -> None:
        """Stop both. Safe twice."""
        try:
            self.conductor.stop()
        finally:
            self.lakefs.stop()

    @property
    def addresses(self) -> Addresses:
        """How to reach both."""
        return Addresses(self.conductor.api_url, self.lakefs.access)
