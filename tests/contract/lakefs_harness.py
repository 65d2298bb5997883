"""The store contract over a real lakeFS; the somebody else speaks plain HTTP to it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import urllib3

from deploy.servers.object_storage import BUCKET, LakeFSOnObjectStore
from perago_worker.adapters.lakefs import LakeFSSettings, LakeFSStore


class Server(Protocol):
    """Where a lakeFS listens and who administers it, as the session fixture `lakefs` tells."""

    @property
    def endpoint(self) -> str: ...

    @property
    def access_key_id(self) -> str: ...

    @property
    def secret_access_key(self) -> str: ...


class LakeFSHarness:
    """A lakeFS store under test, and everybody else who uses the same server."""

    def __init__(self, server: Server, *, namespace: str = "local:/", **settings: Any) -> None:
        """Connect.

        Args:
            server: Where to.
            namespace: Where the objects of new repositories are kept, without their names.
            settings: Settings of the store that differ; see `settings_for`.
        """
        self._namespace = namespace
        self._base_url = f"{server.endpoint.rstrip('/')}/api/v1"
        self._http = urllib3.PoolManager(
            headers=urllib3.make_headers(
                basic_auth=f"{server.access_key_id}:{server.secret_access_key}"
            ),
            timeout=30.0,
            maxsize=16,
        )
        self._store = LakeFSStore.open(settings_for(server, **settings))

    @property
    def store(self) -> LakeFSStore:
        return self._store

    def repository(self) -> str:
        name = f"contract-{uuid.uuid4().hex[:12]}"
        namespace = f"{self._namespace}/{name}"
        self.call("POST", "repositories", send={"name": name, "storage_namespace": namespace})
        return name

    def foreign_commit(
        self, repository: str, branch: str, *, write: Mapping[str, bytes], message: str
    ) -> str:
        """Commit on a branch of its own and bring that over in one step, as one commit.

        Objects that wait on the branch itself to be committed would keep everybody's merges out,
        and some tests publish meanwhile.
        """
        ours = f"foreign-{uuid.uuid4().hex[:12]}"
        self.add_branch(repository, ours, branch)
        for key, content in write.items():
            self.upload(repository, ours, key, content)
        self.commit(repository, ours, message=message)
        path = ("repositories", repository, "refs", ours, "merge", branch)
        merge = self.call("POST", *path, send={"message": message, "squash_merge": True})
        return str(merge["reference"])

    def commit(self, repository: str, branch: str, *, message: str) -> str:
        """Commit what is on a branch and return the commit's id."""
        path = ("repositories", repository, "branches", branch, "commits")
        return str(self.call("POST", *path, send={"message": message})["id"])

    def add_branch(self, repository: str, name: str, commit: str) -> None:
        path = ("repositories", repository, "branches")
        self.call("POST", *path, send={"name": name, "source": commit})

    def add_tag(self, repository: str, name: str, commit: str) -> None:
        self.call("POST", "repositories", repository, "tags", send={"id": name, "ref": commit})

    def upload(self, repository: str, branch: str, key: str | bytes, content: bytes) -> None:
        """Put an object on a branch without committing it."""
        path = ("repositories", repository, "branches", branch, "objects")
        self.call("POST", *path, query={"path": key}, raw=content)

    def call(
        self,
        method: str,
        *path: str,
        query: Mapping[str, str | bytes] | None = None,
        send: object = None,
        raw: bytes | None = None,
    ) -> Any:
        """Call the server and return its answer; fails unless that is a success."""
        status, answer = self.answer(method, *path, query=query, send=send, raw=raw)
        assert 200 <= status < 300, (status, answer)
        return answer

    def answer(
        self,
        method: str,
        *path: str,
        query: Mapping[str, str | bytes] | None = None,
        send: object = None,
        raw: bytes | None = None,
    ) -> tuple[int, Any]:
        """Call the server and return its status and its answer: JSON, or text when it is none."""
        url = "/".join([self._base_url, *(quote(part, safe="") for part in path)])
        response = self._http.request(
            method,
            f"{url}?{urlencode(query or {}, quote_via=quote)}",
            body=json.dumps(send).encode() if raw is None else raw,
            headers={
                **self._http.headers,
                "Content-Type": "application/json" if raw is None else "application/octet-stream",
            },
        )
        try:
            return response.status, json.loads(response.data)
        except ValueError:
            return response.status, response.data.decode()

    def close(self) -> None:
        """Release the connections of both sides."""
        self._store.close()
        self._http.clear()


def settings_for(server: Server, **changes: Any) -> LakeFSSettings:
    """Return settings for a store over `server`, with some of them changed."""
    values: dict[str, Any] = {
        "endpoint": server.endpoint,
        "access_key_id": server.access_key_id,
        "secret_access_key": server.secret_access_key,
    }
    return LakeFSSettings(**(values | changes))


@contextmanager
def open_harness(server: Server, **options: Any) -> Iterator[LakeFSHarness]:
    """Yield a harness over a running server; see `LakeFSHarness`."""
    harness = LakeFSHarness(server, **options)
    try:
        yield harness
    finally:
        harness.close()


@contextmanager
def open_presigned(servers: LakeFSOnObjectStore, **settings: Any) -> Iterator[LakeFSHarness]:
    """Yield a harness over a lakeFS that signs addresses, for objects of every size.

    Those above 5 MiB are written in parts: object stores take no smaller ones, but the last.
    """
    changes = {"presign_from_bytes": 0, "presign_part_bytes": 5 * 1024**2} | settings
    namespace = f"s3://{BUCKET}"
    with open_harness(servers.lakefs.access, namespace=namespace, **changes) as harness:
        yield harness
