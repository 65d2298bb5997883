"""A Kubernetes of one node: etcd, the control plane, containerd and the kubelet, as processes.

For inside of `enclosed.py`, which gives it a network of its own, so that every port and address is
free, and ends all of it. Pods have addresses on a bridge; whatever listens on every address of the
enclosure is reached from pods at `GATEWAY`. There is no DNS, no kube-proxy, and a NetworkPolicy
is taken but not enforced: the bridge knows nothing of them.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deploy.node.install import IMAGES
from deploy.servers.tools import ServersError

GATEWAY = "10.88.0.1"
NAME = "node"

READY_TIMEOUT_S = 180.0
LOG_TAIL_LINES = 25

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: "$TOKEN"}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""

CONTAINERD = """\
version = 2
root = "$DIR/containerd"
state = "$DIR/containerd-state"
[grpc]
address = "$DIR/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "$DIR/cni"
"""

NETWORK = """\
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
 {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
  "ipam": {"type": "host-local", "dataDir": "$DIR/ipam", "ranges": [[{"subnet": "10.88.0.0/16"}]],
           "routes": [{"dst": "0.0.0.0/0"}]}}]}
"""

KUBELET = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$GROUP
containerRuntimeEndpoint: unix://$DIR/containerd.sock
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
failSwapOn: false
resolvConf: ""
"""


class NodeError(ServersError):
    """The node cannot be started, or kubectl failed; the message says what was printed."""


