"""How long does a scheduler with a long log take to start, with a snapshot and without one?

``HORIZON_BENCH_EVENTS=10000000 python -m benchmarks -k restart`` asks it with ten million events. The log is
made here and put into a database as it stands: jobs of fifty users that ran to their end, five events each,
and some that wait. What starts on it, and what writes the snapshot, are the real programs. ``python -m
benchmarks.bench_restart DIRECTORY`` is the process that folds and says what it took.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil
import pytest

from benchmarks.measure import checksum, size
from benchmarks.worlds import START_US, USERS, job_id
from horizon.cli import places
from horizon.core import events as ev
from horizon.core.model import Device, Exit, Inventory, JobSpec, Placement
from horizon.service.recovery import fold_log, nearest
from horizon.service.snapshots import PART
from horizon.store import codec
from horizon.store.embedded import EmbeddedPostgres
from horizon.store.port import Head
from horizon.store.postgres import COLUMNS, SELECT_HEAD, PostgresStore, head_of
from horizon.store.reader import LogReader
from horizon.store.snapshots import Snapshots

EVENTS: Final = int(os.environ.get("HORIZON_BENCH_EVENTS", size(1_000_000, 2_000)))
TAIL: Final = EVENTS // PART
"""Events since the snapshot: as many as there may be before the next one is due."""
WAITING: Final = size(10_000, 20)
AT_ONCE: Final = 8
"""Jobs that run at the same time."""
COPIED: Final = 20_000
READY_S_MAX: Final = 600.0


# --- the log ------------------------------------------------------------------------------------------


def happened() -> Iterator[ev.Event]:
    """Without end, but for the first: what waits all the time, and jobs that come, run and end."""
    devices = tuple(Device(f"GPU-{index}", index, "H100", 81_559) for index in range(AT_ONCE))
    node = Inventory("node-1", 128, 1 << 20, devices)
    yield ev.NodeRegistered(node=node.name, inventory=node)
    for number in range(1, WAITING + 1):
        yield submission(number)
    number = WAITING + 1
    while True:
        for slot in range(AT_ONCE):
            yield submission(number + slot)
        for slot in range(AT_ONCE):
            yield start(number + slot, slot)
        for slot in range(AT_ONCE):
            yield from an_end(number + slot)
        number += AT_ONCE


def submission(number: int) -> ev.JobSubmitted:
    account, user_id = USERS[number % len(USERS)]
    spec = JobSpec(user_id, "python train.py", account=account, job_name=f"job-{number}", cpu_cores=4)
    return ev.JobSubmitted(job_id=job_id(number), number=number, spec=spec)


def start(number: int, slot: int) -> ev.JobScheduled:
    placement = Placement("node-1", (f"GPU-{slot}",), 4)
    return ev.JobScheduled(
        job_id=job_id(number),
        attempt=1,
        allocation=(placement,),
        cycle=number,
        now_us=START_US,
        rank=1,
        score=0.0,
    )


def an_end(number: int) -> Iterator[ev.Event]:
    id = job_id(number)
    yield ev.JobStarted(job_id=id, attempt=1)
    yield ev.JobCompleted(job_id=id, attempt=1, exit=Exit(exit_code=0))
    yield ev.AllocationReleased(job_id=id, attempt=1)


class Maker:
    """Puts a history into a database, which nobody else uses, a part at a time."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._history = happened()
        self._versions: dict[str, int] = {}

    async def append(self, events: int) -> None:
        connection = await asyncpg.connect(self._dsn)
        head = head_of(await connection.fetchrow(SELECT_HEAD))
        end = head.position + events
        while await connection.fetchval("SELECT 5000000 * count(*) FROM pg_inherits") < end:
            await connection.execute("SELECT add_partition()")
        while head.position < end:
            drafts = [self._draft(one) for one in islice(self._history, min(COPIED, end - head.position))]
            sealed = codec.seal(head, drafts, START_US + head.position * 1_000)
            head = codec.after(head, sealed)
            rows = [tuple(getattr(one, name) for name in _NAMES) for one in sealed]
            await connection.copy_records_to_table("events", records=rows, columns=_NAMES)
        await connection.execute(
            "UPDATE log_head SET position = $1, tip = $2, recorded_at_us = $3",
            *(head.position, head.tip, head.recorded_at_us),
        )
        await connection.close()

    def _draft(self, event: ev.Event) -> ev.Draft:
        stream = event.stream
        version = self._versions.pop(stream, 0) + 1
        if type(event) is not ev.AllocationReleased:  # the last of its stream
            self._versions[stream] = version
        return ev.Draft(event, stream, version, "bench", _NO_ID, _NO_ID, 0)


_NAMES: Final = [name.strip() for name in COLUMNS.split(",")]
_NO_ID: Final = bytes(16)


