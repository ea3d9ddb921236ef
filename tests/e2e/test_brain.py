"""Whole stories of the brain: real Postgres, real HTTP, real processes on pretend devices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.world import Scheduler, start_scheduler

GONE_S = 1
Start = Callable[[str], Awaitable[Scheduler]]


@pytest.fixture
async def start(database: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a scheduler on pretend nodes; its log is folded at the end and must give the live state."""
    running: list[Scheduler] = []

    async def begin(spec: str) -> Scheduler:
        running.append(await start_scheduler(database, tmp_path, spec))
        return running[-1]

    yield begin
    for scheduler in running:
        await scheduler.stop_checked()


async def put(scheduler: Scheduler, path: str, **fields: Any) -> Any:
    async with scheduler.http.put(f"/api/v1{path}", json=fields) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def post(scheduler: Scheduler, path: str, status: int = 200, **fields: Any) -> Any:
    async with scheduler.http.post(f"/api/v1{path}", json=fields or None) as response:
        assert response.status == status, await response.text()
        return await response.json()


async def types_of(scheduler: Scheduler, id: str) -> list[str]:
    return [event["type"] for event in (await scheduler.get(f"/jobs/{id}/events"))["events"]]


async def test_an_urgent_job_takes_the_devices_of_a_preemptible_one_which_comes_back(start: Start) -> None:
    scheduler = await start("4xH100")
    await put(scheduler, "/policy", min_runtime_s=0)
    saving = "trap 'echo saved; exit 1' USR1; while :; do sleep 0.05; done"
    low = await scheduler.submit(
        gpu_count=4, command=saving, preemptible=True, stop_signal="SIGUSR1", grace_period_s=5
    )
    await scheduler.until(low["id"], "Running")
    urgent = await scheduler.submit(user_id="bob", gpu_count=4, priority="Urgent", command="sleep 0.3")
    await scheduler.until(urgent["id"], "Completed")
    back = await scheduler.until(low["id"], "Running")
    assert (back["attempt"], back["preempted"], back["retries_used"]) == (2, 1, 0)
    told = await scheduler.get(f"/jobs/{low['id']}/why")
    assert [one["what"] for one in told["history"]] == ["asked to make way", "preempted", "requeued"]
    assert told["history"][0]["by"] == f"job {urgent['number']} of bob"
    assert told["history"][1]["lost_gpu_s"] > 0
    async with scheduler.http.get(f"/api/v1/jobs/{low['id']}/logs?attempt=1") as response:
        assert await response.text() == "saved\n"


async def test_a_large_job_is_planned_for_small_ones_fill_the_gap_and_it_starts_in_time(start: Start) -> None:
    scheduler = await start("4xH100")
    first = await scheduler.submit(gpu_count=2, command="sleep 1.5", time_limit_s=2)
    await scheduler.until(first["id"], "Running")
    large = await scheduler.submit(user_id="bob", gpu_count=4, command="true", time_limit_s=60)
    long = await scheduler.submit(user_id="carol", gpu_count=2, command="true", time_limit_s=600)
    short = await scheduler.submit(user_id="dan", gpu_count=2, command="true", time_limit_s=1)
    await scheduler.until(short["id"], "Completed")
    told = await scheduler.get(f"/jobs/{long['id']}/why")
    assert "they are free, but 1 job planned ahead of it would start later" in told["summary"]
    assert (await scheduler.get(f"/jobs/{large['id']}/why"))["reservation"]["nodes"] == ["node-1"]
    await scheduler.until(large["id"], "Completed")
    await scheduler.until(long["id"], "Completed")
    events = (await scheduler.get("/events?limit=1000"))["events"]
    causes = {
        event["payload"]["job_id"]: event["payload"].get("cause", "priority")
        for event in events
        if event["type"] == "JobScheduled"
    }
    assert causes[short["id"]] == "backfill"
    assert causes[large["id"]] == "priority"


async def test_a_gang_can_find_itself_by_what_its_processes_are_told(start: Start) -> None:
    scheduler = await start("2*4xH100")
    script = 'echo "$RANK of $WORLD_SIZE at $MASTER_ADDR:$MASTER_PORT"'
    gang = await scheduler.submit(gpu_count=8, nodes=2, command=script)
    await scheduler.until(gang["id"], "Completed")
    said = []
    for rank in (0, 1):
        async with scheduler.http.get(f"/api/v1/jobs/{gang['id']}/logs?rank={rank}") as response:
            said.append((await response.text()).strip())
    assert said[0].startswith("0 of 2 at ")
    assert said[1] == said[0].replace("0 of 2", "1 of 2")


async def test_one_failing_process_ends_its_gang(start: Start) -> None:
    scheduler = await start("2*4xH100")
    script = 'if [ "$RANK" = 1 ]; then exit 7; fi; sleep 600'
    gang = await scheduler.submit(gpu_count=8, nodes=2, command=script, grace_period_s=GONE_S)
    failed = await scheduler.until(gang["id"], "Failed")
    assert failed["exit_code"] == 7
    await scheduler.quiet()


