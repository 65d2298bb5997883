"""perago 0.6.1 from PyPI, in an environment of its own: it asks for other versions than we do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.platform import BenchmarkError

VERSION = "0.6.1"


def installed(folder: Path) -> Path:
    """Return the folder of the environment's commands; install it first where that is needed.

    Raises:
        BenchmarkError: It cannot be installed.
    """
    commands = folder / f"perago-{VERSION}" / "bin"
    if (commands / "perago").exists():
        return commands
    sys.stderr.write(f"Installing perago {VERSION} (once) ...\n")
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(commands.parent)],
        [str(commands / "python"), "-m", "pip", "install", "--quiet",
         "--disable-pip-version-check", f"perago=={VERSION}"],
    )  # fmt: skip
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchmarkError(f"perago {VERSION} cannot be installed: {done.stderr.strip()}")
    return commands
