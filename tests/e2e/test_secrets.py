"""Twenty secrets on every way there is: they come out on none."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from urllib.parse import quote

import pytest

from perago_worker.adapters.local.queue import LocalQueue
from perago_worker.adapters.system import SystemClock
from tests.e2e.worker import fetch, started_worker
from tests.tasks import memory

MODULE = """
import logging
import os
from pathlib import Path
from memory import write_memory
from pydantic import BaseModel
from perago_worker import TaskFailed, current_attempt, task

class Params(BaseModel):
    texts: list[str]
    how: str

class Result(BaseModel):
    ok: bool = True

@task(name="leaky", owner_email="data@example.com")
def leaky(params: Params) -> Result:
    texts = [*params.texts, "API_SECRET=" + os.environ["API_SECRET"]]
    for text in texts:
        print(text)
        logging.getLogger("leaky").warning(text)
        current_attempt().progress(1, 2, text)
        current_attempt().log(text)
    {raised}

class Place(BaseModel):
    path: Path

@task(name="quiet", owner_email="data@example.com")
def quiet(params: Place) -> Result:
    write_memory(params.path)
    return Result()
"""

CONFIG = """
[worker]
modules = ["leaky"]
isolation = "{isolation}"
body_env = ["API_SECRET"]
[queue]
kind = "local"
[store]
kind = "lakefs"
endpoint = "http://127.0.0.1:9"
access_key_id_file = "id"
secret_access_key_file = "secret"
[http]
listen = "127.0.0.1:0"
[logging]
format = "json"
level = "debug"
"""

KEY_ID = "AKIAJCANARY000000001"
STORED = "canary/02+of-the=store"
JWT = "eyJjYW5hcnkwMw.eyJjYW5hcnkwMw.canary03"

TEXTS = {
    KEY_ID: f"key {KEY_ID} was refused",
    STORED: f"the secret is {STORED}!",
    quote(STORED, safe=""): f"http://lake/?k={quote(STORED, safe='')}",
    base64.b64encode(STORED.encode()).decode(): base64.b64encode(STORED.encode()).decode(),
    JWT: f"token {JWT}",
    "canary06": "Authorization: Bearer canary06",
    "canary07": "Authorization: Basic canary07",
    "canary08": "{'X-Authorization': 'canary08'}",
    "canary09": "https://s3/x?X-Amz-Signature=canary09&n=1",
    "canary10": "https://s3/x?X-Amz-Credential=canary10&n=1",
    "canary11": "https://s3/x?X-Amz-Security-Token=canary11&n=1",
    "canary12": "postgresql://me:canary12@db/shop",
    "canary13": "https://user:canary13@example.com/x",
    "canary14": "password=canary14",
    "canary15": "passwd: canary15",
    "canary16": '{"password": "canary16"}',
    "canary17": "secret_access_key = canary17",
    "canary18": "access_token=canary18&n=1",
    "canary19": "AWS_SECRET_ACCESS_KEY=canary19",
}
FROM_ENVIRONMENT = "canary20"
SECRETS = [*TEXTS, FROM_ENVIRONMENT]

NOT_FOR_BODIES = {
    "AWS_SECRET_ACCESS_KEY": "canary21",
    "DATABASE_URL": "postgresql://me:canary22@db/shop",
    "https_proxy": "http://me:canary23@127.0.0.1:9",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer canary24",
}
"""Of the worker's environment; `body_env` passes one other on."""

RAISED = {
    "on purpose": "raise TaskFailed(texts[int(params.how)])",
    "by accident": 'raise ValueError(texts[int(params.how)]) from KeyError(" ".join(texts))',
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("raised", "isolation"),
    [("on purpose", "process"), ("by accident", "process"), ("by accident", "thread")],
)
def test_no_secret_comes_out_anywhere(raised: str, isolation: str, tmp_path: Path) -> None:
    """Not in the log, task logs, reasons, metrics, the status or its page.

    Most of them must say that something was hidden: it did go that way. Nor has another body any of
    them in its memory, and so none in a core, but the one that the configuration lets it have.
    """
    (tmp_path / "leaky.py").write_text(MODULE.replace("{raised}", RAISED[raised]))
    shutil.copy(memory.__file__, tmp_path)
    config = tmp_path / "worker.toml"
    config.write_text(CONFIG.replace("{isolation}", isolation))
    for name, secret in (("id", KEY_ID), ("secret", STORED)):
        (tmp_path / name).write_text(secret)
        (tmp_path / name).chmod(0o600)
    assert len(SECRETS) == 20

    shown = {}
    environment = {"API_SECRET": FROM_ENVIRONMENT, **NOT_FOR_BODIES}
    with started_worker(config, env=environment) as worker:
        address = worker.wait_event("http.listening")["address"]
        worker.wait_event("worker.state_changed", state="running")
        queue = LocalQueue(tmp_path / "var/queue.db", clock=SystemClock(), worker_id="test")
        for number in range(len(SECRETS)):
            queue.submit("leaky", {"params": {"texts": [*TEXTS.values()], "how": str(number)}})
        worker.wait_event("attempt.finished", len(SECRETS), task="leaky")
        queue.submit("quiet", {"params": {"path": str(tmp_path / "memory")}})
        worker.wait_event("attempt.finished", task="quiet", outcome="completed")
        for path in ("/", "/status.json", "/metrics"):
            _, shown[path] = fetch(f"http://{address}{path}")
        worker.signal()
        assert worker.wait_exit() == 0
    records = queue.tasks(limit=1000)
    queue.close()
    shown["log"] = "".join(worker.lines)
    shown["reasons"] = "\n".join(record.reason or "" for record in records)
    shown["task logs"] = "\n".join(line for record in records for line in record.log)

    printed = [event for event in worker.events if event.get("source") == "body"]
    assert all(event["task_id"] for event in printed)
    assert {event["stream"] for event in printed} >= {"stdout", "log", "progress"}
    logged = [event for event in worker.events if event.get("logger") == "leaky"]
    assert bool(logged) is (isolation == "thread")
    assert all(event["task_id"] and event["poll"] for event in logged)
    if isolation == "process":  # in threads, the memory is the worker's own
        found = (tmp_path / "memory").read_bytes()
        hidden = [*TEXTS, *NOT_FOR_BODIES.values()]
        assert [secret for secret in hidden if secret.encode() in found] == []
        assert FROM_ENVIRONMENT.encode() in found
        assert b"canary" not in found.replace(FROM_ENVIRONMENT.encode(), b"")
    leaks = {(where, s) for where, text in shown.items() for s in SECRETS if s in text}
    assert leaks == set()
    for where in ("/", "/status.json", "log", "reasons", "task logs"):
        assert "[redacted]" in shown[where], where