class Place:
    """A data directory and a database with that log."""

    def __init__(self, directory: Path, dsn: str) -> None:
        self.directory = directory
        self.environment = {
            **os.environ,
            "DATABASE_URL": dsn,
            "HORIZON_TOKEN": "bench",
            "HORIZON_DATA_DIR": str(directory),
        }
        self.maker = Maker(dsn)
        self.snapshots = places.snapshots(directory)

    def run(self, *command: str) -> tuple[str, float]:
        """What a Python program says on stdout, and how many seconds it took."""
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", *command], env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, time.perf_counter() - began

    def folded(self) -> dict[str, Any]:
        return dict(json.loads(self.run("benchmarks.bench_restart", str(self.snapshots))[0]))


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="horizon-bench-") as name:
        postgres = EmbeddedPostgres(Path(name) / "postgres")
        dsn = asyncio.run(postgres.start())
        try:
            asyncio.run(_migrate(dsn))
            place = Place(Path(name) / "data", dsn)
            asyncio.run(place.maker.append(EVENTS - TAIL))
            yield place
        finally:
            asyncio.run(postgres.stop())


async def _migrate(dsn: str) -> None:
    store = PostgresStore(dsn)
    await store.open()
    await store.close()


# --- what is asked, one after the other ---------------------------------------------------------------


def test_restart_from_zero(benchmark: Any, place: Place) -> None:
    found = once(benchmark, place.folded)
    note(benchmark, "restart: fold the log from its first event", found, found["events"])


def test_restart_writing_the_first_snapshot(benchmark: Any, place: Place) -> None:
    found = once(benchmark, lambda: place.run("horizon.cli.main", "snapshot"))
    [path] = place.snapshots.glob("*.snapshot")
    note(
        benchmark,
        "restart: fold it and write a snapshot",
        {"seconds": found[1], "mib": path.stat().st_size >> 20},
        1,
    )


def test_restart_writing_a_snapshot_again(benchmark: Any, place: Place) -> None:
    _, seconds = once(benchmark, lambda: place.run("horizon.cli.main", "snapshot"))
    note(benchmark, "restart: load a snapshot and write another", {"seconds": seconds}, 1)


def test_restart_with_a_snapshot(benchmark: Any, place: Place) -> None:
    asyncio.run(place.maker.append(TAIL))
    found = once(benchmark, place.folded)
    assert found["events"] == TAIL
    note(benchmark, "restart: load the snapshot and fold what came since", found, 1)


def test_restart_until_ready(benchmark: Any, place: Place) -> None:
    with serving(place) as (seconds, process, call):
        once(benchmark, lambda: None)
        found: dict[str, Any] = {"seconds": seconds, "rss_mib": process.memory_info().rss >> 20}
        for name, path in LISTS.items():
            began = time.perf_counter()
            call(path)
            found[name] = round(time.perf_counter() - began, 4)
        note(benchmark, "restart: horizon serve, from the process to readiness", found, 1)


LISTS: Final = {
    "first_page_s": "/api/v1/jobs",
    "of_one_state_s": "/api/v1/jobs?state=Completed",
    "of_one_user_s": "/api/v1/jobs?user_id=user-3",
}


@contextmanager
def serving(place: Place) -> Iterator[tuple[float, psutil.Process, Callable[[str], bytes]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "horizon.cli.main", "serve", "--host", "127.0.0.1", "--port", str(port)]
    began = time.perf_counter()
    with open(place.directory / "log", "wb") as log:
        process = psutil.Popen([*command, "--no-gpus"], env=place.environment, stdout=log, stderr=log)

    def call(path: str) -> bytes:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", headers={"Authorization": "Bearer bench"}
        )
        with urllib.request.urlopen(request, timeout=READY_S_MAX) as response:
            return bytes(response.read())

    try:
        while True:
            try:
                call("/readyz")
                break
            except OSError:
                assert process.is_running(), (place.directory / "log").read_text()
                assert time.perf_counter() - began < READY_S_MAX
                time.sleep(0.02)
        yield time.perf_counter() - began, process, call
    finally:
        process.terminate()
        process.wait(60)


def once(benchmark: Any, call: Callable[[], Any]) -> Any:
    return benchmark.pedantic(call, rounds=1, iterations=1)


def note(benchmark: Any, question: str, found: dict[str, Any], operations: int) -> None:
    told = {name: value for name, value in found.items() if name not in ("seconds", "digest")}
    benchmark.extra_info.update(
        question=question,
        input=f"{EVENTS:,} events; " + ", ".join(f"{name} {value:,}" for name, value in told.items()),
        per_op_ns=found["seconds"] / operations * 1e9,
        result=checksum(found["digest"]) if "digest" in found else "",
    )


# --- the process that folds ---------------------------------------------------------------------------


async def folding(snapshots: Path) -> dict[str, Any]:
    reader = LogReader(os.environ["DATABASE_URL"])
    await reader.open()
    gc.disable()
    began = time.perf_counter()
    head: Head = await reader.head()
    begun = await nearest(reader, Snapshots(snapshots), head.position, head.log_id)
    loaded, position = time.perf_counter(), begun.state.position
    state = await fold_log(reader, head, begun=begun)
    seconds = time.perf_counter() - began
    await reader.close()
    return {
        "seconds": seconds,
        "load_s": round(loaded - began, 3),
        "events": state.position - position,
        "rss_mib": psutil.Process().memory_info().rss >> 20,
        "digest": (state.position, len(state.numbered), state.queue.order(100, START_US)),
    }


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(folding(Path(sys.argv[1])))))