async def test_tasks_of_an_array_run_a_few_at_a_time_and_a_job_after_them_when_all_are_done(
    start: Start,
) -> None:
    scheduler = await start("8xH100")
    array = await scheduler.submit(array="0-9:3%2", command='echo "task $HORIZON_ARRAY_INDEX"')
    after = await scheduler.submit(depends_on=[f"after_ok:{array['number']}"], command="true")
    never = await scheduler.submit(depends_on=[{"job": array["number"], "kind": "after_not_ok"}])
    chained = await scheduler.submit(depends_on=[{"job": never["number"], "kind": "after_ok"}])
    await scheduler.until(after["id"], "Completed")
    assert (await scheduler.get(f"/jobs/{array['number']}"))["state"] == "Completed"
    last = await scheduler.get(f"/jobs/{array['number']}_9")
    assert (last["state"], last["array_index"]) == ("Completed", 9)
    async with scheduler.http.get(f"/api/v1/jobs/{array['number']}_9/logs") as response:
        assert await response.text() == "task 9\n"
    for one in (never, chained):
        ended = await scheduler.until(one["id"], "Failed")
        assert "can never hold" in ended["reason"]
    assert await types_of(scheduler, array["id"]) == ["JobSubmitted"]


async def test_a_checkpoint_counts_whether_the_job_touches_its_file_or_somebody_says_so(start: Start) -> None:
    scheduler = await start("1xH100")
    job = await scheduler.submit(command='touch "$HORIZON_CHECKPOINT_FILE"; sleep 600', grace_period_s=0)
    await scheduler.until(job["id"], "Running")
    await scheduler.eventually(
        lambda: len(scheduler.engine.state.jobs[job["id"]].positions) == 4, "its own checkpoint"
    )
    await post(scheduler, f"/jobs/{job['number']}/checkpoint")
    assert (await types_of(scheduler, job["id"]))[3:] == ["CheckpointRecorded", "CheckpointRecorded"]


async def test_a_drained_node_is_emptied_by_its_deadline_and_takes_work_again_when_resumed(
    start: Start,
) -> None:
    scheduler = await start("2*2xH100")
    job = await scheduler.submit(gpu_count=2, command="sleep 600", grace_period_s=0)
    running = await scheduler.until(job["id"], "Running")
    where = running["node_ids"][0]
    await post(scheduler, f"/nodes/{where}/drain", reason="fans", deadline_s=1)
    assert (await scheduler.get(f"/nodes/{where}"))["state"] == "draining"
    await scheduler.eventually(
        lambda: scheduler.engine.state.jobs[job["id"]].attempt == 2, "its second attempt"
    )
    again = await scheduler.until(job["id"], "Running")
    assert again["node_ids"] != [where]
    assert again["retries_used"] == 0
    assert (await scheduler.get(f"/nodes/{where}"))["state"] == "drained"
    waiting = await scheduler.submit(gpu_count=2, command="true")
    await asyncio.sleep(0.2)
    assert (await scheduler.get(f"/jobs/{waiting['id']}"))["state"] == "Queued"
    await post(scheduler, f"/nodes/{where}/resume")
    await scheduler.until(waiting["id"], "Completed")


async def test_a_failed_device_is_left_out_and_a_job_that_dies_on_it_goes_elsewhere(start: Start) -> None:
    scheduler = await start("2xH100")
    job = await scheduler.submit(
        command='if [ "$HORIZON_ATTEMPT" = 1 ]; then while [ ! -e die ]; do sleep 0.05; done; exit 9; fi',
    )
    running = await scheduler.until(job["id"], "Running")
    device = running["gpu_ids"][0]
    await post(scheduler, f"/gpus/{device}/fail", reason="XID 79")
    attempt_dir = scheduler.data_dir / "attempts" / f"{job['id']}.1"
    (attempt_dir / "die").touch()
    ended = await scheduler.until(job["id"], "Completed")
    assert ended["gpu_ids"] != [device]
    assert (ended["retries_used"], ended["attempt"]) == (0, 2)
    states = {gpu["uuid"]: gpu["state"] for gpu in (await scheduler.get("/gpus"))["gpus"]}
    assert states[device] == "failed"
    await post(scheduler, f"/gpus/{device}/recover")
    both = await scheduler.submit(gpu_count=2)
    await scheduler.until(both["id"], "Completed")


async def test_why_as_of_an_earlier_position_and_moment(start: Start) -> None:
    scheduler = await start("1xH100")
    first = await scheduler.submit(command="sleep 600", grace_period_s=0)
    await scheduler.until(first["id"], "Running")
    second = await scheduler.submit(user_id="bob", command="true")
    await scheduler.eventually(lambda: scheduler.engine.state.queue.counts()[1] == 1, "it waits")
    told = await scheduler.get(f"/jobs/{second['id']}/why")
    assert told["summary"].startswith("waits for 1 GPU on one node")
    await scheduler.cancel(first["id"])
    await scheduler.until(second["id"], "Completed")
    assert (await scheduler.get(f"/jobs/{second['id']}/why"))["summary"] == "has completed"
    then = await scheduler.get(f"/jobs/{second['id']}/why?at={told['at_position']}")
    assert then["summary"] == told["summary"]
    assert then["position"] == 1
    moment = await scheduler.get(f"/jobs/{second['id']}/why?at={told['at'].replace('Z', '%2B00:00')}")
    assert moment["summary"] == told["summary"]
    await scheduler.get(f"/jobs/{second['id']}/why?at=1", status=404)
    for bad in ("0", "999999", "yesterday", "2030-01-01"):
        await scheduler.get(f"/jobs/{second['id']}/why?at={bad}", status=422)
