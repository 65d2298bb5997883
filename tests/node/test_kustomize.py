"""The base of the kustomization on a real node, in an overlay as users write one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from deploy import image
from deploy.render import KUSTOMIZE
from tests.integration.platform import Platform, workspace
from tests.node.release import Release, World

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]

WORKER_TOML = """
[worker]
modules = ["shop"]
concurrency = {concurrency}
[queue]
kind = "conductor"
url = "{conductor}"
domain = "{domain}"
[store]
kind = "lakefs"
endpoint = "{lakefs}"
access_key_id_file = "/etc/perago-worker/lakefs/access-key-id"
secret_access_key_file = "/etc/perago-worker/lakefs/secret-access-key"
[workspace]
root = "/var/lib/perago-worker"
[http]
listen = "0.0.0.0:9464"
[logging]
format = "json"
"""

NEVER_PULL = [
    {
        "op": "add",
        "path": "/spec/template/spec/containers/0/imagePullPolicy",
        "value": "Never",
    }
]


def test_base_runs_and_a_changed_configuration_is_a_new_set_of_pods(
    world: World, tmp_path: Path
) -> None:
    """Under Pod Security "restricted", with a queue domain of its own."""
    platform = Platform(world.platform.conductor_url, world.platform.lakefs_access)
    release = Release(world.node, "kustomized", "perago-worker")
    world.add_namespace(release.namespace, tmp_path)
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    write_overlay(overlay, release.namespace)

    def apply(concurrency: int) -> set[str]:
        text = WORKER_TOML.format(
            concurrency=concurrency,
            conductor=world.conductor_url,
            domain=platform.domain,
            lakefs=world.lakefs_url,
        )
        (overlay / "worker.toml").write_text(text)
        release.kubectl("apply", "--kustomize", str(overlay))
        release.wait_rolled_out(tmp_path / f"rollout-{concurrency}")
        return set(release.pods())

    pods = apply(1)
    assert len(pods) == 2
    release.exec(next(iter(pods)), "perago-worker", "taskdef", "register", "--yes")
    repository, ref = platform.repository({"texts/a.txt": b"hello small world"})
    inputs = {"workspace": workspace(repository, ref), "params": {"shortest": 1}}
    state = platform.wait_ended(platform.start_task("shop.count_words", inputs))
    assert state["status"] == "COMPLETED", state.get("reasonForIncompletion")
    assert state["tasks"][0]["outputData"]["result"] == {"files": 1, "words": 3}
    assert state["tasks"][0]["workerId"].startswith(tuple(pods))
    assert len(platform.publications(repository)) == 1

    changed = apply(2)
    assert changed.isdisjoint(pods)
    said = release.exec(next(iter(changed)), "perago-worker", "status", "--json")
    assert [task["slots"] for task in json.loads(said)["tasks"]] == [2]
    assert release.restarts() == 0
    platform.close()


def write_overlay(folder: Path, namespace: str) -> None:
    """Write an overlay over the base with the image that is on the node."""
    name, _, tag = image.EXAMPLE.rpartition(":")
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": [os.path.relpath(KUSTOMIZE / "base", folder)],
        "images": [{"name": "perago-worker", "newName": name, "newTag": tag}],
        "configMapGenerator": [
            {"name": "perago-worker", "behavior": "replace", "files": ["worker.toml"]}
        ],
        "patches": [{"target": {"kind": "Deployment"}, "patch": json.dumps(NEVER_PULL)}],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
