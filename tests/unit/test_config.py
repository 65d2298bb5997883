"""The configuration: every key from both sources, and every mistake told at once and in place."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from perago_worker.config import (
    ConductorQueueSettings,
    LakeFSStoreSettings,
    Redactor,
    WorkerConfig,
    check_task_names,
    load_config,
    read_secret,
    secret_values,
)
from perago_worker.config.schema import SECTIONS
from perago_worker.config.settings import TaskSettings
from perago_worker.config.toml_lines import TomlLines
from perago_worker.config.values import parse_duration, parse_listen
from perago_worker.errors import ConfigError

LOCAL = """\
[worker]
modules = ["app.tasks"]
[queue]
kind = "local"
[store]
kind = "local"
"""

SERVERS = """\
[worker]
modules = ["app.tasks"]
[queue]
kind = "conductor"
url = "http://conductor:8080"
auth_key_id_file = "id"
auth_key_secret_file = "secret"
[store]
kind = "lakefs"
endpoint = "http://lakefs:8000"
access_key_id_file = "id"
secret_access_key_file = "secret"
"""

WITH_CERTIFICATES = re.sub(r"(\[(?:queue|store)\]\n)", r'\1cert_file = "ca.pem"\n', SERVERS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that configurations name."""
    for name, text in {
        "id": "key-id\n",
        "secret": "top-secret-value\n",
        "id2": "another-id",
        "secret2": "another-secret",
        "ca.pem": "certificate",
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    return tmp_path


def load(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> WorkerConfig:
    file = folder / "worker.toml"
    file.write_text(text)
    return load_config(file, environ=environ or {})


def problems(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return what is wrong, each as `line: key: message` or `variable: key: message`."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, environ)
    return [
        str(problem).replace(f"{folder}/worker.toml:", "").replace(str(folder), "FOLDER")
        for problem in caught.value.problems
    ]


# --- every key ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Key:
    """A key, a value of it in both spellings, and what it becomes; `/...` is in the folder."""

    section: str
    key: str
    toml: str
    env: str
    value: Any
    base: str = LOCAL


KEYS = [
    Key("worker", "modules", '["a.b", "c"]', '["a.b", "c"]', ("a.b", "c")),
    Key("worker", "python_path", '["src"]', '["src"]', ("/src",)),
    Key("worker", "name", '"etl-1"', "etl-1", "etl-1"),
    Key("worker", "concurrency", "4", "4", 4),
    Key("worker", "isolation", '"thread"', "thread", "thread"),
    Key("worker", "take_ahead", "0", "0", 0.0),
    Key("worker", "drain_timeout", '"1h30m"', "1h30m", 5400.0),
    Key("worker", "kill_grace", "2.5", "2.5", 2.5),
    Key("worker", "body_env", '["TZ"]', '["TZ"]', ("TZ",)),
    Key("worker", "attempts_per_child", "7", "7", 7),
    Key("worker", "child_memory_limit", '"512MiB"', "512MiB", 512 * 1024 * 1024),
    Key("queue", "kind", '"local"', "local", "local"),
    Key("queue", "path", '"q.db"', "q.db", "/q.db"),
    Key("queue", "kind", '"conductor"', "conductor", "conductor", SERVERS),
    Key("queue", "url", '"https://c/api/"', "https://c/api/", "https://c/api", SERVERS),
    Key("queue", "auth_key_id_file", '"id2"', "id2", "/id2", SERVERS),
    Key("queue", "auth_key_secret_file", '"secret2"', "secret2", "/secret2", SERVERS),
    Key("queue", "ca_file", '"ca.pem"', "ca.pem", "/ca.pem", SERVERS),
    Key("queue", "cert_file", '"ca.pem"', "ca.pem", "/ca.pem", SERVERS),
    Key("queue", "key_file", '"ca.pem"', "ca.pem", "/ca.pem", WITH_CERTIFICATES),
    Key("queue", "tls_min_version", '"1.3"', "1.3", "1.3", SERVERS),
    Key("queue", "domain", '"gpu"', "gpu", "gpu", SERVERS),
    Key("queue", "connect_timeout", '"500ms"', "500ms", 0.5, SERVERS),
    Key("queue", "request_timeout", '"20s"', "20", 20.0, SERVERS),
    Key("store", "kind", '"local"', "local", "local"),
    Key("store", "path", '"repos"', "repos", "/repos"),
    Key("store", "kind", '"lakefs"', "lakefs", "lakefs", SERVERS),
    Key("store", "endpoint", '"https://l"', "https://l", "https://l", SERVERS),
    Key("store", "access_key_id_file", '"id2"', "id2", "/id2", SERVERS),
    Key("store", "secret_access_key_file", '"secret2"', "secret2", "/secret2", SERVERS),
    Key("store", "ca_file", '"ca.pem"', "ca.pem", "/ca.pem", SERVERS),
    Key("store", "cert_file", '"ca.pem"', "ca.pem", "/ca.pem", SERVERS),
    Key("store", "key_file", '"ca.pem"', "ca.pem", "/ca.pem", WITH_CERTIFICATES),
    Key("store", "tls_min_version", '"1.3"', "1.3", "1.3", SERVERS),
    Key("store", "connect_timeout", '"1s"', "1s", 1.0, SERVERS),
    Key("store", "request_timeout", "61", "1m1s", 61.0, SERVERS),
    Key("store", "presign", '"off"', "off", "off", SERVERS),
    Key("workspace", "root", '"/scratch"', "/scratch", Path("/scratch")),
    Key("workspace", "transfer_connections", "16", "16", 16),
    Key("workspace", "max_bytes", '"20GB"', "20GB", 20_000_000_000),
    Key("workspace", "max_objects", "10", "10", 10),
    Key("workspace", "warm", "0", "0", 0),
    Key("workspace", "cache_max", '"20GB"', "20GB", 20_000_000_000),
    Key("publish", "merge_timeout", '"90s"', "90s", 90.0),
    Key("publish", "completion_timeout", '"1m30s"', "1m30s", 90.0),
    Key("publish", "heartbeat_interval", '"10s"', "10s", 10.0),
    Key("publish", "record_result", "false", "false", False),
    Key("publish", "on_abandoned", '"replace"', "Replace", "replace"),
    Key("publish", "require_fence", '"hook"', "HOOK", "hook"),
    Key("publish", "sentinel", "true", "true", True),
    Key("http", "listen", '"[::1]:0"', "[::1]:0", "[::1]:0"),
    Key("logging", "levels", '{ urllib3 = "DEBUG" }', '{"urllib3": "debug"}', {"urllib3": "debug"}),
    Key("http", "client_metrics", "true", "true", True),
    Key("logging", "format", '"json"', "json", "json"),
    Key("logging", "level", '"WARNING"', "WARNING", "warning"),
]

TASK_KEYS = [
    Key("tasks", "concurrency", "3", "", 3),
    Key("tasks", "isolation", '"thread"', "", "thread"),
    Key("tasks", "domain", '"gpu"', "", "gpu"),
    Key("tasks", "body_timeout", '"2h"', "", 7200.0),
]


def with_value(base: str, section: str, line: str) -> str:
    """Return `base` with a line more in a section, in place of another one for the same key."""
    key = line.partition(" = ")[0]
    lines = []
    inside = found = False
    for old in base.splitlines():
        inside = old == f"[{section}]" if old.startswith("[") else inside
        if not (inside and old.startswith(f"{key} = ")):
            lines.append(old)
        if old == f"[{section}]":
            lines.append(line)
            found = True
    return "\n".join(lines if found else [*lines, f"[{section}]", line])


def expected(value: Any, folder: Path) -> Any:
    if isinstance(value, tuple):
        return tuple(expected(item, folder) for item in value)
    is_path = isinstance(value, str) and value.startswith("/")
    return folder / value.lstrip("/") if is_path else value


def key_id(key: Key) -> str:
    return f"{key.section}.{key.key}={key.env or key.toml}"


@pytest.mark.parametrize("key", KEYS, ids=key_id)
def test_key_is_read_from_the_file(key: Key, folder: Path) -> None:
    config = load(folder, with_value(key.base, key.section, f"{key.key} = {key.toml}"))

    assert getattr(getattr(config, key.section), key.key) == expected(key.value, folder)


@pytest.mark.parametrize("key", KEYS, ids=key_id)
def test_key_is_read_from_the_environment(key: Key, folder: Path) -> None:
    variable = f"PERAGO_{key.section}__{key.key}".upper()

    config = load(folder, key.base, {variable: key.env})

    assert getattr(getattr(config, key.section), key.key) == expected(key.value, folder)


@pytest.mark.parametrize("key", TASK_KEYS, ids=key_id)
def test_key_of_a_task_is_read_from_the_file(key: Key, folder: Path) -> None:
    config = load(folder, LOCAL + f'[tasks."a.b"]\n{key.key} = {key.toml}\n')

    assert getattr(config.tasks["a.b"], key.key) == key.value
    assert getattr(config.task("a.b"), key.key) == key.value


def test_the_tables_above_leave_no_key_out() -> None:
    tested = {(key.section, key.key) for key in KEYS}
    existing = {
        (section, key)
        for section, kinds in SECTIONS.items()
        for model in kinds.values()
        for key in model.model_fields
    }
    assert tested == existing
    assert {key.key for key in TASK_KEYS} == set(TaskSettings.model_fields)


def test_defaults_are_those_of_a_first_use(folder: Path) -> None:
    config = load(folder, LOCAL)

    assert config.worker.python_path == (folder,)
    assert config.queue.kind == "local"
    assert config.queue.path == folder / "var/queue.db"
    assert config.store.kind == "local"
    assert config.store.path == folder / "var/repositories"
    assert config.workspace.root == folder / "var/workspaces"
    assert config.cache_bytes == 0
    assert load(folder, SERVERS).cache_bytes == 1024**3
    assert config.http.address == ("127.0.0.1", 9464)
    assert config.source == folder / "worker.toml"
    assert config.warnings == ()
    assert config.task("any") == dataclasses.replace(
        config.task("any"), concurrency=1, isolation="process", domain=None, body_timeout=None
    )


def test_a_task_takes_what_it_does_not_set_from_the_worker(folder: Path) -> None:
    text = with_value(SERVERS, "queue", 'domain = "gpu"')
    text = with_value(text, "worker", "concurrency = 5")
    config = load(folder, text + '\n[tasks."a.b"]\nisolation = "thread"\n')

    task = config.task("a.b")

    assert (task.concurrency, task.isolation, task.domain) == (5, "thread", "gpu")


def test_the_environment_wins_over_the_file(folder: Path) -> None:
    config = load(folder, LOCAL + '[http]\nlisten = "0.0.0.0:1"', {"PERAGO_HTTP__LISTEN": ""})

    assert config.http.listen == ""
    assert config.http.address is None


def test_an_empty_variable_unsets_what_may_be_unset(folder: Path) -> None:
    text = with_value(SERVERS, "queue", 'domain = "gpu"')

    config = load(folder, text, {"PERAGO_QUEUE__DOMAIN": ""})

    assert isinstance(config.queue, ConductorQueueSettings)
    assert config.queue.domain is None


def test_a_kind_from_the_environment_sets_aside_the_keys_of_the_kind_in_the_file(
    folder: Path,
) -> None:
    text = with_value(LOCAL, "queue", 'path = "q.db"')

    config = load(
        folder, text, {"PERAGO_QUEUE__KIND": "conductor", "PERAGO_QUEUE__URL": "http://c"}
    )

    assert config.queue.kind == "conductor"
    assert [(problem.key, problem.message) for problem in config.warnings] == [
        ("queue.path", 'has no effect, since queue.kind is "conductor"')
    ]


def test_a_configuration_cannot_be_changed(folder: Path) -> None:
    config = load(folder, LOCAL)

    with pytest.raises(ValidationError):
        setattr(config.worker, "concurrency", 2)  # noqa: B010 -- mypy refuses it too


@pytest.mark.parametrize(
    ("url", "api_url"),
    [
        ("http://c:8080", "http://c:8080/api"),
        ("http://c:8080/", "http://c:8080/api"),
        ("http://c:8080/api", "http://c:8080/api"),
        ("http://c:8080/api/", "http://c:8080/api"),
        ("http://c/conductor", "http://c/conductor/api"),
    ],
)
def test_urls_are_taken_with_and_without_the_path_of_the_api(
    url: str, api_url: str, folder: Path
) -> None:
    environ = {"PERAGO_QUEUE__URL": url, "PERAGO_STORE__ENDPOINT": f"{url}/api/v1"}
    config = load(folder, SERVERS, environ)

    assert isinstance(config.queue, ConductorQueueSettings)
    assert isinstance(config.store, LakeFSStoreSettings)
    assert config.queue.api_url == api_url
    assert config.store.api_url.endswith("/api/v1")
    assert config.store.api_url.count("/api/v1") == 1


# --- mistakes -------------------------------------------------------------------------------------


def test_five_mistakes_are_reported_at_once_with_their_lines(folder: Path) -> None:
    text = """\
[worker]
modules = [
    "app.tasks",
]
concurency = 2

[queue]
kind = "conductor"

[store]
kind = "local"

[logging]
level = "loud"

[workspace]
transfer_connections = 65

[publsh]
merge_timeout = "1s"
"""
    assert problems(folder, text) == [
        "5: worker.concurency: unknown key; did you mean concurrency?",
        (
            "7: queue.url: is missing; expected an http:// or https:// URL with a host, "
            "such as https://example.com:8080"
        ),
        '14: logging.level: got "loud"; expected "debug", "info", "warning" or "error"',
        "17: workspace.transfer_connections: got 65; expected a whole number from 1 to 64",
        "19: publsh: unknown section; did you mean [publish]?",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[worker\n", "1: is not valid TOML: "),
        ("[worker]\nmodules = [", "2: is not valid TOML: "),
        ("[worker]\na = 1\na = 2\n", "3: is not valid TOML: cannot overwrite a value"),
    ],
)
def test_a_file_that_is_not_toml_is_reported_with_its_line(
    text: str, problem: str, folder: Path
) -> None:
    (found,) = problems(folder, text)
    assert found.startswith(problem)


def test_a_file_that_is_not_text_is_reported_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_bytes(b"# fine\n# \xff\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ={})
    assert str(caught.value) == f"{file}:2: is not UTF-8 text"


def test_a_missing_file_says_how_to_name_another(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file; name another with --config"):
        load_config(tmp_path / "worker.toml", environ={})


def test_a_folder_in_place_of_the_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path, environ={})


@pytest.mark.parametrize(
    ("section", "line", "problem"),
    [
        ("worker", 'modules = "app"', 'got "app"; expected a list with at least one module'),
        ("worker", "modules = []", "got []; expected a list with at least one module"),
        ("worker", 'modules = ["app/tasks.py"]', 'got "app/tasks.py"; expected a list'),
        ("worker", "concurrency = true", "got true; expected a whole number from 1 to 256"),
        ("worker", 'concurrency = "2"', 'got "2"; expected a whole number from 1 to 256'),
        ("worker", "concurrency = 257", "got 257; expected a whole number from 1 to 256"),
        ("worker", "concurrency = 1.5", "got 1.5; expected a whole number from 1 to 256"),
        ("worker", 'isolation = "fork"', 'got "fork"; expected "process" or "thread"'),
        ("worker", 'drain_timeout = "soon"', 'got "soon"; expected a duration, such as "30s"'),
        ("worker", "drain_timeout = -1", "got -1; expected a duration"),
        ("worker", "drain_timeout = true", "got true; expected a duration"),
        ("worker", "drain_timeout = inf", "got Infinity; expected a duration"),
        ("worker", 'child_memory_limit = "big"', 'got "big"; expected a size above zero'),
        ("worker", "child_memory_limit = 0", "got 0; expected a size above zero"),
        ("worker", "child_memory_limit = true", "got true; expected a size above zero"),
        ("worker", 'name = "a b"', 'got "a b"; expected up to 64 letters'),
        ("worker", 'body_env = ["A-B"]', 'got "A-B"; expected a list of names of environment'),
        ("workspace", "root = 5", "got 5; expected a path"),
        ("workspace", 'root = ""', 'got ""; expected a path'),
        ("workspace", "max_objects = 0", "got 0; expected a whole number from 1 upwards"),
        ("workspace", "warm = -1", "got -1; expected a whole number from 0 to 4096"),
        ("workspace", "cache_max = -1", "got -1; expected a size, such as"),
        ("publish", "merge_timeout = 0", "got 0; expected a duration above zero"),
        ("publish", 'record_result = "no"', 'got "no"; expected true or false'),
        ("publish", 'require_fence = "swap"', 'got "swap"; expected "none" or "hook"'),
        ("publish", "sentinel = 1", "got 1; expected true or false"),
        ("http", 'listen = "9464"', 'got "9464"; expected an address with a port'),
        ("http", 'listen = "localhost:70000"', 'got "localhost:70000"; expected an address'),
        ("logging", "level = 10", 'got 10; expected "debug", "info", "warning" or "error"'),
        ("logging", "format = {}", 'got a table; expected "auto", "console" or "json"'),
        ("queue", 'kind = "kafka"', 'got "kafka"; expected "local" or "conductor"'),
        ("store", 'kind = "s3"', 'got "s3"; expected "local" or "lakefs"'),
    ],
)
def test_a_wrong_value_is_reported_with_what_is_right(
    section: str, line: str, problem: str, folder: Path
) -> None:
    (found,) = problems(folder, with_value(LOCAL, section, line))
    assert problem in found
    assert "pydantic" not in found
    assert f"{section}.{line.split(maxsplit=1)[0]}" in found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "worker.modules: is missing; expected a list with at least one module name"),
        ("", 'queue.kind: is missing; expected "local" or "conductor"'),
        ("", 'store.kind: is missing; expected "local" or "lakefs"'),
        ("worker = 5", "1: worker: got 5; expected a table, [worker]"),
        ("tasks = 5", "1: tasks: got 5; expected a table, [tasks]"),
        ("[[http]]", "1: http: got [{}]; expected a table, [http]"),
        ("concurrency = 3", "stands outside of all sections; did you mean concurrency in [worker]"),
        ("[other]\n", "1: other: unknown section; the sections are worker, queue, store,"),
        ("[workers]\n", "1: workers: unknown section; did you mean [worker]?"),
        ("[worker]\nlisten = 1", "2: worker.listen: unknown key; it belongs in [http]"),
        ("[http]\nxyz = 1", "2: http.xyz: unknown key; [http] has listen"),
        ("[queue]\nkind = 'local'\nurl = 'http://c'", 'url is a key of kind = "conductor"'),
        ("[queue]\nkind = 'conducter'\nurll = ''", "3: queue.urll: unknown key; did you mean url?"),
        ("[queue]\nurl = 'x'", '2: queue.url: got "x"; expected an http:// or https:// URL'),
        (
            "[tasks]\nconcurrency = 1",
            '2: tasks.concurrency: stands in [tasks]; write it in [tasks."',
        ),
        ("[tasks.a.b]\nconcurrency = 1", 'a name with dots needs quotes: [tasks."a.b"]'),
        ('[tasks."a.b"]\nconcurrency = 0', '2: tasks."a.b".concurrency: got 0; expected a whole'),
        ('[tasks]\n"a.b" = 1', '2: tasks."a.b": got 1; expected a table, [tasks."a.b"]'),
    ],
)
def test_a_wrong_structure_is_reported(text: str, problem: str, folder: Path) -> None:
    assert any(problem in found for found in problems(folder, text))


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("PERAGO_WORKER__CONCURENCY", "1", "did you mean PERAGO_WORKER__CONCURRENCY?"),
        ("PERAGO_HTTP__X", "1", "stands for no key; [http] has listen"),
        ("PERAGO_X__Y", "1", "stands for no key; the sections are worker, queue,"),
        ("PERAGO_TASKS__A__DOMAIN", "1", "settings of single tasks are given in the file only"),
        ("PERAGO_WORKER__CONCURRENCY", "two", 'got "two"; expected a whole number from 1 to 256'),
        ("PERAGO_WORKER__CONCURRENCY", "", 'got ""; expected a whole number from 1 to 256'),
        ("PERAGO_WORKER__MODULES", "a,b", 'got "a,b"; expected a list with at least one'),
        ("PERAGO_WORKER__MODULES", '"a"', 'got "a"; expected a list with at least one'),
        ("PERAGO_PUBLISH__RECORD_RESULT", "maybe", 'got "maybe"; expected true or false'),
        ("PERAGO_QUEUE__URL", "http://c", 'url is a key of kind = "conductor"'),
    ],
)
def test_a_wrong_environment_variable_is_reported_by_its_name(
    variable: str, text: str, problem: str, folder: Path
) -> None:
    (found,) = problems(folder, LOCAL, {variable: text})
    assert found.startswith(f"{variable}: ")
    assert problem in found


