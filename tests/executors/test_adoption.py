"""A scheduler dies, another takes over: nothing runs twice, no exit code is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from horizon.core.commands import ReportEnded, ReportStarted
from horizon.core.model import Exit, StopSignal
from horizon.executors.port import Launch
from tests.executors.box import Box, a_launch, carriers, held, until

OWNER = """
import asyncio, sys, pathlib, msgspec
from horizon.executors.local import LocalExecutor
from horizon.executors.port import Launch

async def main():
    launches = msgspec.json.decode(sys.stdin.buffer.readline(), type=list[Launch])
    executor = LocalExecutor(pathlib.Path(sys.argv[1]), ())
    await executor.open("a log", 1, lambda report: print(type(report).__name__, report.job_id, flush=True))
    await executor.adopt([])
    for launch in launches:
        executor.launch(launch)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


class Owner:
    """Another process that runs an executor, to be killed."""

    def __init__(self, data_dir: Path, *launches: Launch) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(list(launches)) + b"\n")
        self.process.stdin.flush()

    def wait_for(self, *words: str) -> None:
        assert self.process.stdout is not None
        missing = set(words)
        while missing:
            line = self.process.stdout.readline().decode()
            assert line, "the owner died early"
            missing -= {word for word in missing if word in line}

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def owners() -> Iterator[list[Owner]]:
    owners: list[Owner] = []
    yield owners
    for owner in owners:
        owner.kill()


async def test_after_a_kill_the_running_are_adopted_and_the_ended_tell_their_true_exit(
    tmp_path: Path, owners: list[Owner]
) -> None:
    running = a_launch("echo x >> ran-1; until test -e go; do sleep 0.02; done; exit 7", working_dir=tmp_path)
    ended = a_launch("echo x >> ran-2; sleep 0.3; exit 8", working_dir=tmp_path)
    gang = a_launch("echo x >> ran-3; until test -e go; do sleep 0.02; done", nodes=2, working_dir=tmp_path)
    untouched = a_launch("echo x >> ran-4", working_dir=tmp_path, epoch=2)
    owners.append(owner := Owner(tmp_path, running, ended, gang))
    owner.wait_for(*(f"ReportStarted {launch.key.job_id}" for launch in (running, ended, gang)))
    owner.kill()
    await until(lambda: json.loads(_status(tmp_path, ended))["gone"])

    box = Box(tmp_path)
    never = await box.open(
        2, held(running), held(ended, started=False), held(gang), held(untouched, started=False)
    )
    assert never == {untouched.key}
    for launch in (running, ended, gang):
        box.launch(a_launch("echo x >> ran-twice", key=launch.key, working_dir=tmp_path, epoch=2))
    box.launch(untouched)
    assert (await box.released(ended.key)).exit == Exit(exit_code=8)
    assert box.of(ended.key)[0] == ReportStarted(ended.key.job_id, 1)
    assert box.ended(running.key) is None
    (tmp_path / "go").touch()
    assert (await box.released(running.key)).exit == Exit(exit_code=7)
    assert (await box.released(gang.key)).exit == Exit(exit_code=0)
    assert (await box.released(untouched.key)).exit == Exit(exit_code=0)
    assert [len((tmp_path / f"ran-{n}").read_text().split()) for n in (1, 2, 3, 4)] == [1, 1, 2, 1]
    assert not (tmp_path / "ran-twice").exists()
    assert sum(isinstance(report, ReportStarted) for report in box.of(running.key)) == 0
    await box.close()


def _status(data_dir: Path, launch: Launch) -> bytes:
    return Path(data_dir, "attempts", str(launch.key), "0.status").read_bytes().splitlines()[0]


async def test_a_stop_that_was_under_way_is_carried_on(tmp_path: Path, owners: list[Owner]) -> None:
    launch = a_launch("trap '' TERM; sleep 1000; sleep 1000")
    owners.append(owner := Owner(tmp_path, launch))
    owner.wait_for("ReportStarted")
    owner.kill()
    box = Box(tmp_path)
    await box.open(2, held(launch, stopping=True, grace_s=0))
    assert (await box.released(launch.key)).exit == Exit(signal=signal.SIGKILL)
    await box.close()


async def test_the_next_scheduler_stops_a_job_by_the_signal_that_it_was_launched_with(
    tmp_path: Path, owners: list[Owner]
) -> None:
    trap = "trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.01; done"
    launch = a_launch(trap, stop_signal=StopSignal.SIGINT)
    owners.append(owner := Owner(tmp_path, launch))
    owner.wait_for("ReportStarted")
    owner.kill()
    box = Box(tmp_path)
    await box.open(2, held(launch))
    await box.printed(launch.key, b"ready")
    box.executor.stop(launch.key, 30)
    assert (await box.released(launch.key)).exit == Exit(exit_code=9)
    assert box.output(launch.key) == b"ready\ninterrupted\n"
    await box.close()


