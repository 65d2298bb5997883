"""The command: `python -m benchmarks [--quick] [--rows small,idle] [--out FOLDER]`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.bench import QUICK, Bench, Scale
from benchmarks.contenders import NAMES
from benchmarks.folders import temporary_files_apart
from benchmarks.perago_venv import installed
from benchmarks.platform import BenchmarkError
from benchmarks.results import Results
from benchmarks.rows import MEASUREMENTS
from deploy.servers.install import install
from deploy.servers.pair import Addresses, Servers
from deploy.servers.tools import ServersError

DOCS = Path(__file__).parents[1] / "docs"
CACHE = Path(__file__).parent / ".cache"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show, write; what is missing goes to stderr, with exit code 1."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True, highlight=False)
    try:
        with temporary_files_apart(), _servers() as addresses:
            results, failed_rows = measure(options, addresses, console)
    except (BenchmarkError, ServersError) as failed:
        console.print(str(failed), markup=False)
        return 1
    rows = [row for name in options.rows for row in MEASUREMENTS[name].rows]
    report.show(results, rows, Console(width=options.width))
    if options.out:
        _write(options, results, console)
    return 1 if failed_rows else 0


def measure(
    options: argparse.Namespace, addresses: Addresses, console: Console
) -> tuple[Results, list[str]]:
    """Take every measurement that was asked for; return what they came to and which failed.

    One that fails is named and keeps what it had until then: others take long, too.
    """
    results = Results()
    failed: list[str] = []
    bench = Bench(
        addresses,
        _scale(options),
        wanted=options.contenders,
        perago=lambda: installed(options.cache),
        say=lambda text: console.print(text, style="dim"),
    )
    try:
        for name in options.rows:
            try:
                for sample in MEASUREMENTS[name].run(bench):
                    results.add(sample)
                    if options.out:
                        _write_json(options, results)
            except BenchmarkError as problem:
                console.print(f"{name}: {problem}", markup=False)
                failed.append(name)
    finally:
        bench.close()
    return results, failed


def _write_json(options: argparse.Namespace, results: Results) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [row for name in options.rows for row in MEASUREMENTS[name].rows]
    report.write_json(results, rows, _scale(options), options.out / "results.json")


def _write(options: argparse.Namespace, results: Results, console: Console) -> None:
    from benchmarks.plots import draw

    _write_json(options, results)
    rows = [row for name in options.rows for row in MEASUREMENTS[name].rows]
    figures = report.markdown(results, rows)
    (options.out / "results.md").write_text(figures, encoding="utf-8")
    if options.docs:
        report.renew(DOCS / "speed.md", figures)
    try:
        files = draw(results, rows, options.out)
    except ModuleNotFoundError as missing:
        console.print(f"no pictures: {missing}; `make bench` installs what they need")
        return
    if options.docs:
        for file in files:
            shutil.copy(file, DOCS / "speed")
    console.print(f"wrote results.json, results.md and {len(files)} pictures")


def _scale(options: argparse.Namespace) -> Scale:
    scale = QUICK if options.quick else Scale()
    return replace(scale, rounds=options.rounds) if options.rounds else scale


@contextmanager
def _servers() -> Iterator[Addresses]:
    """Use the servers that PERAGO_TEST_* names, or start a pair for this run."""
    if given := Addresses.from_environment(os.environ):
        yield given
        return
    install()
    with tempfile.TemporaryDirectory(prefix="bench-servers-") as folder:
        pair = Servers.in_directory(Path(folder))
        pair.start()
        try:
            yield pair.addresses
        finally:
            pair.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: does it work")
    parser.add_argument("--rounds", type=int, help="turns of each contender")
    parser.add_argument("--out", type=Path, help="folder for results.json and pictures")
    parser.add_argument("--docs", action="store_true", help="renew docs/speed.md too; with --out")
    parser.add_argument("--width", type=int, default=150, help="of the tables")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for perago's environment")
    for name, known in (("--rows", MEASUREMENTS), ("--contenders", NAMES)):
        parser.add_argument(
            name,
            type=_chosen(list(known)),
            default=list(known),
            metavar="A,B",
            help=f"of {', '.join(known)}",
        )
    return parser


def _chosen(known: list[str]) -> Callable[[str], list[str]]:
    def choose(text: str) -> list[str]:
        names = text.split(",")
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))} is none of these")
        return [name for name in known if name in names]

    return choose


if __name__ == "__main__":
    sys.exit(main())