def test_wrong_variables_are_reported_beside_a_file_that_cannot_be_parsed(folder: Path) -> None:
    found = problems(folder, "[", {"PERAGO_X__Y": "1"})
    assert len(found) == 2


def test_a_variable_with_one_underscore_too_few_is_a_warning(folder: Path) -> None:
    """Not an error: Kubernetes sets variables such as PERAGO_WORKER_PORT for its services."""
    environ = {"PERAGO_WORKER_NAME": "x", "PERAGO_WORKER_PORT": "tcp://1", "PERAGO_CONFIG": "x"}

    config = load(folder, LOCAL, environ)

    assert [str(problem) for problem in config.warnings] == [
        "PERAGO_WORKER_NAME: has no effect; did you mean PERAGO_WORKER__NAME?"
    ]


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "the file it names does not exist"),
        (b"", "the file it names is empty"),
        (b" \n", "the file it names is empty"),
        (b"one\ntwo\n", "the file it names has more than one line"),
        (b"\xff\xfe", "the file it names is not text"),
    ],
)
def test_a_secret_file_that_cannot_be_used_is_reported(
    content: bytes | None, problem: str, folder: Path
) -> None:
    if content is None:
        (folder / "secret").unlink()
    else:
        (folder / "secret").write_bytes(content)

    found = problems(folder, SERVERS)

    assert [line.partition(": ")[0] for line in found] == ["7", "12"]
    assert all(problem in line for line in found)


