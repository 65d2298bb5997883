"""`config schema`, `config show`, `config explain`; `status` and `stacks` of a running worker."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner, Result

from perago_worker.adapters.system import SystemClock
from perago_worker.cli import app
from perago_worker.cli.config import explanations
from perago_worker.cli.exits import Exit
from perago_worker.config.json_schema import json_schema
from perago_worker.config.schema import SECTIONS
from perago_worker.config.settings import TaskSettings
from perago_worker.runtime.watchdog import stacks
from perago_worker.telemetry.board import Board
from perago_worker.telemetry.http import TelemetryServer

ROOT = Path(__file__).parents[2]
KEYS = {
    *(
        f"{section}.{key}"
        for section, kinds in SECTIONS.items()
        for model in kinds.values()
        for key in model.model_fields
    ),
    *(f"tasks.{key}" for key in TaskSettings.model_fields),
}

CONFIG = """
[worker]
modules = ["shop"]
concurrency = 2
[queue]
kind = "local"
[store]
kind = "local"
[tasks."features.build"]
concurrency = 1
"""

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "worker.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def check(text: str) -> None:
    jsonschema.validate(tomllib.loads(text), json_schema())


def test_the_schema_knows_every_key_with_its_text(run: Run) -> None:
    schema: dict[str, Any] = json.loads(run("config", "schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)

    found: set[str] = set()
    for section, node in schema["properties"].items():
        table = node["additionalProperties"] if section == "tasks" else node
        for model in table.get("oneOf", [table]):
            found.update(f"{section}.{key}" for key in model["properties"])
    assert found == KEYS


def test_the_schema_that_is_kept_is_that_of_the_settings() -> None:
    kept = json.loads((ROOT / "config/worker.schema.json").read_text())

    assert kept == json_schema(), (
        "renew it: perago-worker config schema > config/worker.schema.json"
    )


def test_examples_name_the_schema_for_editors() -> None:
    files = sorted(ROOT.glob("config/*.toml"))

    assert files
    assert all(file.read_text().startswith("#:schema ./worker.schema.json\n") for file in files)


@pytest.mark.parametrize("file", sorted(ROOT.glob("config/*.toml")), ids=lambda f: f.name)
def test_examples_keep_to_the_schema(file: Path) -> None:
    check(file.read_text())


@pytest.mark.parametrize(
    "wrong",
    [
        CONFIG.replace("concurrency = 2", "concurency = 2"),
        CONFIG.replace("concurrency = 2", 'concurrency = "two"'),
        CONFIG.replace('kind = "local"', 'kind = "sqs"'),
        CONFIG + "[logging]\nlevel = 'loud'\n",
        CONFIG.replace("[worker]", "[wroker]"),
    ],
)
def test_the_schema_refuses_what_loading_refuses(wrong: str) -> None:
    check(CONFIG)
    with pytest.raises(jsonschema.ValidationError):
        check(wrong)


def test_every_value_is_shown_with_its_origin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERAGO_WORKER__DRAIN_TIMEOUT", "5m")

    lines = [line.split("#") for line in run("config", "show", "--origins").stdout.splitlines()]
    shown = {text.strip(): origin.strip() for text, origin in lines}

    assert shown["worker.concurrency = 2"] == "worker.toml:4"
    assert shown["worker.drain_timeout = 300.0"] == "PERAGO_WORKER__DRAIN_TIMEOUT"
    assert shown['worker.isolation = "process"'] == "default"
    assert shown['tasks."features.build".concurrency = 1'] == "worker.toml:10"
    assert "#" not in run("config", "show").stdout


@pytest.mark.parametrize("key", sorted(KEYS))
def test_every_key_is_explained(key: str, run: Run) -> None:
    text = run("config", "explain", key).stdout

    assert text.startswith(key)
    assert "expected: " in text
    assert "default: " in text


def test_a_key_that_does_not_exist_has_a_neighbour(run: Run) -> None:
    result = run("config", "explain", "worker.drain_timout")

    assert result.exit_code == Exit.CONFIG
    assert "did you mean 'worker.drain_timeout'?" in result.stderr
    assert set(explanations()) == KEYS


# --- a running worker -----------------------------------------------------------------------------


class Worker:
    """What is served of a worker."""

    def __init__(self) -> None:
        self.not_ready: list[str] = []
        about = {"name": "host", "id": "host:1:a", "queue": "local", "store": "local"}
        self.board = Board(slots={"features.build": 2}, about=about, clock=SystemClock())
        self.server = TelemetryServer(
            "127.0.0.1:0",
            registry=CollectorRegistry(),
            liveness=list,
            readiness=lambda: self.not_ready,
            status=lambda: {
                **self.board.snapshot(),
                "not_alive": [],
                "not_ready": self.not_ready,
                "services": [],
            },
            stacks=stacks,
        )

    @property
    def url(self) -> str:
        assert self.server.address is not None
        return f"http://127.0.0.1:{self.server.address[1]}"


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    worker.server.start()
    yield worker
    worker.server.stop()


def test_the_status_of_a_worker_is_shown(worker: Worker, run: Run) -> None:
    result = run("status", "--url", worker.url)

    assert result.exit_code == Exit.DONE
    assert result.stdout.startswith("host: starting, up ")
    assert "features.build  0 of 2" in result.stdout
    assert "content cache: off (workspace.cache_max)\n" in result.stdout


def test_a_worker_that_is_not_ready_is_told_by_the_exit_code(worker: Worker, run: Run) -> None:
    worker.not_ready = ["features.build: cannot poll"]
    result = run("status", "--url", worker.url, "--json")

    assert result.exit_code == Exit.UNEXPECTED
    assert json.loads(result.stdout)["not_ready"] == worker.not_ready


def test_the_address_is_that_of_the_configuration(
    worker: Worker, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERAGO_HTTP__LISTEN", worker.url.replace("http://127.0.0.1", "0.0.0.0"))  # noqa: S104 -- not bound

    assert run("status").exit_code == Exit.DONE


def test_stacks_of_a_worker_name_its_threads(worker: Worker, run: Run) -> None:
    result = run("stacks", "--url", worker.url)

    assert 'Thread "MainThread":' in result.stdout
    assert 'Thread "telemetry":' in result.stdout


def test_no_worker_is_told_by_the_exit_code(worker: Worker, run: Run) -> None:
    url = worker.url
    worker.server.stop()
    result = run("status", "--url", url)

    assert result.exit_code == Exit.UNREACHABLE
    assert result.stderr.startswith(f"no worker answers at {url}")


@pytest.mark.parametrize("url", ["127.0.0.1:9464", "ftp://host", "http://"])
def test_what_is_no_address_is_refused(url: str, run: Run) -> None:
    assert run("status", "--url", url).exit_code == Exit.CONFIG


def test_a_free_port_cannot_be_guessed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERAGO_HTTP__LISTEN", "127.0.0.1:0")
    result = run("status")

    assert result.exit_code == Exit.CONFIG
    assert "give --url" in result.stderr
