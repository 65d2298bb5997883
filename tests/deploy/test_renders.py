"""The chart and the kustomizations: as they were meant, valid, restricted, with time to end."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import render
from perago_worker import __version__
from perago_worker.config import WorkerConfig, load_config
from tests.deploy.promtool import alerts
from tests.deploy.renders import (
    GOLDEN,
    NAMES,
    VALUES,
    documents,
    golden,
    one,
    rendered,
    worker_toml,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import kubernetes_validate

KUBERNETES = ("1.30", "1.36")
CUSTOM = {"PodMonitor", "PrometheusRule", "ScaledObject"}
"""Kinds that Kubernetes itself does not know."""


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


def test_render_is_as_it_was(name: str) -> None:
    """Meant to be different? `python -m tests.deploy.renders`, and read the difference."""
    assert golden(name) == (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_knows_every_field(name: str, version: str) -> None:
    for document in documents(name):
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("values", ["default", "everything"])
def test_helm_has_nothing_to_say(values: str) -> None:
    assert "0 chart(s) failed" in render.lint(VALUES / f"{values}.yaml")


def test_copies_are_those_of_the_sources() -> None:
    """Renew them: `python deploy/render.py copies`."""
    for path, text in render.copies().items():
        assert path.read_text(encoding="utf-8") == text


# --- security -------------------------------------------------------------------------------------


def pods(name: str) -> Iterator[dict[str, Any]]:
    for document in documents(name):
        if document["kind"] == "Deployment":
            yield document["spec"]["template"]["spec"]
        if document["kind"] == "Pod":
            yield document["spec"]


def test_pods_are_restricted(name: str) -> None:
    for pod in pods(name):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == 10001
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_secrets_are_files_only(name: str) -> None:
    assert "Secret" not in {document["kind"] for document in documents(name)}
    for pod in pods(name):
        for container in pod["containers"]:
            assert "envFrom" not in container
            assert all("valueFrom" not in each for each in container.get("env", []))
        modes = [v["secret"]["defaultMode"] for v in pod["volumes"] if "secret" in v]
        assert modes == [0o440] * len(modes)
        assert modes


def test_only_workspaces_and_tmp_can_be_written_to(name: str) -> None:
    for pod in pods(name):
        for container in pod["containers"]:
            writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
            assert writable == {"/var/lib/perago-worker", "/tmp"}  # noqa: S108 -- in the pod


# --- the worker's own configuration ---------------------------------------------------------------


def loaded(name: str, folder: Path) -> WorkerConfig:
    """Return the worker's configuration as the pod would load it, with secrets made up."""
    text = worker_toml(name).replace("/etc/perago-worker", str(folder))
    for file in (
        "lakefs/access-key-id",
        "lakefs/secret-access-key",
        "conductor/key-id",
        "conductor/key-secret",
    ):
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_text("secret")
        path.chmod(0o440)
    (folder / "worker.toml").write_text(text, encoding="utf-8")
    config = load_config(folder / "worker.toml", environ={})
    assert not config.warnings
    return config


def test_worker_accepts_its_configuration(name: str, tmp_path: Path) -> None:
    config = loaded(name, tmp_path)
    port = one(name, "Deployment")["spec"]["template"]["spec"]["containers"][0]["ports"][0]
    assert config.http.listen == f"0.0.0.0:{port['containerPort']}"
    assert str(config.workspace.root) == "/var/lib/perago-worker"


def test_pods_have_the_time_to_end(name: str, tmp_path: Path) -> None:
    """The drain, publishing, and handing back; as docs/operations.md says."""
    config = loaded(name, tmp_path)
    drain = config.worker.drain_timeout
    publish = config.publish.merge_timeout + config.publish.completion_timeout
    pod = one(name, "Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= drain + publish + 15
    assert pod["terminationGracePeriodSeconds"] >= max(drain, 30) + 35


# --- the chart's own logic ------------------------------------------------------------------------


def chart(**sets: str) -> list[dict[str, Any]]:
    text = render.helm(VALUES / "default.yaml", sets=sets)
    return [each for each in yaml.safe_load_all(text) if each]


@pytest.mark.parametrize(
    ("drain", "seconds"),
    [("30s", 165), ("0s", 135), ("10m", 735), ("1h30m", 5535), ("1500ms", 137), ("90", 225)],
)
def test_grace_period_follows_the_drain(drain: str, seconds: int) -> None:
    deployment = next(
        each
        for each in chart(**{"config.worker.drain_timeout": drain})
        if each["kind"] == "Deployment"
    )
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == seconds


def test_grace_period_that_is_too_short_is_refused_in_a_sentence() -> None:
    with pytest.raises(render.RenderError) as refused:
        chart(terminationGracePeriodSeconds="164")
    assert "terminationGracePeriodSeconds is 164, but draining" in str(refused.value)
    assert "can take 165 seconds: raise it to that" in str(refused.value)


def test_grace_period_that_is_long_enough_is_taken() -> None:
    deployment = next(
        each for each in chart(terminationGracePeriodSeconds="165") if each["kind"] == "Deployment"
    )
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 165


def test_budgets_of_tasks_count() -> None:
    with pytest.raises(render.RenderError, match="can take 345 seconds"):
        chart(terminationGracePeriodSeconds="200", publishBudgetSeconds="300")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("replica", "3", "replica"),
        ("config.worker.modules", "null", "modules"),
        ("config.store.secret_access_key_file", "x", "store"),
        ("config.worker.drain_timeout", "soon", "drain_timeout"),
        ("image.digest", "sha256:1", "digest"),
        ("port", "80", "port"),
        ("config.queue.url", "conductor:8080", "url"),
    ],
)
def test_schema_refuses_what_does_not_belong(key: str, value: str, said: str) -> None:
    with pytest.raises(render.RenderError, match=said):
        chart(**{key: value})


def test_alert_can_be_left_out_and_links_to_its_runbook() -> None:
    rules = one("helm-everything", "PrometheusRule")["spec"]["groups"][0]["rules"]
    assert [rule["alert"] for rule in rules] == [
        name for name in alerts() if name != "PeragoWorkerSlotsFull"
    ]
    for rule in rules:
        url = f"https://docs.example.com/perago-worker/runbooks#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook_url"] == url
        assert rule["expr"] == alerts()[rule["alert"]]["expr"]


def test_configuration_that_changes_is_a_new_set_of_pods() -> None:
    def checksum(**sets: str) -> str:
        deployment = next(each for each in chart(**sets) if each["kind"] == "Deployment")
        value: str = deployment["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        return value

    assert checksum() == checksum(replicas="5")
    assert checksum() != checksum(**{"config.logging.level": "debug"})


def test_render_has_no_secret_in_it(name: str) -> None:
    assert "secret_access_key =" not in rendered(name)
    assert "auth_key_secret =" not in rendered(name)


def test_versions_are_that_of_the_worker() -> None:
    about = yaml.safe_load((render.CHART / "Chart.yaml").read_text(encoding="utf-8"))
    base = yaml.safe_load(
        (render.KUSTOMIZE / "base/kustomization.yaml").read_text(encoding="utf-8")
    )
    assert about["appVersion"] == __version__
    assert [image["newTag"] for image in base["images"]] == [__version__]