def test_a_secret_file_that_cannot_be_opened_is_reported(folder: Path) -> None:
    (folder / "secret").unlink()
    (folder / "secret").mkdir()

    assert "cannot be read: Is a directory" in problems(folder, SERVERS)[0]


def test_a_secret_in_place_of_a_file_name_is_not_repeated(folder: Path) -> None:
    text = with_value(SERVERS, "store", 'secret_access_key_file = "canary/1234"')

    assert "canary" not in "\n".join(problems(folder, text))


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("store", "secret_access_key"),
        ("store", "access_key_id"),
        ("queue", "auth_key_secret"),
        ("queue", "auth_key_id"),
    ],
)
def test_a_secret_written_inline_is_refused_and_not_repeated(
    section: str, key: str, folder: Path
) -> None:
    text = with_value(SERVERS, section, f'{key} = "canary"')

    (found,) = problems(folder, text)

    assert f"write it to a file and name it with {key}_file" in found
    assert "canary" not in found


def test_an_inline_secret_is_one_mistake_and_not_a_missing_file_too(folder: Path) -> None:
    text = SERVERS.replace("secret_access_key_file = ", "secret_access_key = ")

    assert len(problems(folder, text)) == 1


def test_a_password_in_a_url_is_refused_and_not_repeated(folder: Path) -> None:
    (found,) = problems(folder, with_value(SERVERS, "queue", 'url = "http://me:canary@c"'))

    assert "holds a user name or password" in found
    assert "canary" not in found


