"""Workers on the node, as an operator sees them through kubectl and helm."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import image, render
from deploy.node.node import GATEWAY, Node
from deploy.servers.servers import Servers
from tests.integration.load import SteadyLoad
from tests.integration.platform import Platform, wait_for

RESTRICTED = (
    "pod-security.kubernetes.io/enforce=restricted",
    "pod-security.kubernetes.io/warn=restricted",
)
ROLLOUT_S = 240.0


@dataclass(frozen=True)
class World:
    """The node, and the servers beside it.

    Attributes:
        platform: Both servers, as this process reaches them.
    """

    node: Node
    servers: Servers
    platform: Platform

    @property
    def conductor_url(self) -> str:
        """Conductor's address, as pods reach it."""
        return f"http://{GATEWAY}:{self.servers.conductor.port}/api"

    @property
    def lakefs_url(self) -> str:
        """The address of lakeFS, as pods reach it."""
        return f"http://{GATEWAY}:{self.servers.lakefs.port}"

    def add_namespace(self, name: str, secrets: Path) -> None:
        """Make a namespace under Pod Security "restricted", with the keys of lakeFS."""
        self.node.kubectl("create", "namespace", name)
        self.node.kubectl("label", "namespace", name, *RESTRICTED)
        access = self.servers.lakefs.access
        (secrets / "access-key-id").write_text(access.access_key_id)
        (secrets / "secret-access-key").write_text(access.secret_access_key)
        files = [f"--from-file={secrets / f}" for f in ("access-key-id", "secret-access-key")]
        self.node.kubectl(
            *("--namespace", name, "create", "secret", "generic", "perago-worker-lakefs"), *files
        )


@dataclass(frozen=True)
class Release:
    """A Deployment of workers in a namespace."""

    node: Node
    namespace: str
    deployment: str

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl in the namespace and return what it prints."""
        return self.node.kubectl("--namespace", self.namespace, *arguments, stdin=stdin)

    def get(self, *arguments: str) -> Any:
        """Return what `kubectl get` finds in the namespace, parsed."""
        return self.node.get("--namespace", self.namespace, *arguments)

    def pods(self) -> dict[str, dict[str, Any]]:
        """Return the workers' pods that were not told to end, by name."""
        selector = "app.kubernetes.io/name=perago-worker"
        pods = self.get("pods", f"--selector={selector}")["items"]
        return {
            pod["metadata"]["name"]: pod
            for pod in pods
            if "deletionTimestamp" not in pod["metadata"]
        }

    def exec(self, pod: str, *command: str) -> str:
        """Run a command in a worker's container and return what it prints."""
        return self.kubectl("exec", pod, "--", *command)

    def wait_rolled_out(self, output: Path, load: SteadyLoad | None = None) -> None:
        """Wait until every pod is a new one and ready, with the load kept up meanwhile."""
        arguments = (
            "rollout",
            "status",
            f"deployment/{self.deployment}",
            f"--timeout={ROLLOUT_S}s",
        )
        process = self.node.kubectl_process(
            "--namespace", self.namespace, *arguments, output=output
        )
        wait = load.wait_for if load else wait_for
        wait(lambda: process.poll() is not None, "rollout", timeout_s=ROLLOUT_S + 30)
        assert process.returncode == 0, output.read_text()

    def restarts(self) -> int:
        """Return how often containers were restarted by the kubelet."""
        statuses = [s for p in self.pods().values() for s in p["status"]["containerStatuses"]]
        return sum(status["restartCount"] for status in statuses)


def helm(node: Node, *arguments: str) -> str:
    """Run helm and return what it prints, warnings of the node included."""
    result = subprocess.run(
        [str(render.tool("helm")), *arguments],
        env=node.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def values(
    world: World, *, modules: Sequence[str], tasks: Mapping[str, Any], files: str = ""
) -> str:
    """Return values of the chart for the image that is on the node.

    Args:
        tasks: Section `tasks` of the configuration.
        files: Name of a ConfigMap whose `steady.py` is put where task modules are looked for.
    """
    repository, _, tag = image.EXAMPLE.rpartition(":")
    mounted = {"name": "more-tasks", "mountPath": "/opt/tasks/steady.py", "subPath": "steady.py"}
    more = {
        "extraVolumes": [{"name": "more-tasks", "configMap": {"name": files}}],
        "extraVolumeMounts": [{**mounted, "readOnly": True}],
    }
    return json.dumps(
        {
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "config": {
                "worker": {"modules": list(modules)},
                "queue": {"url": world.conductor_url, "domain": world.platform.domain},
                "store": {"endpoint": world.lakefs_url},
                "tasks": dict(tasks),
            },
            **(more if files else {}),
        }
    )
