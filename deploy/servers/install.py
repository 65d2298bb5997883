"""Put both servers into a cache: Conductor's jar through Maven, lakeFS built from its Go module."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.servers.tools import (
    HERE,
    MissingToolError,
    ServersError,
    find_go,
    find_java,
    find_maven,
    run,
    say,
)

CONDUCTOR_VERSION = "3.32.1"
CONDUCTOR_ARTIFACT = f"org.conductoross:conductor-server:{CONDUCTOR_VERSION}:jar:boot"
CONDUCTOR_JAR = f"conductor-server-{CONDUCTOR_VERSION}-boot.jar"
CONDUCTOR_SHA256 = "f3699a34bb72c35c10469a063392e5de4900bc4568c8a4357a711186d6269d3f"

LAKEFS_PACKAGE = "github.com/treeverse/lakefs/cmd/lakefs"

DOWNLOAD_TRIES = 3


def cache_dir() -> Path:
    """Name the folder that holds both servers; PERAGO_SERVERS_CACHE moves it."""
    return Path(os.environ.get("PERAGO_SERVERS_CACHE") or HERE / ".cache").absolute()


def conductor_jar() -> Path:
    """Name Conductor's place in the cache."""
    return cache_dir() / CONDUCTOR_JAR


def lakefs_binary() -> Path:
    """Name lakeFS's place in the cache; the name changes with the pinned modules."""
    pinned = b"".join((HERE / name).read_bytes() for name in ("go.mod", "go.sum"))
    return cache_dir() / f"lakefs-{hashlib.sha256(pinned).hexdigest()[:12]}"


def install() -> None:
    """Put both servers into the cache. Idempotent; safe from several processes at once.

    Takes about a minute and 550 MB the first time, plus about three minutes for building lakeFS on
    two cores; nothing afterwards.

    Raises:
        MissingToolError: Java, Maven or Go is missing or too old. All that are missing are named.
        ServersError: A download failed three times, or what came is not what is pinned.
    """
    if conductor_jar().exists() and lakefs_binary().exists():
        find_java()
        return
    cache_dir().mkdir(parents=True, exist_ok=True)
    with _locked(cache_dir() / "install.lock"):
        _check_tools()
        if not conductor_jar().exists():
            _install_conductor(conductor_jar())
        if not lakefs_binary().exists():
            _install_lakefs(lakefs_binary())


def _check_tools() -> None:
    checks: list[Callable[[], Path]] = [find_java]
    if not conductor_jar().exists():
        checks.append(find_maven)
    if not lakefs_binary().exists():
        checks.append(find_go)
    problems = []
    for check in checks:
        try:
            check()
        except MissingToolError as missing:
            problems.append(str(missing))
    if problems:
        raise MissingToolError("\n".join(problems))


def _install_conductor(target: Path) -> None:
    say(f"Fetching Conductor {CONDUCTOR_VERSION} (458 MB) ...")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        download(
            [
                *(str(find_maven()), "--batch-mode", "--quiet", "--strict-checksums"),
                *("dependency:copy", f"-Dartifact={CONDUCTOR_ARTIFACT}"),
                f"-DoutputDirectory={folder}",
            ],
            cwd=Path(folder),
        )
        jar = Path(folder, CONDUCTOR_JAR)
        with jar.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest != CONDUCTOR_SHA256:
            raise ServersError(f"{CONDUCTOR_ARTIFACT} has SHA-256 {digest}, not the pinned one.")
        jar.replace(target)


def _install_lakefs(target: Path) -> None:
    go = str(find_go())
    say("Fetching lakeFS's modules ...")
    # Listing the dependencies downloads what the build needs and no more, and can be repeated.
    download([go, "list", "-mod=readonly", "-deps", LAKEFS_PACKAGE], cwd=HERE)
    say("Building lakeFS (three minutes on two cores the first time) ...")
    unfinished = target.with_suffix(".tmp")
    flags = ["-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w"]
    run([go, "build", *flags, "-o", str(unfinished), LAKEFS_PACKAGE], cwd=HERE)
    unfinished.replace(target)


def download(command: Sequence[str], *, cwd: Path, pause_s: float = 2.0) -> None:
    """Run a command that downloads, three times at most; what it has fetched so far may stay.

    Raises:
        ServersError: It failed each time.
    """
    for left in reversed(range(DOWNLOAD_TRIES)):
        try:
            run(command, cwd=cwd)
        except ServersError as failed:
            if not left:
                raise
            say(f"{failed}\nTrying again ...")
            time.sleep(pause_s)
        else:
            return


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