@pytest.mark.parametrize("given", ["auth_key_id_file", "auth_key_secret_file"])
def test_a_key_id_and_its_secret_come_together(given: str, folder: Path) -> None:
    both = ("auth_key_id_file", "auth_key_secret_file")
    (other,) = set(both) - {given}
    text = "\n".join(line for line in SERVERS.splitlines() if not line.startswith(other))

    (found,) = problems(folder, text)

    assert "queue.auth_key_secret_file" in found
    assert "give both or none" in found


def test_a_secret_file_that_everybody_can_read_is_a_warning(folder: Path) -> None:
    (folder / "secret").chmod(0o644)

    config = load(folder, SERVERS)

    assert [(problem.key, problem.message) for problem in config.warnings] == [
        (key, "every user of this machine can read the file; chmod o= it")
        for key in ("queue.auth_key_secret_file", "store.secret_access_key_file")
    ]


def test_secret_values_are_those_in_the_files(folder: Path) -> None:
    assert secret_values(load(folder, SERVERS)) == {"top-secret-value"}
    assert secret_values(load(folder, LOCAL)) == frozenset()


def test_a_secret_is_read_anew_each_time(folder: Path) -> None:
    file = folder / "secret"
    assert read_secret(file) == "top-secret-value"
    file.write_text("exchanged")
    assert read_secret(file) == "exchanged"


