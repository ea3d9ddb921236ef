"""Attempts with one process group on each of several nodes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from horizon.core.commands import ReportEnded, ReportStarted
from horizon.core.model import Exit
from tests.executors.box import Box, a_launch, carriers, until


async def test_a_gang_is_started_once_all_are_and_ended_once_all_are(box: Box) -> None:
    launch = a_launch("echo $HORIZON_NODE $HORIZON_NODE_RANK/$HORIZON_NODE_COUNT $HORIZON_NODE_LIST", nodes=3)
    key = box.launch(launch)
    await box.released(key)
    assert box.of(key) == [ReportStarted(key.job_id, 1), ReportEnded(key.job_id, 1, Exit(exit_code=0))]
    lines = [box.output(key, rank=rank).decode().strip() for rank in range(3)]
    assert lines == [f"node-{rank + 1} {rank}/3 node-1,node-2,node-3" for rank in range(3)]


async def test_the_first_rank_that_fails_decides_and_stops_the_others(box: Box) -> None:
    command = "test $HORIZON_NODE_RANK = 1 && sleep 0.3 && exit 5; sleep 1000"
    key = box.launch(a_launch(command, nodes=3))
    ended = await box.released(key)
    assert ended.exit == Exit(exit_code=5)
    assert ended.started
    assert carriers(key) == []
    assert sum(isinstance(report, ReportEnded) for report in box.of(key)) == 1


async def test_a_gang_of_which_one_cannot_start_never_started(box: Box, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nsleep 1000\n")
    program.chmod(0o755)
    launch = a_launch((str(program),), nodes=3)
    box.path(launch.key).mkdir()
    box.path(launch.key, "2.stdout").mkdir()  # its output cannot be written
    ended = await box.run(launch)
    assert not ended.started
    assert ended.exit.error == "cannot write the job's output: is a directory"
    assert carriers(launch.key) == []
    assert not any(isinstance(report, ReportStarted) for report in box.of(launch.key))


async def test_a_stop_reaches_every_rank(box: Box) -> None:
    key = box.launch(a_launch("sleep 1000", nodes=4))
    await box.started(key)
    box.executor.stop(key, 30)
    assert (await box.released(key)).exit == Exit(signal=signal.SIGTERM)
    assert carriers(key) == []


async def test_a_gang_with_a_killed_keeper_is_lost_and_stopped(box: Box) -> None:
    key = box.launch(a_launch("sleep 1000", nodes=2))
    await box.started(key)
    os.kill(box.keeper_pid(key, rank=1), signal.SIGKILL)
    ended = await box.released(key)
    assert ended.lost
    assert carriers(key) == []


async def test_ranks_end_in_their_own_time_when_all_is_well(box: Box) -> None:
    key = box.launch(a_launch("sleep 0.$HORIZON_NODE_RANK", nodes=3))
    await until(lambda: box.ended(key))
    assert box.of(key)[-1] == ReportEnded(key.job_id, 1, Exit(exit_code=0))


async def test_the_rest_of_a_failing_gang_has_the_jobs_own_grace(box: Box) -> None:
    stubborn = 'trap "" TERM; test $HORIZON_NODE_RANK = 1 && exit 4; while true; do sleep 0.05; done'
    key = box.launch(a_launch(stubborn, nodes=2, grace_s=1))
    began = time.monotonic()
    assert (await box.released(key)).exit.exit_code == 4
    assert 0.5 <= time.monotonic() - began < 10