class Node:
    """The processes of one node. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Describe a node; nothing starts yet.

        Args:
            folder: As `enclosed.py` made it: named as the control group, with the images in it.
        """
        self._dir = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.kubeconfig = folder / "kubeconfig"

    def start(self) -> None:
        """Start everything and wait until pods can run.

        Raises:
            NodeError: A part ended, or was not ready in time; the message ends with its log.
        """
        self._write()
        _run("ip", "link", "add", "cni0", "type", "bridge")
        _run("ip", "address", "add", f"{GATEWAY}/16", "dev", "cni0")
        _run("ip", "link", "set", "cni0", "up")
        # The address of the default route is what everybody takes for the node's.
        _run("ip", "route", "add", "default", "dev", "cni0")
        self._start("etcd", *self._etcd())
        self._start("containerd", "containerd", "--config", "containerd.toml")
        self._start("kube-apiserver", *self._apiserver())
        self._import_images()
        self._wait("kube-apiserver", lambda: self._kubectl("get", "--raw", "/readyz"))
        client = "--kubeconfig=kubeconfig"
        key = "--service-account-private-key-file=pki/sa.key"
        self._start(
            "kube-controller-manager",
            *("kube-controller-manager", client, key, "--leader-elect=false"),
        )
        self._start("kube-scheduler", "kube-scheduler", client, "--leader-elect=false")
        self._start(
            "kubelet",
            *("kubelet", client, "--config=kubelet.yaml", "--cert-dir=pki"),
            *(f"--hostname-override={NAME}", f"--node-ip={GATEWAY}"),
            f"--root-dir={self._dir / 'kubelet'}",
        )
        ready = ("wait", "--for=condition=Ready", f"node/{NAME}", "--timeout=1s")
        self._wait("kubelet", lambda: self._kubectl(*ready))

    def stop(self) -> None:
        """End the processes, the kubelet first; containers go with the enclosure. Safe twice."""
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def kubectl(self, *arguments: str, stdin: str = "", timeout_s: float = 120.0) -> str:
        """Run kubectl and return what it prints.

        Raises:
            NodeError: It failed.
        """
        result = self._kubectl_result(*arguments, stdin=stdin, timeout_s=timeout_s)
        if result.returncode:
            raise NodeError(f"kubectl {' '.join(arguments)}: {result.stdout}{result.stderr}")
        return result.stdout

    def get(self, *arguments: str) -> Any:
        """Return what `kubectl get` finds, parsed."""
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def kubectl_process(self, *arguments: str, output: Path) -> subprocess.Popen[bytes]:
        """Start kubectl in the background, with what it prints in a file."""
        with output.open("wb") as file:
            return subprocess.Popen(  # noqa: S603 -- our own program
                ["kubectl", *arguments],  # noqa: S607 -- on the PATH that enclosed.py has made
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def environment(self) -> dict[str, str]:
        """What kubectl and helm need to find the node."""
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def say(self, *arguments: str) -> str:
        """Run kubectl and return what it prints, be it good or bad."""
        result = self._kubectl_result(*arguments)
        return result.stdout + result.stderr

    def _write(self) -> None:
        for name in ("log", "cni", "pki"):
            (self._dir / name).mkdir()
        token = secrets.token_hex(16)
        places = {"$DIR": str(self._dir), "$GROUP": self._dir.name, "$TOKEN": token}
        for path, text in (
            ("kubeconfig", KUBECONFIG),
            ("containerd.toml", CONTAINERD),
            ("cni/10-pods.conflist", NETWORK),
            ("kubelet.yaml", KUBELET),
            ("pki/tokens.csv", "$TOKEN,admin,admin,system:masters\n"),
        ):
            for name, value in places.items():
                text = text.replace(name, value)  # noqa: PLW2901 -- filled in step by step
            (self._dir / path).write_text(text)
            (self._dir / path).chmod(0o600)
        _run("openssl", "genrsa", "-out", "pki/sa.key", "2048", cwd=self._dir)
        public = ("-pubout", "-out", "pki/sa.pub")
        _run("openssl", "rsa", "-in", "pki/sa.key", *public, cwd=self._dir)

    def _etcd(self) -> list[str]:
        clients = "http://127.0.0.1:2379"
        return [
            *("etcd", "--data-dir=etcd", "--listen-peer-urls=http://127.0.0.1:2380"),
            *(f"--listen-client-urls={clients}", f"--advertise-client-urls={clients}"),
            # Nothing has to survive.
            "--unsafe-no-fsync",
        ]

    def _apiserver(self) -> list[str]:
        return [
            *("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443"),
            *("--bind-address=127.0.0.1", f"--advertise-address={GATEWAY}", "--cert-dir=pki"),
            *("--token-auth-file=pki/tokens.csv", "--authorization-mode=RBAC"),
            *("--service-account-issuer=https://node", "--service-account-key-file=pki/sa.pub"),
            "--service-account-signing-key-file=pki/sa.key",
            # The node's name means nothing to anybody.
            "--kubelet-preferred-address-types=InternalIP",
            *("--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none"),
        ]

    def _import_images(self) -> None:
        ctr = ("ctr", "--address", str(self._dir / "containerd.sock"))
        self._wait("containerd", lambda: _succeeds(*ctr, "version"))
        for archive in IMAGES:
            _run(*ctr, "--namespace=k8s.io", "images", "import", archive, cwd=self._dir)

    def _start(self, name: str, *command: str) -> None:
        with (self._dir / f"log/{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603 -- spelled out above
                command,
                cwd=self._dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + READY_TIMEOUT_S
        while not ready():
            ended = self._processes[name].poll() is not None
            if ended or time.monotonic() > give_up_at:
                what = "ended" if ended else f"was not ready after {READY_TIMEOUT_S:.0f} s"
                raise NodeError(f"{name} {what}.\n{self._log_tail(name)}")
            time.sleep(0.2)

    def _kubectl(self, *arguments: str) -> bool:
        return self._kubectl_result(*arguments).returncode == 0

    def _kubectl_result(
        self, *arguments: str, stdin: str = "", timeout_s: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 -- our own program
            ["kubectl", *arguments],  # noqa: S607 -- on the PATH that enclosed.py has made
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def _log_tail(self, name: str) -> str:
        lines = (self._dir / f"log/{name}.log").read_text(errors="replace").splitlines()
        return "\n".join([f"--- {name}", *lines[-LOG_TAIL_LINES:]])


def _run(*command: str, cwd: Path | None = None) -> None:
    result = _result(command, cwd)
    if result.returncode:
        raise NodeError(f"{' '.join(command)}: {result.stdout}{result.stderr}")


def _succeeds(*command: str) -> bool:
    return _result(command, None).returncode == 0


def _result(command: Sequence[str], cwd: Path | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 -- spelled out above
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300
    )