@pytest.mark.parametrize("content", [None, "", "  \n"])
def test_a_secret_that_is_gone_is_an_error(content: str | None, folder: Path) -> None:
    file = folder / "secret"
    file.unlink() if content is None else file.write_text(content)

    with pytest.raises(ConfigError, match=r"cannot be read|is empty"):
        read_secret(file)


def test_a_file_of_certificates_must_be_readable(folder: Path) -> None:
    (found,) = problems(folder, with_value(SERVERS, "store", 'ca_file = "none.pem"'))

    assert "FOLDER/none.pem cannot be read: No such file or directory" in found


# --- names of tasks -------------------------------------------------------------------------------


def test_settings_of_a_task_that_does_not_exist_are_reported(folder: Path) -> None:
    config = load(folder, LOCAL + '[tasks."a.b"]\n[tasks."a.bb"]\n[tasks.zzz]\n')

    with pytest.raises(ConfigError) as caught:
        check_task_names(config, ["a.b", "c"])

    file = folder / "worker.toml"
    assert str(caught.value).splitlines() == [
        f"{file}:8: tasks.\"a.bb\": no module has a task of this name; did you mean 'a.b'?",
        f'{file}:9: tasks."zzz": no module has a task of this name; the tasks are a.b, c',
    ]


def test_settings_of_tasks_that_exist_are_fine(folder: Path) -> None:
    check_task_names(load(folder, LOCAL + '[tasks."a.b"]\n'), ["a.b", "c"])


