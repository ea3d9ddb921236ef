"""Horizon with one thing wrong at a time: each must turn a test red, or that test proves nothing.

    python -m tests.faults.mutants                 all of them, as a table
    python -m tests.faults.mutants --only retry    those with this in their name

A mutant is a copy of the sources in which a few lines are replaced, each found exactly once.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROOT: Final = Path(__file__).parents[2]
SIMULATION: Final = "tests/faults/test_simulation.py -k on_bad_days"
ENGINE: Final = "tests/service/test_engine.py"
STORE: Final = "tests/store/test_postgres.py"
CRASHES: Final = "tests/faults/test_crashes.py"
SAID_MAX: Final = 150
"""Characters of what a test says."""
TEST_S_MAX: Final = 300.0
"""After so long a mutant counts as killed: the tests of a right program take less."""


class Change(NamedTuple):
    file: str
    old: str
    new: str


class Mutant(NamedTuple):
    """What is wrong, how, and which tests must notice: a file, and words of the tests there."""

    name: str
    tests: str
    changes: tuple[Change, ...]


_CLOCK: Final = "horizon/service/clock.py"
_ENGINE: Final = "horizon/service/engine.py"
_POSTGRES: Final = "horizon/store/postgres.py"
_LEASED: Final = "            return await self._append_leased(batch)\n"
_FROM_LAST: Final = """
            from horizon.store.codec import seal
            from horizon.store.port import Head

            before = Head(b"", self.state.epoch, self.state.position, bytes(32), self.state.recorded_at_us)
            sealed = seal(before, batch.drafts, now_us)