async def test_the_ladder_of_a_stop_goes_on_without_a_scheduler(tmp_path: Path) -> None:
    box = Box(tmp_path)
    await box.open()
    key = box.launch(launch := a_launch("trap '' TERM; echo ready; sleep 1000; sleep 1000"))
    await box.printed(key, b"ready")
    box.executor.stop(key, 1)
    await box.executor.close()
    await until(lambda: not carriers(key))
    again = Box(tmp_path)
    await again.open(2, held(launch, stopping=True, grace_s=60))
    assert (await again.released(key)).exit == Exit(signal=signal.SIGKILL)
    await again.close()


async def test_closing_leaves_the_jobs_running(tmp_path: Path) -> None:
    box = Box(tmp_path)
    await box.open()
    key = box.launch(launch := a_launch("sleep 1000"))
    await box.started(key)
    await box.executor.close()
    assert carriers(key)
    await box.open(2, held(launch))
    assert carriers(key)
    await box.close()
    assert box.ended(key) is not None


async def test_orphans_are_killed_and_not_reported(tmp_path: Path, owners: list[Owner]) -> None:
    orphan, gang = a_launch("trap '' TERM; sleep 1000; sleep 1000"), a_launch("sleep 1000", nodes=2)
    owners.append(owner := Owner(tmp_path, orphan, gang))
    owner.wait_for(*(f"ReportStarted {launch.key.job_id}" for launch in (orphan, gang)))
    owner.kill()
    box = Box(tmp_path)
    assert await box.open(2) == frozenset()
    assert carriers(orphan.key) + carriers(gang.key) == []
    assert box.reports == []
    await box.close()


async def test_a_keeper_killed_while_nobody_watched_is_lost(tmp_path: Path, owners: list[Owner]) -> None:
    launch = a_launch("sleep 1000; true")
    owners.append(owner := Owner(tmp_path, launch))
    owner.wait_for("ReportStarted")
    owner.kill()
    os.kill(json.loads(_status(tmp_path, launch))["keeper"], signal.SIGKILL)
    box = Box(tmp_path)
    assert await box.open(2, held(launch)) == frozenset()
    ended = await box.released(launch.key)
    assert ended.lost
    assert carriers(launch.key) == []
    await box.executor.close()
    again = Box(tmp_path)
    await again.open(3, held(launch))
    assert (await again.released(launch.key)).lost
    await box.close()
    await again.close()


async def test_a_started_attempt_whose_files_are_gone_is_lost_not_launched_again(tmp_path: Path) -> None:
    box, launch = Box(tmp_path), a_launch()
    assert await box.open(1, held(launch)) == frozenset()
    ended = await box.released(launch.key)
    assert ended.lost
    await box.close()


async def test_what_was_ordered_before_the_machine_was_restarted_is_not_launched_again(
    tmp_path: Path,
) -> None:
    first = Box(tmp_path)
    await first.open(1)
    await first.close()
    epoch = tmp_path / "attempts" / "epoch"
    epoch.write_bytes(b"1 anotherboot".ljust(64))
    box, launch = Box(tmp_path), a_launch()
    assert await box.open(2, held(launch, started=False)) == frozenset()
    assert (await box.released(launch.key)).lost
    await box.close()


async def test_a_held_attempt_to_be_stopped_that_was_never_launched_ends_without_a_start(box: Box) -> None:
    launch = a_launch()
    assert await box.executor.adopt([held(launch, started=False, stopping=True)]) == frozenset()
    ended = await box.released(launch.key)
    assert (ended.started, ended.lost) == (False, False)


async def test_a_deposed_scheduler_starts_nothing_and_stops_nothing(tmp_path: Path) -> None:
    old, new = Box(tmp_path), Box(tmp_path)
    await old.open(1)
    await new.open(2)
    key = new.launch(a_launch("sleep 1000", epoch=2))
    await until(lambda: carriers(key))
    late = a_launch("echo x >> ran", working_dir=tmp_path, epoch=1)
    old.executor.launch(late)
    old.executor.stop(key, 0)
    await until(lambda: old.ended(late.key) or new.ended(late.key) or not old.executor._link._out)
    await until(lambda: old.ended(late.key) or old.executor._reports_fd < 0)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "attempts" / str(late.key)).exists()
    assert carriers(key)
    await old.executor.close()
    await new.close()
    assert isinstance(new.ended(key), ReportEnded)


async def test_a_gang_cut_in_the_middle_of_its_launch_is_ended(tmp_path: Path) -> None:
    """The zygote died after the first rank's claim: the second may never start by itself."""
    box = Box(tmp_path)
    await box.open()
    whole = a_launch("sleep 1000", nodes=2)
    box.executor._link.send(box.executor._frame(whole, 0))
    await until(lambda: carriers(whole.key))
    await box.executor.close()
    assert await box.open(2, held(whole, started=False)) == frozenset()
    ended = await box.released(whole.key)
    assert not ended.started
    assert carriers(whole.key) == []
    await box.close()