# --- parts ----------------------------------------------------------------------------------------

LINES = '''\
top = 1
[a] # comment
x = [
  1, # ] not the end
  2,
]
"quoted.key" = """
[not.a.header]
y = 1
"""
y = 2
d.e.f = 3
inline = { g = 1, h = { i = 2 } }
[a.'b c'.d]
z = '#'

[[list]]
k = 1
[list.sub]
m = 1
'''


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 1),
        (("a",), 2),
        (("a", "x"), 3),
        (("a", "quoted.key"), 7),
        (("a", "y"), 11),
        (("a", "d"), 12),
        (("a", "d", "e", "f"), 12),
        (("a", "inline", "h", "i"), 13),
        (("a", "b c", "d"), 14),
        (("a", "b c", "d", "z"), 15),
        (("list",), 17),
        (("list", "k"), 18),
        (("list", "sub", "m"), 20),
        (("a", "missing"), 2),
        (("a", "b c", "missing", "deeper"), 14),
        (("missing",), None),
    ],
)
def test_lines_of_keys(path: tuple[str, ...], line: int | None, ends: str) -> None:
    assert TomlLines(LINES.replace("\n", ends)).find(path) == line


def test_a_table_is_where_its_header_is_and_not_where_it_is_first_implied() -> None:
    assert TomlLines("[a.b]\nx = 1\n[a]\ny = 1\n").find(("a",)) == 3


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("500ms", 0.5),
        ("1.5h", 5400.0),
        ("2d", 172_800.0),
        ("90", 90.0),
        ("0", 0.0),
        (" 1 h 30 m ", 5400.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1x", "1h-3m", "h1", "1e3", "nan", "inf"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("[::]:9464", ("::", 9464)),
    ],
)
def test_addresses(text: str, address: tuple[str, int] | None) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize("text", [":1", "a", "a:", "a:b", "a:65536", "::1:80", "[::1]", "a b:1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="is no address with a port"):
        parse_listen(text)


@given(secret=st.text(min_size=1), before=st.text(), after=st.text())
def test_a_known_secret_never_survives(secret: str, before: str, after: str) -> None:
    hidden = Redactor([secret]).text(before + secret + after)

    assert secret not in hidden.replace("[redacted]", "")


def test_an_environment_of_the_process_is_used_unless_one_is_given(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PERAGO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PERAGO_WORKER__NAME", "from-the-process")
    file = folder / "worker.toml"
    file.write_text(LOCAL)

    assert load_config(file).worker.name == "from-the-process"
