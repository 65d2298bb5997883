"""Where a lakeFS server is and how to talk to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from perago_worker.adapters.keys import FixedKeys, Keys, KeySource
from perago_worker.adapters.tls import TlsSettings

API_PATH = "/api/v1"


@dataclass(frozen=True, kw_only=True)
class LakeFSSettings:
    """Where a lakeFS server is, who we are to it, and how long to wait for it.

    The two halves of the credentials never appear in the `repr`.

    Attributes:
        endpoint: Address of the server, with or without `/api/v1`.
        access_key_id: First half of the credentials.
        secret_access_key: Second half of the credentials.
        keys: Where the credentials come from, in place of these two.
        tls: How TLS is spoken. Object stores are not shown our certificate.
        connect_timeout_s: Longest time for a connection to be made, TLS included.
        request_timeout_s: Longest silence of the server within a call.
        presign: Read and write objects at the object store itself, by addresses that lakeFS signs,
            where it offers to.
        presign_from_bytes: Size from which objects are read and written there: it takes one call
            more, or two.
        presign_part_bytes: Size from which they are written there in parts, and size of those. An
            object store takes 5 GiB at once, and 10,000 parts of 5 MiB and more.
        connections: How many objects, and ranges of objects, all attempts transfer at a time; that
            many connections stay warm.
    """

    endpoint: str
    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)
    keys: KeySource | None = field(default=None, repr=False)
    tls: TlsSettings = field(default_factory=TlsSettings)
    connect_timeout_s: float = 5.0
    request_timeout_s: float = 30.0
    presign: bool = True
    presign_from_bytes: int = 4 * 1024**2
    presign_part_bytes: int = 1024**3
    connections: int = 8

    @property
    def base_url(self) -> str:
        """The endpoint with exactly one `/api/v1` and no slash at its end."""
        return self.endpoint.rstrip("/").removesuffix(API_PATH).rstrip("/") + API_PATH

    @property
    def key_source(self) -> KeySource:
        """Where the credentials come from."""
        return self.keys or FixedKeys(Keys(self.access_key_id, self.secret_access_key))
