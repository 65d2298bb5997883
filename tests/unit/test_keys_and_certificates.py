"""Who we are to the servers and whom we trust, over real TLS; and how both are exchanged."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from perago_worker.adapters.keys import KeyFiles, Keys
from perago_worker.adapters.system import SystemClock
from perago_worker.bootstrap.adapters import open_queue, open_store
from perago_worker.cli.diagnosis import Diagnosis, Level
from perago_worker.cli.doctor_servers import reach, servers_of
from perago_worker.config import Redactor, WorkerConfig, load_config, read_secret
from perago_worker.errors import ConfigError, QueueUnavailable, StoreRefused, StoreUnavailable
from perago_worker.ports import TaskQueue, WorkspaceStore
from tests.unit.scripted_server import Act, HangupError, Request, ScriptedServer, answer, serving

AWAY = (QueueUnavailable, StoreUnavailable)

CONFIG = """\
[worker]
modules = ["m"]
[queue]
kind = "conductor"
url = "{address}"
auth_key_id_file = "id"
auth_key_secret_file = "secret"
{queue}
[store]
kind = "lakefs"
endpoint = "{address}"
access_key_id_file = "id"
secret_access_key_file = "secret"
{store}
"""


@dataclass
class TlsServer(ScriptedServer):
    """Answers over TLS; keeps who the clients say they are."""

    context: ssl.SSLContext = field(default_factory=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    clients: list[str] = field(default_factory=list)

    def _serve(self, connection: socket.socket) -> None:
        try:
            secured = self.context.wrap_socket(connection, server_side=True)
            # Under TLS 1.3 the server looks at a client's certificate after the client is done.
            certificate: Any = secured.getpeercert() or {}
        except OSError:
            connection.close()
            return
        self.clients += [value for kind, value in certificate.get("subjectAltName", ())]
        super()._serve(secured)


def everything(request: Request, out: socket.socket) -> None:
    """Answer as either server does when all is well."""
    found = {"token": "t", "name": "x", "user": {"id": "me"}}
    answer(200, found, Content_Type="application/json")(request, out)


def everything_once(request: Request, out: socket.socket) -> None:
    """Answer, and end the connection."""
    found = {"token": "t", "name": "x", "user": {"id": "me"}}
    answer(200, found, Content_Type="application/json", Connection="close")(request, out)
    raise HangupError


@dataclass
class Place:
    """A folder with a configuration, and a server."""

    folder: Path
    authority: trustme.CA
    secrets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.authority.cert_pem.write_to_path(self.folder / "ca.pem")
        self.keys("me", "hidden")

    def keys(self, key_id: str, secret: str) -> None:
        """Exchange the keys as mounts do: by another file in the place of the old one."""
        for name, value in (("id", key_id), ("secret", secret)):
            new = self.folder / f"{name}.new"
            new.write_text(value)
            new.chmod(0o600)
            new.rename(self.folder / name)

    def certificate(self, name: str) -> None:
        """Put our certificate, for a name, in its place."""
        ours = self.authority.issue_cert(name)
        ours.cert_chain_pems[0].write_to_path(self.folder / "ours.pem")
        ours.private_key_pem.write_to_path(self.folder / "ours.key")

    def config(self, address: str, lines: str = "") -> WorkerConfig:
        file = self.folder / "worker.toml"
        file.write_text(CONFIG.format(address=address, queue=lines, store=lines))
        return load_config(file, environ={})

    @contextmanager
    def server(
        self, *, not_after: datetime | None = None, ask_for_certificate: bool = False
    ) -> Iterator[TlsServer]:
        server = TlsServer([everything])
        self.authority.issue_cert("127.0.0.1", not_after=not_after).configure_cert(server.context)
        if ask_for_certificate:
            self.authority.configure_trust(server.context)
            server.context.verify_mode = ssl.CERT_REQUIRED
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join()

    def queue(self, config: WorkerConfig) -> TaskQueue:
        clock = SystemClock()
        return open_queue(config, worker_id="w", clock=clock, on_secret=self.secrets.append)

    def store(self, config: WorkerConfig) -> WorkspaceStore:
        return open_store(config, on_secret=self.secrets.append)


def https(server: ScriptedServer) -> str:
    return server.endpoint.replace("http:", "https:")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def place(tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return Place(tmp_path, authority)


def ask_conductor(place: Place, config: WorkerConfig) -> None:
    with closing(place.queue(config)) as queue:
        queue.taskdef("x")


def ask_lakefs(place: Place, config: WorkerConfig) -> None:
    with closing(place.store(config)) as store:
        store.ping()


def read_object(place: Place, config: WorkerConfig) -> None:
    """Which goes over connections of its own."""
    with closing(place.store(config)) as store:
        read(store)


def read(store: WorkspaceStore) -> None:
    store.read("lake", "0" * 64, "key", io.BytesIO(), listed_size=5)


Ask = Callable[[Place, WorkerConfig], None]
EACH = pytest.mark.parametrize("ask", [ask_conductor, ask_lakefs, read_object])


# --- certificates ---------------------------------------------------------------------------------


@pytest.mark.key("queue.ca_file", "store.ca_file")
@EACH
def test_the_authority_of_the_ca_file_is_trusted_and_no_other(place: Place, ask: Ask) -> None:
    with place.server() as server:
        with pytest.raises(AWAY, match=r"CERTIFICATE_VERIFY_FAILED|verify failed"):
            ask(place, place.config(https(server)))
        ask(place, place.config(https(server), 'ca_file = "ca.pem"'))


@pytest.mark.key("queue.cert_file", "queue.key_file", "store.cert_file", "store.key_file")
@EACH
def test_a_server_that_asks_for_our_certificate_is_shown_it(place: Place, ask: Ask) -> None:
    place.certificate("worker.example.com")
    shown = 'cert_file = "ours.pem"\nkey_file = "ours.key"\nca_file = "ca.pem"'
    with place.server(ask_for_certificate=True) as server:
        with pytest.raises(AWAY):
            ask(place, place.config(https(server), 'ca_file = "ca.pem"'))
        assert server.clients == []
        ask(place, place.config(https(server), shown))
    assert set(server.clients) == {"worker.example.com"}


@EACH
def test_a_certificate_that_was_renewed_is_shown_on_new_connections(place: Place, ask: Ask) -> None:
    shown = 'cert_file = "ours.pem"\nkey_file = "ours.key"\nca_file = "ca.pem"'
    place.certificate("old.example.com")
    with place.server(ask_for_certificate=True) as server:
        server.script = [everything_once]
        config = place.config(https(server), shown)
        with closing(place.queue(config)) as queue, closing(place.store(config)) as store:
            calls: dict[Ask, Callable[[], None]] = {
                ask_conductor: queue.ping,
                ask_lakefs: store.ping,
                read_object: lambda: read(store),
            }
            call = calls[ask]
            call()
            place.certificate("new.example.com")
            call()
    assert server.clients[0] == "old.example.com"
    assert server.clients[-1] == "new.example.com"


@pytest.mark.key("queue.tls_min_version", "store.tls_min_version")
@EACH
def test_older_versions_are_not_spoken(place: Place, ask: Ask) -> None:
    with place.server() as server:
        server.context.maximum_version = ssl.TLSVersion.TLSv1_2
        ask(place, place.config(https(server), 'ca_file = "ca.pem"'))
        lines = 'ca_file = "ca.pem"\ntls_min_version = "1.3"'
        with pytest.raises(AWAY):
            ask(place, place.config(https(server), lines))


@pytest.mark.parametrize("ask", [ask_conductor, ask_lakefs])
@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ('ca_file = "id"', "ca_file"),
        ('cert_file = "id"', "cert_file"),
        ('cert_file = "ca.pem"\nkey_file = "id"', "key_file"),
    ],
)
def test_files_that_hold_something_else_are_named(
    place: Place, ask: Ask, lines: str, key: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: holds nothing of the kind"):
        ask(place, place.config("https://127.0.0.1:9", lines))


def test_a_key_without_a_certificate_is_a_mistake(place: Place) -> None:
    with pytest.raises(ConfigError, match=r"queue.key_file.*is given without cert_file"):
        place.config("https://127.0.0.1:9", 'key_file = "id"')


@pytest.mark.parametrize(("days", "level"), [(3, Level.WARN), (90, Level.OK)])
def test_the_doctor_tells_when_a_certificate_runs_out(
    place: Place, days: int, level: Level
) -> None:
    not_after = datetime.now(UTC) + timedelta(days=days, hours=1)
    with place.server(not_after=not_after) as server:
        config = place.config(https(server), 'ca_file = "ca.pem"')
        diagnosis = Diagnosis()
        assert reach(diagnosis, servers_of(config)["store"])
    assert diagnosis.lines[-1].what == "lakefs TLS"
    assert diagnosis.lines[-1].level is level
    assert f"good for {days} days" in diagnosis.lines[-1].found


def test_the_doctor_names_whom_it_cannot_trust(place: Place) -> None:
    with place.server() as server:
        diagnosis = Diagnosis()
        assert not reach(diagnosis, servers_of(place.config(https(server)))["queue"])
    assert diagnosis.lines[-1].level is Level.FAIL
    assert "queue.ca_file" in diagnosis.lines[-1].todo


# --- keys that are exchanged ----------------------------------------------------------------------


def credentials(request: Request) -> bytes:
    return base64.b64decode(request.headers["authorization"].removeprefix("Basic "))


@pytest.fixture
def start() -> Iterator[Callable[..., ScriptedServer]]:
    with serving() as start:
        yield start


@pytest.mark.key("store.access_key_id_file", "store.secret_access_key_file")
def test_new_keys_are_used_with_the_next_request(
    place: Place, start: Callable[..., ScriptedServer]
) -> None:
    server = start(everything)
    with closing(place.store(place.config(server.endpoint))) as store:
        store.ping()
        place.keys("you", "new")
        store.ping()
    assert [credentials(each) for each in server.requests] == [b"me:hidden", b"you:new"]
    assert place.secrets == ["hidden", "new"]


def refused_and_exchanged(place: Place) -> Act:
    """Refuse a request, for keys that are exchanged while it is under way."""

    def act(request: Request, out: socket.socket) -> None:
        place.keys("you", "new")
        answer(401, {"message": "error authenticating request"})(request, out)

    return act


@pytest.mark.parametrize("call", [lambda store: store.ping(), read], ids=["ping", "read"])
def test_a_request_refused_for_old_keys_is_sent_again(
    place: Place, start: Callable[..., ScriptedServer], call: Callable[[WorkspaceStore], None]
) -> None:
    """What was refused so, the server has not looked at; and it is sent only once more."""
    server = start(refused_and_exchanged(place), everything)
    with closing(place.store(place.config(server.endpoint))) as store:
        call(store)
    assert [credentials(each) for each in server.requests] == [b"me:hidden", b"you:new"]


def test_a_refusal_of_the_keys_there_are_is_one(
    place: Place, start: Callable[..., ScriptedServer]
) -> None:
    server = start(answer(401, {"message": "error authenticating request"}))
    store = place.store(place.config(server.endpoint))
    with closing(store), pytest.raises(StoreRefused):
        store.ping()
    assert len(server.requests) == 1


def test_an_upload_refused_for_old_keys_may_be_tried_again(
    place: Place, start: Callable[..., ScriptedServer]
) -> None:
    """Its source is used up, so that whoever has the file begins anew."""
    created = answer(201, b"main")
    server = start(created, refused_and_exchanged(place))
    commit = "0" * 64
    with closing(place.store(place.config(server.endpoint))) as store:
        stage = store.stage("lake", commit, "perago-stage")
        with pytest.raises(StoreUnavailable, match="keys were exchanged"):
            stage.write("key", io.BytesIO(b"data"), 4)


@pytest.mark.key("queue.auth_key_id_file", "queue.auth_key_secret_file")
def test_a_token_is_asked_for_with_the_keys_as_they_are(
    place: Place, start: Callable[..., ScriptedServer]
) -> None:
    refusal = answer(401, {"error": "INVALID_TOKEN"}, Content_Type="application/json")
    fresh = answer(200, {"token": "another"}, Content_Type="application/json")
    server = start(everything, everything, refusal, fresh, everything)
    with closing(place.queue(place.config(server.endpoint))) as queue:
        queue.taskdef("x")
        place.keys("you", "new")
        queue.taskdef("x")
    asked = [json.loads(r.body) for r in server.requests if r.target.endswith("/token")]
    assert asked == [
        {"keyId": "me", "keySecret": "hidden"},
        {"keyId": "you", "keySecret": "new"},
    ]
    assert place.secrets[-1] == "new"


def test_keys_that_are_half_exchanged_wait_for_the_other_half(tmp_path: Path) -> None:
    key_id, secret = tmp_path / "id", tmp_path / "secret"
    key_id.write_text("me")
    secret.write_text("hidden")
    told: list[str] = []
    files = KeyFiles(key_id, secret, read=read_secret, on_new=told.append)

    secret.write_text("")
    assert files.current() == Keys("me", "hidden")
    secret.unlink()
    assert files.current() == Keys("me", "hidden")
    secret.write_text("new")
    os.utime(secret, ns=(1, 1))

    assert files.current() == Keys("me", "new")
    assert told == ["hidden", "new"]
    assert "new" not in repr(files.current())


def test_a_secret_that_came_later_is_hidden_and_the_old_one_too() -> None:
    redactor = Redactor(["first-one"])
    redactor.add("second-one")
    redactor.add("second-one")

    assert redactor.text("first-one, second-one") == "[redacted], [redacted]"