"""
"""Lines that give the events of a batch before it is appended."""

MUTANTS: Final = (
    Mutant(
        "an append does not compare the epoch",
        f"{STORE} -k older_leader_is_fenced",
        (Change(_POSTGRES, "AND epoch = $1 AND position = $2", "AND $1::bigint > 0 AND position = $2"),),
    ),
    Mutant(
        "an append does not compare the position",
        f"{STORE} -k behind_another_end",
        (
            Change(
                _POSTGRES,
                "AND position = $2 AND tip = $3\n",
                "AND $2::bigint >= 0 AND $3::bytea IS NOT NULL\n",
            ),
        ),
    ),
    Mutant(
        "acknowledged before it is committed",
        SIMULATION,
        (
            Change(
                _ENGINE,
                "                ask.reply = Reply(status, body)\n",
                "                ask.reply = Reply(status, body)\n"
                "                if ask.future is not None and not ask.future.done():\n"
                "                    ask.future.set_result(ask.reply)\n",
            ),
        ),
    ),
    Mutant(
        "what is of unknown outcome is tried again blindly",
        SIMULATION,
        (
            Change(
                _ENGINE,
                "            await self._settle(unknown, batch, asks)\n",
                "            self._note_trouble(unknown)\n"
                "            self._inbox.put_back(asks, None)\n"
                "            self._wake.set()\n",
            ),
        ),
    ),
    Mutant(
        "what is of unknown outcome is taken for lost",
        SIMULATION,
        (Change(_ENGINE, "        if in_log:\n", "        if not in_log and in_log:\n"),),
    ),
    Mutant(
        "what is of unknown outcome is taken for done",
        SIMULATION,
        (Change(_ENGINE, "        if in_log:\n", "        if in_log or not in_log:\n"),),
    ),
    Mutant(
        "a cut connection is taken for an append that surely failed",
        f"{STORE} -k known_of_an_append",
        (
            Change(
                _POSTGRES,
                "    if state is None or state.startswith(_UNKNOWN_STATES)",
                "    if state == '' or state and state.startswith(_UNKNOWN_STATES)",
            ),
            Change(_POSTGRES, '("08", "40003", "57P")', '("XX",)'),
        ),
    ),
    Mutant(
        "folded before it is committed",
        SIMULATION,
        (
            Change(
                _ENGINE,
                _LEASED,
                f"{_FROM_LAST}"
                "            for one in sealed:\n"
                "                evolve(self.state, one)\n"
                f"{_LEASED}",
            ),
            Change(
                _ENGINE,
                "            evolve(state, one)\n            kind",
                "            if one.position > state.position:\n"
                "                evolve(state, one)\n"
                "            kind",
            ),
        ),
    ),
    Mutant(
        "started before it is committed",
        SIMULATION,
        (
            Change(
                _ENGINE,
                _LEASED,
                f"{_FROM_LAST}"
                "            for one in sealed:\n"
                "                event = one.event\n"
                "                if isinstance(event, ev.JobScheduled):\n"
                "                    from msgspec.structs import replace\n\n"
                "                    from horizon.executors.port import AttemptKey\n"
                "                    from horizon.service.launches import launch_of\n\n"
                "                    job = self.state.jobs[event.job_id]\n"
                "                    key = AttemptKey(job.id, event.attempt)\n"
                "                    launch = replace(launch_of(job, self.state.epoch, {}), key=key)\n"
                "                    self.executor.launch(replace(launch, allocation=event.allocation))\n"
                f"{_LEASED}",
            ),
        ),
    ),
    Mutant(
        "an event that cannot be read is left out",
        f"{STORE} -k does_not_know",
        (
            Change(
                _POSTGRES,
                "                    recorded = _recorded(row)\n                    codec",
                "                    try:\n"
                "                        recorded = _recorded(row)\n"
                "                    except Corrupt:\n"
                "                        position, previous = row[0], row[12]\n"
                "                        continue\n"
                "                    codec",
            ),
        ),
    ),
    Mutant(
        "time is what the clock says",
        f"{ENGINE} -k clock",
        (
            Change(
                _CLOCK,
                "        if clock_us < self._read_us:\n",
                "        if clock_us < 0:\n",
            ),
        ),
    ),
    Mutant(
        "after a restart time stands still until the clock has caught up",
        SIMULATION,
        (
            Change(
                _CLOCK,
                "            self._read_us, self._read_at_us = recorded_at_us, steady_us\n",
                "            return max(clock_us, recorded_at_us)\n",
            ),
        ),
    ),
    Mutant(
        "the answer to a key is not kept",
        SIMULATION,
        (
            Change(
                _ENGINE,
                "            if ask.key is not None and ask.reply is not None\n",
                "            if False\n",
            ),
        ),
    ),
    Mutant(
        "the leader counts in memory what is in no log",
        f"{CRASHES} -k in_memory",
        (
            Change(
                _ENGINE,
                "        except Rejected as refusal:\n",
                "        except Rejected as refusal:\n            self.state.refusals.count += 1\n",
            ),
        ),
    ),
    Mutant(
        "a snapshot leaves out what estimates were worth",
        f"{CRASHES} -k in_memory",
        (
            Change(
                "horizon/core/snapshot.py",
                "    _file_shares(state)\n    at_rest",
                "    _file_shares(state)\n    state.estimates = type(state.estimates)()\n    at_rest",
            ),
        ),
    ),
    Mutant(
        "what a first start left behind that was cut off is of another log",
        f"{ENGINE} -k cut_off",
        (Change("horizon/executors/local.py", "        if not known:  #", "        if known is None:  #"),),
    ),
    Mutant(
        "the public half of a key is left as it is",
        "tests/service/test_notary.py -k cut_off_before",
        (
            Change(
                "horizon/service/keys.py",
                "        elif not self._is_shown(key):",
                "        elif not self.public_path.exists():",
            ),
        ),
    ),
    Mutant(
        "nobody looks for transactions that stay open",
        "tests/faults/test_postgres.py -k is_named",
        (Change("horizon/cli/server.py", "for one in (keeper, transactions):", "for one in (keeper,):"),),
    ),
    Mutant(
        "a deposed leader is elected again",
        SIMULATION,
        (
            Change(
                _ENGINE,
                "await self._lead(again=True)\n                in_log",
                "await self._lead(again=False)\n                in_log",
            ),
        ),
    ),
    Mutant(
        "an election takes a lease that holds",
        "tests/store/test_memory.py tests/service/test_leadership.py -k lease",
        (
            Change(
                "horizon/store/memory.py",
                "lives = self.log.lease_until_s > time.monotonic() and not living",
                "lives = False",
            ),
        ),
    ),
    Mutant(
        "a leader starts what it committed, however long ago",
        "tests/service/test_leadership.py",
        (Change(_ENGINE, "        while not self.lease.holds:\n", "        while False:\n"),),
    ),
    Mutant(
        "a follower goes on when the log went back",
        "tests/service/test_follower.py",
        (
            Change(
                "horizon/service/follower.py",
                "            _check_goes_on(self._head, head)\n",
                "            pass\n",
            ),
        ),
    ),
    Mutant(
        "a follower does not ask whether an event hangs on what it has",
        "tests/service/test_follower.py",
        (Change("horizon/service/follower.py", ", previous=seen.tip)", ")"),),
    ),
    Mutant(
        "a snapshot is believed whatever the log says",
        SIMULATION,
        (
            Change(
                "horizon/service/recovery.py",
                "    if not found or found[0].hash != one.hash:\n",
                "    if not found:\n",
            ),
        ),
    ),
    Mutant(
        "what is read back is signed, whatever was appended",
        "tests/service/test_notary.py",
        (
            Change(
                "horizon/service/notary.py",
                "                    if hash != self._marks[0].hash:\n",
                "                    if not hash:\n",
            ),
        ),
    ),
    Mutant(
        "a log that is older than what was signed is led",
        "tests/service/test_notary.py",
        (
            Change(
                "horizon/service/notary.py",
                "    if size > head.position:\n",
                "    if size > head.position + 1_000_000:\n",
            ),
        ),
    ),
)


def copy_of(target: Path, mutant: Mutant | None = None) -> None:
    """The sources, compiled parts included, with what is wrong in them. Raises ``ValueError``."""
    for name in ("horizon", "tests", "migrations"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)
    for change in mutant.changes if mutant is not None else ():
        file = target / change.file
        file.write_text(changed(file.read_text(), change))


def changed(text: str, change: Change) -> str:
    if text.count(change.old) != 1:
        raise ValueError(f"{change.file} has {text.count(change.old)} times, not once: {change.old!r}")
    return text.replace(change.old, change.new)


def red_test(mutant: Mutant) -> tuple[str, str]:
    """The first test that fails on it, and what it says; both empty for a mutant that lives."""
    with tempfile.TemporaryDirectory(prefix="horizon-mutant-") as name:
        copy_of(Path(name), mutant)
        files, _, words = mutant.tests.partition(" -k ")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files.split()]
        try:
            done = subprocess.run(
                [*command, *(("-k", words) if words else ())],
                cwd=name,
                env={**os.environ, "PYTHONPATH": name},
                capture_output=True,
                text=True,
                timeout=TEST_S_MAX,
            )
        except subprocess.TimeoutExpired:
            return "it took too long", ""
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if done.returncode == 1 and found is not None:
        said = re.search(r"^E +(.*)", done.stdout, re.MULTILINE)
        return found[1], "" if said is None else said[1][:SAID_MAX]
    assert done.returncode == 0, f"{mutant.name}: no test was run\n{done.stdout}{done.stderr}"
    return "", ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="those with this in their name")
    chosen = parser.parse_args(arguments)
    table, lived = Table("mutant", "red", "for", title="Horizon with one thing wrong"), 0
    for mutant in MUTANTS:
        if chosen.only not in mutant.name:
            continue
        red, said = red_test(mutant)
        lived += not red
        print(f"{mutant.name}: {red or 'IT LIVES'}: {said}", file=sys.stderr, flush=True)
        table.add_row(mutant.name, escape(red) or "[red]it lives[/red]", escape(said))
    Console().print(table)
    print(f"{lived} live")
    return lived > 0


if __name__ == "__main__":
    sys.exit(main())
