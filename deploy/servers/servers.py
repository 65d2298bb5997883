#!/usr/bin/env python3
"""Install, start and stop a real Conductor and a real lakeFS, without containers.

    python deploy/servers/servers.py install            # both servers into the cache, once
    eval "$(python deploy/servers/servers.py up)"       # start both; sets PERAGO_TEST_*
    python deploy/servers/servers.py status
    python deploy/servers/servers.py down

Conductor is one runnable jar that Maven fetches; lakeFS is built from its Go module, pinned by the
go.mod and go.sum beside this file. Both listen on the loopback interface only. The module needs
nothing but the standard library, so that it runs before anything is installed; the tests import it
for `ConductorServer` and `LakeFSServer`, which they stop and bring back.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Run as a file, this is part of no package: let it find the modules beside it by their names.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from deploy.servers.install import cache_dir, install
from deploy.servers.object_storage import LakeFSOnObjectStore
from deploy.servers.pair import (
    Addresses,
    ConductorServer,
    LakeFSAccess,
    LakeFSServer,
    Servers,
)
from deploy.servers.process import ProcessId, Server
from deploy.servers.tools import MissingToolError, ServersError, say

__all__ = [
    "Addresses",
    "ConductorServer",
    "LakeFSAccess",
    "LakeFSServer",
    "MissingToolError",
    "Server",
    "Servers",
    "ServersError",
    "install",
    "main",
]


def load(directory: Path, *, conductor_port: int = 0, lakefs_port: int = 0) -> Servers:
    """Recall the servers that `up` started in a directory, or describe new ones.

    Args:
        directory: Where they keep their data.
        conductor_port: Port to listen on, unless it runs already; 0 keeps the port it had.
        lakefs_port: Likewise.
    """
    path = directory / "state.json"
    state = json.loads(path.read_text()) if path.exists() else {}
    return Servers(
        ConductorServer(
            directory / "conductor", **_recall(state.get("conductor"), port=conductor_port)
        ),
        LakeFSServer(directory / "lakefs", **_recall(state.get("lakefs"), port=lakefs_port)),
    )


def _recall(state: dict[str, Any] | None, *, port: int) -> dict[str, Any]:
    if state is None:
        return {"port": port}
    process = ProcessId(**state["process"]) if state["process"] else None
    running = process is not None and process.alive()
    return {
        **state,
        "process": process,
        "port": state["port"] if running else port or state["port"],
    }


def load_on_object_store(directory: Path) -> LakeFSOnObjectStore:
    """Recall what `up --object-store` started in a directory, or describe it anew."""
    folder = directory / "on-object-store"
    path = folder / "state.json"
    state = json.loads(path.read_text()) if path.exists() else {}
    return LakeFSOnObjectStore(
        folder,
        store=_recall(state.get("object-store"), port=0),
        lakefs=_recall(state.get("lakefs"), port=0),
    )


def save(servers: Servers, directory: Path) -> None:
    """Write down what `load` needs, readable by the owner alone: it holds a secret."""
    _save(servers.conductor, servers.lakefs, directory)


def _save(other: Server, lakefs: LakeFSServer, directory: Path) -> None:
    state: dict[str, dict[str, object]] = {
        server.name: {
            "port": server.port,
            "process": asdict(server.process) if server.process else None,
        }
        for server in (other, lakefs)
    }
    access = asdict(lakefs.access)
    del access["endpoint"]
    state["lakefs"].update(access)
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / "state.json.tmp"
    unfinished.touch(mode=0o600)
    unfinished.write_text(json.dumps(state, indent=2))
    unfinished.replace(directory / "state.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what is missing goes to stderr, with exit code 1."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ServersError as failed:
        say(str(failed))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="A real Conductor and a real lakeFS, without containers."
    )
    commands = parser.add_subparsers(required=True, metavar="{install,up,down,status}")
    for name, run, help_text in (
        ("install", _install, "put both servers into the cache"),
        ("up", _up, "start both in the background; print how to reach them"),
        ("down", _down, "stop what `up` started"),
        ("status", _status, "say which of them answer; exit code 1 unless both do"),
    ):
        command = commands.add_parser(name, help=help_text)
        command.set_defaults(run=run)
        if name != "install":
            command.add_argument("--dir", type=Path, default=None, help="default: in the cache")
        if name == "up":
            command.add_argument("--conductor-port", type=int, default=0, metavar="N")
            command.add_argument("--lakefs-port", type=int, default=0, metavar="N")
            command.add_argument(
                "--object-store",
                action="store_true",
                help="also a lakeFS whose objects are in an object store; needs moto[server]",
            )
            command.add_argument("--json", action="store_true", help="instead of `export` lines")
    return parser


def _directory(options: argparse.Namespace) -> Path:
    chosen: Path = options.dir or cache_dir() / "run"
    return chosen.absolute()


def _install(options: argparse.Namespace) -> int:  # noqa: ARG001 - same shape as the others
    install()
    say(f"Conductor and lakeFS are in {cache_dir()}")
    return 0


def _up(options: argparse.Namespace) -> int:
    install()
    directory = _directory(options)
    servers = load(
        directory, conductor_port=options.conductor_port, lakefs_port=options.lakefs_port
    )
    servers.start(detach=True)
    save(servers, directory)
    variables = servers.addresses.to_environment()
    if options.object_store:
        pair = load_on_object_store(directory)
        pair.start(detach=True)
        _save(pair.store, pair.lakefs, directory / "on-object-store")
        variables |= pair.to_environment()
    if options.json:
        sys.stdout.write(json.dumps(variables, indent=2) + "\n")
        return 0
    for name, value in variables.items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
    return 0


def _down(options: argparse.Namespace) -> int:
    directory = _directory(options)
    servers = load(directory)
    try:
        load_on_object_store(directory).stop()
    finally:
        servers.stop()
    # Kept: the data in the directory belongs to these keys.
    if (directory / "state.json").exists():
        save(servers, directory)
    return 0


def _status(options: argparse.Namespace) -> int:
    servers = load(_directory(options))
    answers = []
    for server in (servers.conductor, servers.lakefs):
        answers.append(server.running and server.healthy())
        where = f"{server.url}, log in {server.log_path}" if answers[-1] else "not running"
        sys.stdout.write(f"{server.name}: {where}\n")
    return 0 if all(answers) else 1


if __name__ == "__main__":
    sys.exit(main())
