"""``python -m benchmarks [--small] [-k WORDS]``: run every benchmark and print one table.

Full sizes unless ``--small``; the reference (``benchmarks/reference``) is compiled and measured in the same
run when there is a ``rustc``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import machine

HERE = Path(__file__).parent


def reference() -> dict[str, float]:
    """Nanoseconds per operation of the classic design, by the question it answers; empty without a rustc."""
    rustc = shutil.which("rustc")
    if rustc is None:
        return {}
    with tempfile.TemporaryDirectory() as directory:
        binary = Path(directory) / "classic"
        subprocess.run([rustc, "-O", "-o", str(binary), str(HERE / "reference" / "classic.rs")], check=True)
        return dict(
            json.loads(subprocess.run([str(binary)], check=True, capture_output=True, text=True).stdout)
        )


def measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the benchmarks under pytest; what each noted."""
    with tempfile.TemporaryDirectory() as directory:
        results = Path(directory) / "results.json"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "--benchmark-enable",
        ]
        command += [
            "--benchmark-columns=min",
            f"--benchmark-json={results}",
            "--benchmark-quiet",
            "-o",
            "python_files=bench_*.py",
        ]
        command += ["-k", arguments.k] if arguments.k else []
        environment = {**os.environ, "HORIZON_BENCH_FULL": "0" if arguments.small else "1"}
        done = subprocess.run([*command, str(HERE)], env=environment, cwd=HERE.parent)
        if done.returncode:
            raise SystemExit(done.returncode)
        return [one["extra_info"] for one in json.loads(results.read_text())["benchmarks"]]


def duration(ns: float) -> str:
    for unit, scale in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= scale:
            return f"{ns / scale:,.2f} {unit}"
    return f"{ns:,.0f} ns"


def show(rows: list[dict[str, Any]], classic: dict[str, float]) -> None:
    table = Table("question", "input", "each", "per second", "p50", "p99", "classic", "ratio", "result")
    for row in rows:
        each = row["per_op_ns"]
        other = classic.get(row["question"])
        table.add_row(
            row["question"],
            row["input"],
            duration(each),
            f"{1e9 / each:,.0f}",
            f"{row['p50_ms']:.3f} ms" if "p50_ms" in row else "",
            f"{row['p99_ms']:.3f} ms" if "p99_ms" in row else "",
            duration(other) if other else "",
            f"{other / each:.1f}x" if other else "",
            row.get("result", ""),
        )
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(f"{machine()}; {datetime.datetime.now(datetime.UTC):%Y-%m-%d}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0] if __doc__ else ""
    )
    parser.add_argument("--small", action="store_true", help="small sizes: to see that they still run")
    parser.add_argument("-k", help="only the benchmarks whose name has these words", default="")
    arguments = parser.parse_args()
    show(measured(arguments), reference())


if __name__ == "__main__":
    main()
