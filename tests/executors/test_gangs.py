"""Attempts with one process group on each of several nodes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from horizon.core.commands import ReportEnded, ReportStarted
from horizon.core.model import Exit, StopSignal
from horizon.executors.environment import MASTER_PORT_FIRST, master_port
from horizon.executors.port import AttemptKey
from horizon.executors.records import inspect
from tests.executors.box import Box, a_launch, carriers, new_key, until

MEET = """
import os, socket, time
address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
if rank == 0:
    with socket.create_server(address) as server:
        print(sorted(server.accept()[0].makefile().readline() for _ in range(size - 1)))
else:
    while True:
        try:
            socket.create_connection(address).sendall(f"rank {rank} of {size}".encode())
            break
        except ConnectionRefusedError:
            time.sleep(0.01)
"""


def variables(box: Box, key: AttemptKey, rank: int = 0) -> dict[str, str]:
    """The environment that ``env`` printed."""
    return dict(line.split("=", 1) for line in box.output(key, rank=rank).decode().splitlines())


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
    assert ended.rank == 1
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
    assert (ended.rank, ended.exit.error) == (2, "cannot write the job's output: is a directory")
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
    assert ended.rank == 1
    assert carriers(key) == []


async def test_ranks_end_in_their_own_time_when_all_is_well(box: Box) -> None:
    key = box.launch(a_launch("sleep 0.$HORIZON_NODE_RANK", nodes=3))
    await until(lambda: box.ended(key))
    assert box.of(key)[-1] == ReportEnded(key.job_id, 1, Exit(exit_code=0))


async def test_the_rest_of_a_failing_gang_gets_the_stop_signal_then_sigkill(box: Box) -> None:
    """Rank 1 fails; rank 0 saves its work and leaves; rank 2 will not, and has the job's own grace."""
    command = (
        "case $RANK in"
        " 0) trap 'echo saved; exit 0' USR1;;"
        " 1) until test -e go; do sleep 0.02; done; exit 5;;"
        " 2) trap 'echo no' USR1;;"
        " esac; echo ready; while :; do sleep 0.01; done"
    )
    key = box.launch(a_launch(command, nodes=3, grace_s=1, stop_signal=StopSignal.SIGUSR1))
    for rank in (0, 2):
        await box.printed(key, b"ready", rank)
    box.path(key, "go").touch()
    ended = await box.released(key)
    assert (ended.exit, ended.rank) == (Exit(exit_code=5), 1)
    assert box.output(key, rank=0) == b"ready\nsaved\n"
    assert box.output(key, rank=2) == b"ready\nno\n"
    records = [inspect(box.attempts, str(key), rank).record for rank in range(3)]
    assert [record and record.exit for record in records] == [
        Exit(exit_code=0),
        Exit(exit_code=5),
        Exit(signal=signal.SIGKILL),
    ]
    assert carriers(key) == []


async def test_the_ranks_of_a_gang_meet_at_its_master_address(box: Box) -> None:
    launch = a_launch((sys.executable, "-c", MEET), nodes=3)
    assert (await box.run(launch)).exit == Exit(exit_code=0)
    assert box.output(launch.key).decode().strip() == "['rank 1 of 3', 'rank 2 of 3']"


async def test_each_rank_is_told_its_place_in_the_world(box: Box) -> None:
    launch = a_launch(("env",), nodes=2)
    await box.run(launch)
    port = str(master_port(launch.key))
    for rank in range(2):
        got = variables(box, launch.key, rank)
        wanted = {
            "RANK": str(rank),
            "NODE_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "PET_NNODES": "2",
            "PET_NODE_RANK": str(rank),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": port,
            "HORIZON_NODE_ADDRESSES": "127.0.0.1,127.0.0.1",
        }
        assert wanted.items() <= got.items()
        assert "LOCAL_RANK" not in got


async def test_a_job_on_one_node_is_a_world_of_one(box: Box) -> None:
    launch = a_launch((sys.executable, "-c", MEET))
    assert (await box.run(launch)).exit == Exit(exit_code=0)
    assert box.output(launch.key) == b"[]\n"


async def test_a_job_may_choose_its_master_but_not_its_rank(box: Box) -> None:
    own = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500", "RANK": "7", "NODE_RANK": "7"}
    launch = a_launch(("env",), nodes=2, environment=own)
    await box.run(launch)
    got = variables(box, launch.key, rank=1)
    assert (got["MASTER_ADDR"], got["MASTER_PORT"]) == ("localhost", "29500")
    assert (got["PET_MASTER_ADDR"], got["PET_MASTER_PORT"]) == ("localhost", "29500")
    assert (got["RANK"], got["NODE_RANK"]) == ("1", "1")


def test_an_attempt_always_has_the_same_port_and_others_have_others() -> None:
    keys = [new_key() for _ in range(500)]
    ports = [master_port(key) for key in keys]
    assert ports == [master_port(key) for key in keys]
    assert all(MASTER_PORT_FIRST <= port < 32_768 for port in ports)
    assert len(set(ports)) > 400
    assert master_port(AttemptKey("a-job", 1)) != master_port(AttemptKey("a-job", 2))
