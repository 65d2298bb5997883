"""What a node consists of: Kubernetes built from its Go module, Debian packages, two images."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from deploy import image
from deploy.servers.install import download
from deploy.servers.tools import MissingToolError, find_go, run, say

HERE = Path(__file__).resolve().parent
VERSION = "v1.36.3"
BINARIES = ("kubectl", "kubelet", "kube-scheduler", "kube-controller-manager", "kube-apiserver")

PACKAGES = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "buildah": "buildah",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/bin/busybox": "busybox-static",
    "ip": "iproute2",
    "unshare": "util-linux",
    "openssl": "openssl",
}
"""Program -> Debian package."""

PAUSE = "localhost/pause:1"
IMAGES = {"pause.tar": PAUSE, "worker.tar": image.EXAMPLE}


def cache_dir() -> Path:
    """Name the folder of what is built; PERAGO_DEPLOY_CACHE moves it."""
    return Path(os.environ.get("PERAGO_DEPLOY_CACHE") or HERE.parent / ".cache").absolute()


def binaries() -> Path:
    """Return the folder of Kubernetes' programs, building those that are missing.

    Ten minutes on two cores the first time; the name changes with the pinned modules.

    Raises:
        ServersError: There is no Go, or a module could not be fetched or built.
    """
    pinned = b"".join((HERE / name).read_bytes() for name in ("go.mod", "go.sum"))
    folder = cache_dir() / f"kubernetes-{VERSION}-{hashlib.sha256(pinned).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in BINARIES:
        if not (folder / name).exists():
            _build(name, folder / name)
    return folder


def _build(name: str, target: Path) -> None:
    go, package = str(find_go()), f"k8s.io/kubernetes/cmd/{name}"
    say(f"Building {name} {VERSION} ...")
    download([go, "list", "-mod=readonly", "-deps", package], cwd=HERE)
    # The version is what clients and the chart's kubeVersion are held against.
    where = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    stamps = " ".join(f"-X {place}.gitVersion={VERSION}" for place in where)
    flags = ["-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", f"-s -w {stamps}"]
    unfinished = target.with_suffix(".tmp")
    run(
        ["env", "CGO_ENABLED=0", go, "build", *flags, "-o", str(unfinished), package],
        cwd=HERE,
    )
    unfinished.replace(target)


def check_packages() -> None:
    """Make sure that what comes from Debian is there.

    Raises:
        MissingToolError: Something is missing, or this is not root. All that is missing is named.
    """
    missing = sorted({PACKAGES[name] for name in PACKAGES if shutil.which(name) is None})
    if missing:
        raise MissingToolError(f"Missing: apt-get install {' '.join(missing)}")
    if os.geteuid():
        raise MissingToolError("A node needs root: it makes namespaces, mounts and control groups.")


def save_images(folder: Path) -> None:
    """Build the example's image and what holds a pod's namespaces, and put both into archives.

    Raises:
        ImageError: One of them cannot be built.
    """
    image.build()
    _build_pause()
    for archive, name in IMAGES.items():
        target = folder / archive
        image.buildah("push", "--quiet", name, f"docker-archive:{target}:{name}")


def _build_pause() -> None:
    if image.exists(PAUSE):
        return
    container = image.buildah("from", "scratch").strip()
    image.buildah("add", "--quiet", container, "/bin/busybox", "/busybox")
    forever = '["/busybox", "sleep", "2147483647"]'
    image.buildah("config", "--entrypoint", forever, container)
    image.buildah("commit", "--quiet", "--rm", container, PAUSE)
