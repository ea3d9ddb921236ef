"""A job says that its work is saved by touching a file: told once a touch, also across restarts."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from horizon.core.commands import ReportCheckpoint, ReportEnded, ReportStarted
from horizon.core.model import Exit
from horizon.executors.port import AttemptKey
from tests.executors.box import Box, a_launch, held, until

WAIT = "until test -e go; do sleep 0.02; done; "


def checkpoints(box: Box, key: AttemptKey) -> int:
    return sum(isinstance(report, ReportCheckpoint) for report in box.of(key))


def look_at(box: Box, key: AttemptKey) -> None:
    """What the slow round does in its time."""
    box.executor._look_at(str(key))


async def test_each_touch_of_the_file_is_told_once(box: Box) -> None:
    launch = a_launch(
        "test ! -e $HORIZON_CHECKPOINT_FILE && echo $HORIZON_CHECKPOINT_FILE;"
        " until test -e one; do sleep 0.02; done; touch $HORIZON_CHECKPOINT_FILE;"
        " until test -e two; do sleep 0.02; done; echo step 2 > $HORIZON_CHECKPOINT_FILE; sleep 1000"
    )
    key = box.launch(launch)
    await box.printed(key, b"\n")
    assert Path(os.fsdecode(box.output(key).strip())).parent == box.path(key)
    look_at(box, key)
    assert checkpoints(box, key) == 0
    box.path(key, "one").touch()
    await until(lambda: checkpoints(box, key) == 1)
    look_at(box, key)
    assert checkpoints(box, key) == 1
    box.path(key, "two").touch()
    await until(lambda: checkpoints(box, key) == 2)
    assert box.of(key)[1:] == [ReportCheckpoint(key.job_id, 1)] * 2


async def test_what_is_saved_on_the_way_out_is_told_before_the_end(box: Box) -> None:
    trap = "trap 'touch $HORIZON_CHECKPOINT_FILE; exit 0' TERM"
    key = box.launch(a_launch(f"{trap}; echo ready; while :; do sleep 0.01; done"))
    await box.printed(key, b"ready")
    box.executor.stop(key, 30)
    await box.released(key)
    assert box.of(key)[:3] == [
        ReportStarted(key.job_id, 1),
        ReportCheckpoint(key.job_id, 1),
        ReportEnded(key.job_id, 1, Exit(exit_code=0)),
    ]


async def test_the_ranks_of_a_gang_have_a_file_each_and_any_of_them_counts(box: Box) -> None:
    key = box.launch(
        a_launch("test $HORIZON_NODE_RANK = 1 && touch $HORIZON_CHECKPOINT_FILE; sleep 1000", nodes=2)
    )
    await until(lambda: checkpoints(box, key) == 1)
    box.path(key, "0.checkpoint").touch()
    await until(lambda: checkpoints(box, key) == 2)
    assert not box.path(key, "2.checkpoint").exists()


async def test_a_link_to_the_saved_work_counts_and_is_not_followed(box: Box) -> None:
    key = box.launch(a_launch("ln -s /no/such/disk/model.pt $HORIZON_CHECKPOINT_FILE; sleep 1000"))
    await until(lambda: checkpoints(box, key) == 1)


async def test_a_touch_is_not_told_again_after_a_restart_and_a_new_one_is(tmp_path: Path) -> None:
    launch = a_launch(f"touch $HORIZON_CHECKPOINT_FILE; {WAIT} touch $HORIZON_CHECKPOINT_FILE; sleep 1000")
    box = Box(tmp_path)
    await box.open()
    key = box.launch(launch)
    await until(lambda: checkpoints(box, key) == 1)
    await box.executor.close()

    again = Box(tmp_path)
    await again.open(2, held(launch))
    look_at(again, key)
    assert again.of(key) == []
    again.path(key, "go").touch()
    await until(lambda: checkpoints(again, key) == 1)
    await again.close()


async def test_a_touch_that_nobody_saw_is_told_by_the_next_scheduler(tmp_path: Path) -> None:
    running = a_launch(f"{WAIT} touch $HORIZON_CHECKPOINT_FILE; echo saved; sleep 1000")
    ended = a_launch(f"{WAIT} touch $HORIZON_CHECKPOINT_FILE; exit 3")
    box = Box(tmp_path)
    await box.open()
    for launch in (running, ended):
        await box.started(box.launch(launch))
    await box.executor.close()
    for launch in (running, ended):
        box.path(launch.key, "go").touch()
    await box.printed(running.key, b"saved")
    await until(lambda: b'"gone":true' in box.path(ended.key, "0.status").read_bytes())

    again = Box(tmp_path)
    await again.open(2, held(running), held(ended))
    await until(lambda: checkpoints(again, running.key) == 1)
    await again.released(ended.key)
    assert again.of(ended.key) == [
        ReportCheckpoint(ended.key.job_id, 1),
        ReportEnded(ended.key.job_id, 1, Exit(exit_code=3)),
    ]
    await again.close()


async def test_an_attempt_that_is_lost_keeps_what_it_had_saved(box: Box) -> None:
    key = box.launch(a_launch("touch $HORIZON_CHECKPOINT_FILE; echo saved; sleep 1000"))
    await box.printed(key, b"saved")
    os.kill(box.keeper_pid(key), signal.SIGKILL)
    assert (await box.released(key)).lost
    assert checkpoints(box, key) == 1
    assert isinstance(box.of(key)[-1], ReportEnded)
