#!/usr/bin/env python3
"""Build the worker's image and the example's on top of it, from Debian packages alone.

    python deploy/image.py          # prints the names of both

For machines that reach no registry of images, such as those that run the tests: the base is made
by debootstrap. Where a registry is reached, `docker build` as in the Dockerfile is all it takes.
Needs root, and debootstrap, buildah, podman and runc (Debian packages of these names). Images are
kept in deploy/.cache/images, or below PERAGO_DEPLOY_CACHE; the base is made once, in a minute.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("debootstrap", "buildah", "podman", "runc")

SUITE = "bookworm"
PACKAGES = "ca-certificates,python3,python3-venv,tzdata"
BASE = f"localhost/perago-base:{SUITE}"
WORKER = "localhost/perago-worker:built"
EXAMPLE = "localhost/shop-worker:built"

# What lets a build reach the Python index the way this machine does.
MACHINES_OWN = ("/etc/ssl/certs", "/etc/pip.conf", "/etc/resolv.conf")
LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info")


class ImageError(Exception):
    """An image cannot be built; the message says what failed."""


def storage() -> list[str]:
    """Return the options that make buildah and podman keep everything in our cache."""
    cache = Path(os.environ.get("PERAGO_DEPLOY_CACHE") or ROOT / "deploy/.cache").absolute()
    images = cache / "images"
    return ["--root", str(images / "root"), "--runroot", str(images / "run")]


def build() -> None:
    """Build all three images; what has not changed since the last time is taken from there.

    Raises:
        ImageError: A tool is missing, or a step failed.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid():
        raise ImageError(f"Needs root and Debian's {', '.join(TOOLS)}; missing: {missing}")
    if not exists(BASE):
        with tempfile.TemporaryDirectory() as folder:
            _make_base(Path(folder))
    _build(ROOT, WORKER, f"BASE_IMAGE={BASE}")
    _build(ROOT / "deploy/examples/image", EXAMPLE, f"WORKER_IMAGE={WORKER}")


def exists(name: str) -> bool:
    """Tell whether an image is in our cache."""
    asked = ["buildah", *storage(), "images", "--quiet", name]
    return not _run(asked, check=False).returncode


def buildah(*arguments: str) -> str:
    """Run buildah on our images and return what it prints.

    Raises:
        ImageError: It failed.
    """
    return _run(["buildah", *storage(), *arguments]).stdout


def size_mb(image: str) -> int:
    """Return how large an image is, unpacked."""
    asked = ["podman", *storage(), "image", "inspect", "--format", "{{.Size}}", image]
    return int(_run(asked).stdout) // 1_000_000


def _make_base(root: Path) -> None:
    _run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root)])
    for folder in ("var/cache/apt", "var/lib/apt/lists", *LEFT_OUT):
        shutil.rmtree(root / folder, ignore_errors=True)
    container = buildah("from", "scratch").strip()
    buildah("add", "--quiet", container, str(root), "/")
    buildah("commit", "--quiet", "--rm", container, BASE)


def _build(context: Path, name: str, argument: str) -> None:
    volumes = [f"--volume={path}:{path}:ro" for path in MACHINES_OWN if Path(path).exists()]
    options = ["--layers", "--format=docker", "--isolation=chroot", "--network=host", *volumes]
    command = ["buildah", *storage(), "build", *options, f"--build-arg={argument}"]
    _run([*command, f"--tag={name}", str(context)])


def _run(command: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- our own commands
    if check and result.returncode:
        raise ImageError(f"{' '.join(command)} failed:\n{(result.stdout + result.stderr)[-3000:]}")
    return result


if __name__ == "__main__":
    try:
        build()
    except ImageError as error:
        sys.exit(str(error))
    for image in (WORKER, EXAMPLE):
        print(image, f"{size_mb(image)} MB")  # noqa: T201 -- a command
