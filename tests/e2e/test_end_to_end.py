"""Whole stories over real HTTP: real scheduler, real Postgres, real processes. After each of them the log is
folded again and must give the state that was lived in (see the fixture ``scheduler``)."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from tests.world import Scheduler, start_scheduler


async def starts(scheduler: Scheduler) -> list[dict[str, Any]]:
    """The jobs that were placed, in the order of their placement, with their rank within the cycle."""
    page = await scheduler.get("/events?limit=10000")
    placed = [event for event in page["events"] if event["type"] == "JobScheduled"]
    return [await scheduler.get(f"/jobs/{event['payload']['job_id']}") for event in placed]


async def gate(scheduler: Scheduler, gpus: int = 8) -> dict[str, Any]:
    """A job that holds every GPU, so that what is submitted behind it waits."""
    job = await scheduler.submit(user_id="gatekeeper", command="sleep 60", gpu_count=gpus, grace_period_s=0)
    await scheduler.until(job["id"], "Running")
    return job


async def events_of(scheduler: Scheduler, id: str) -> list[str]:
    return [event["type"] for event in (await scheduler.get(f"/jobs/{id}/events"))["events"]]


async def test_complete_lifecycle(scheduler: Scheduler) -> None:
    job = await scheduler.submit(command="echo hello; echo trouble >&2", gpu_count=2)
    assert job["state"] == "Queued"
    done = await scheduler.until(job["id"], "Completed")
    assert done["exit_code"] == 0
    assert done["attempt"] == 1
    assert done["created_at"] <= done["scheduled_at"] <= done["started_at"] <= done["completed_at"]
    assert len(done["gpu_ids"]) == 2
    assert done["node_ids"] == ["node-1"]
    await scheduler.quiet()
    assert await events_of(scheduler, job["id"]) == [
        "JobSubmitted", "JobScheduled", "JobStarted", "JobCompleted", "AllocationReleased",
    ]  # fmt: skip
    async with scheduler.http.get(f"/api/v1/jobs/{job['id']}/logs") as response:
        assert await response.text() == "hello\n"
    async with scheduler.http.get(f"/api/v1/jobs/{job['id']}/logs?stream=stderr") as response:
        assert await response.text() == "trouble\n"


async def test_fair_share_of_three_users_with_nine_jobs(scheduler: Scheduler) -> None:
    holder = await gate(scheduler)
    for user in ("alice", "bob", "carol"):
        for _ in range(3):
            # Long enough that what a busy machine adds to one run does not outweigh a second one.
            await scheduler.submit(user_id=user, gpu_count=8, command="sleep 0.2")
    await scheduler.cancel(holder["id"])
    await scheduler.eventually(lambda: len(scheduler.engine.state.queue) == 0, "an empty queue")
    await scheduler.quiet()
    users = [job["user_id"] for job in await starts(scheduler)][1:]
    for first in range(0, 9, 3):
        assert set(users[first : first + 3]) == {"alice", "bob", "carol"}, users


async def test_high_before_normal_before_low(scheduler: Scheduler) -> None:
    holder = await gate(scheduler)
    for priority in ("Low", "Normal", "High"):
        await scheduler.submit(priority=priority, gpu_count=8)
    await scheduler.cancel(holder["id"])
    await scheduler.eventually(lambda: len(scheduler.engine.state.queue) == 0, "an empty queue")
    assert [job["priority"] for job in await starts(scheduler)][1:] == ["High", "Normal", "Low"]


async def test_cancellation_flow(scheduler: Scheduler, tmp_path: Path) -> None:
    marker = tmp_path / "caught"
    command = f"trap 'echo term > {marker}; exit 7' TERM; while true; do sleep 0.05; done"
    job = await scheduler.submit(command=command)
    await scheduler.until(job["id"], "Running")
    await asyncio.sleep(0.2)
    cancelled = await scheduler.cancel(job["id"] + "?reason=wrong%20data")
    assert cancelled["state"] == "Cancelled"
    assert "wrong data" in cancelled["reason"]
    await scheduler.quiet()
    assert marker.read_text() == "term\n"
    assert (await scheduler.get(f"/jobs/{job['id']}"))["exit_code"] == 7


async def test_twenty_parallel_submissions(scheduler: Scheduler) -> None:
    jobs = await asyncio.gather(*(scheduler.submit(user_id=f"user-{n % 4}") for n in range(20)))
    assert sorted(job["number"] for job in jobs) == list(range(1, 21))
    assert len({job["id"] for job in jobs}) == 20
    for job in jobs:
        assert (await scheduler.until(job["id"], "Completed"))["exit_code"] == 0


async def test_every_state_transition(scheduler: Scheduler, tmp_path: Path) -> None:
    once = f"test -e {tmp_path}/second || {{ touch {tmp_path}/second; exit 9; }}"
    stories = {
        "queued, cancelled": await scheduler.submit(gpu_count=1_000),
        "completed": await scheduler.submit(),
        "failed": await scheduler.submit(command="exit 3"),
        "never started": await scheduler.submit(command=["no-such-command"]),
        "killed": await scheduler.submit(command="kill -9 $$"),
        "retried": await scheduler.submit(command=once, max_retries=1),
        "timed out": await scheduler.submit(command="sleep 60", time_limit_s=1, grace_period_s=1),
        "cancelled running": await scheduler.submit(command="sleep 60", grace_period_s=0),
    }
    ids = {story: job["id"] for story, job in stories.items()}
    await scheduler.cancel(ids["queued, cancelled"])
    await scheduler.until(ids["cancelled running"], "Running")
    await scheduler.cancel(ids["cancelled running"])
    for story in ("completed", "retried"):
        await scheduler.until(ids[story], "Completed")
    for story in ("failed", "never started", "killed", "timed out"):
        await scheduler.until(ids[story], "Failed")
    await scheduler.quiet()
    told = {story: await events_of(scheduler, id) for story, id in ids.items()}
    begun = ["JobSubmitted", "JobScheduled", "JobStarted"]
    assert told == {
        "queued, cancelled": ["JobSubmitted", "JobCancelled"],
        "completed": [*begun, "JobCompleted", "AllocationReleased"],
        "failed": [*begun, "JobFailed", "AllocationReleased"],
        "never started": [*begun[:2], "JobFailed", "AllocationReleased"],
        "killed": [*begun, "JobFailed", "AllocationReleased"],
        "retried": [
            *begun,
            "JobRequeued",
            "AllocationReleased",
            "JobReleased",
            *begun[1:],
            "JobCompleted",
            "AllocationReleased",
        ],
        "timed out": [*begun, "TimeLimitReached", "JobFailed", "AllocationReleased"],
        "cancelled running": [*begun, "JobCancelled", "AllocationReleased"],
    }
    reasons = {story: (await scheduler.get(f"/jobs/{id}"))["reason"] for story, id in ids.items()}
    assert reasons["failed"] == "exit code 3"
    assert "no-such-command" in reasons["never started"]
    assert reasons["killed"].startswith("killed by signal 9")
    assert "time limit of 1 s" in reasons["timed out"]


async def test_ten_jobs_of_one_user_start_in_order(scheduler: Scheduler) -> None:
    jobs = [await scheduler.submit(gpu_count=8) for _ in range(10)]
    for job in jobs:
        await scheduler.until(job["id"], "Completed")
    assert [job["number"] for job in await starts(scheduler)] == list(range(1, 11))


async def test_list_by_state(scheduler: Scheduler) -> None:
    done = await scheduler.submit()
    failed = await scheduler.submit(command="false")
    waiting = await scheduler.submit(gpu_count=99)
    await scheduler.until(done["id"], "Completed")
    await scheduler.until(failed["id"], "Failed")
    for state, job in (("Completed", done), ("failed", failed), ("QUEUED", waiting)):
        page = await scheduler.get(f"/jobs?state={state}")
        assert [one["id"] for one in page["jobs"]] == [job["id"]]
        assert page["total"] == 1


async def test_empty_queue(scheduler: Scheduler) -> None:
    assert (await scheduler.get("/queue"))["total"] == 0
    assert (await scheduler.get("/jobs")) == {"jobs": [], "total": 0, "next_cursor": None}
    assert (await scheduler.get("/queue/order"))["jobs"] == []


async def test_all_optional_fields(scheduler: Scheduler, tmp_path: Path) -> None:
    given = {
        "user_id": "alice", "account": "research/nlp", "job_name": "train", "command": "env > out",
        "working_dir": str(tmp_path), "environment": {"SEED": "42"}, "gpu_count": 2, "gpu_type": "H100",
        "gpu_memory_gb": 40, "cpu_cores": 4, "memory_gb": 1.5, "nodes": 1, "constraints": {},
        "exclusive": True, "priority": "High",
        "time_limit_s": 60, "grace_period_s": 5, "max_retries": 1, "preemptible": True,
        "hold": False, "labels": {"team": "nlp"}, "comment": "first try", "begin_at": "2020-01-01T00:00:00Z",
    }  # fmt: skip
    job = await scheduler.submit(**given)
    for name, value in given.items():
        if name != "begin_at":
            assert job[name] == value, name
    done = await scheduler.until(job["id"], "Completed")
    assert done["environment"] == {"SEED": "42"}
    assert done["resources"] == {"gpu_count": 2, "gpu_type": "H100", "cpu_cores": 4, "memory_gb": 1.5}
    environment = dict(
        line.split("=", 1) for line in (tmp_path / "out").read_text().splitlines() if "=" in line
    )
    assert environment["SEED"] == "42"
    assert environment["CUDA_VISIBLE_DEVICES"].split(",") == done["gpu_ids"]
    assert environment["HORIZON_JOB_ID"] == job["id"]


async def test_a_hundred_jobs(scheduler: Scheduler, tmp_path: Path) -> None:
    body = {
        "jobs": [{"user_id": f"user-{n % 7}", "command": f"echo {n} >> {tmp_path}/ran"} for n in range(100)]
    }
    async with scheduler.http.post("/api/v1/jobs/batch", json=body) as response:
        assert response.status == 201
        answer = await response.json()
    assert [job["number"] for job in answer["jobs"]] == list(range(1, 101))
    for job in answer["jobs"]:
        await scheduler.until(job["id"], "Completed")
    assert sorted(map(int, (tmp_path / "ran").read_text().split())) == list(range(100))


async def test_cancel_five_of_ten(scheduler: Scheduler) -> None:
    holder = await gate(scheduler)
    jobs = [await scheduler.submit() for _ in range(10)]
    for job in jobs[::2]:
        await scheduler.cancel(job["id"])
    assert (await scheduler.get("/queue"))["total"] == 5
    await scheduler.cancel(holder["id"])
    for job in jobs[1::2]:
        await scheduler.until(job["id"], "Completed")
    page = await scheduler.get("/jobs?state=Cancelled")
    assert page["total"] == 6


async def test_persistence_across_restart(database: str, tmp_path: Path) -> None:
    first = await start_scheduler(database, tmp_path, "1xH100")
    running = await first.submit(command=f"sleep 1; echo ran >> {tmp_path}/ran; exit 4")
    waiting = [await first.submit(user_id=user, priority=priority) for user, priority in
               (("alice", "Low"), ("bob", "Normal"), ("carol", "High"))]  # fmt: skip
    await first.until(running["id"], "Running")
    order = await first.get("/queue/order")
    before = await first.get("/jobs")
    await first.stop()
    second = await start_scheduler(database, tmp_path, "1xH100")
    assert await second.get("/queue/order") == order
    after = await second.get("/jobs")
    assert [job["id"] for job in after["jobs"]] == [job["id"] for job in before["jobs"]]
    assert (await second.until(running["id"], "Failed"))["exit_code"] == 4
    assert (tmp_path / "ran").read_text() == "ran\n"
    for job in waiting:
        await second.until(job["id"], "Completed")
    assert [job["priority"] for job in await starts(second)][1:] == ["High", "Normal", "Low"]
    await second.stop_checked()


async def test_a_key_has_one_effect_across_a_failover(database: str, tmp_path: Path) -> None:
    """Clients ask one scheduler until another takes the lead, then, under the same keys, the other."""
    first = await start_scheduler(database, tmp_path / "first", "1xH100")
    answers: dict[str, str] = {}
    asked: list[str] = []

    async def ask(scheduler: Scheduler, key: str) -> str | None:
        body = {"user_id": "alice", "command": "true", "hold": True}
        headers = {"Idempotency-Key": key}
        async with scheduler.http.post("/api/v1/jobs", json=body, headers=headers) as response:
            assert response.status in (201, 503), await response.text()
            return await response.text() if response.status == 201 else None

    async def client(number: int) -> None:
        while True:
            asked.append(f"{number}-{len(asked)}")
            answer = await ask(first, key := asked[-1])
            if answer is None:
                return
            answers[key] = answer

    clients = [asyncio.create_task(client(number)) for number in range(16)]
    await first.eventually(lambda: len(answers) > 100, "some answers")
    second = await start_scheduler(database, tmp_path / "second", "1xH100")
    await asyncio.gather(*clients)
    for key in asked:
        again = await asyncio.gather(ask(second, key), ask(second, key))
        assert again[0] == again[1] == answers.get(key, again[0]) is not None
    assert (await second.get("/jobs"))["total"] == len(asked) > len(answers) > 100
    await first.stop()
    await second.stop_checked()


async def test_invalid_transitions(scheduler: Scheduler) -> None:
    done = await scheduler.submit()
    await scheduler.until(done["id"], "Completed")
    running = await scheduler.submit(command="sleep 60", grace_period_s=0)
    await scheduler.until(running["id"], "Running")
    before = scheduler.engine.state.position
    assert "already ended" in (await scheduler.cancel(done["id"], 409))["detail"]
    assert "already ended" in (await scheduler.patch(done["id"], 409, priority="High"))["detail"]
    assert "only a waiting job" in (await scheduler.patch(running["id"], 409, hold=True))["detail"]
    assert scheduler.engine.state.jobs[done["id"]].version in (4, 5)
    happened = [one.type async for one in scheduler.engine.store.read(before)]
    assert [type for type in happened if type != "AllocationReleased"] == ["CommandRefused"] * 3


async def test_ten_parallel_cancels_of_ten_jobs(scheduler: Scheduler) -> None:
    await gate(scheduler)
    jobs = [await scheduler.submit() for _ in range(10)]
    cancelled = await asyncio.gather(*(scheduler.cancel(job["id"]) for job in jobs))
    assert {job["state"] for job in cancelled} == {"Cancelled"}
    assert (await scheduler.get("/queue"))["total"] == 0


async def test_thirty_jobs_of_mixed_priority(scheduler: Scheduler) -> None:
    rng = random.Random(30)
    holder = await gate(scheduler)
    priorities = [rng.choice(["Low", "Normal", "High", "Urgent"]) for _ in range(30)]
    for number, priority in enumerate(priorities):
        await scheduler.submit(user_id=f"user-{number % 3}", priority=priority, gpu_count=8)
    queue = await scheduler.get("/queue")
    assert queue["total"] == 30
    for priority in ("Low", "Normal", "High", "Urgent"):
        assert queue[f"{priority.lower()}_priority"] == priorities.count(priority)
    await scheduler.cancel(holder["id"])
    await scheduler.eventually(lambda: len(scheduler.engine.state.queue) == 0, "an empty queue")
    order = ["Urgent", "High", "Normal", "Low"]
    started = [order.index(job["priority"]) for job in await starts(scheduler)][1:]
    assert started == sorted(started)


async def test_unknown_job(scheduler: Scheduler) -> None:
    unknown = "0192a3b4-0000-7000-8000-000000000000"
    for path in (f"/jobs/{unknown}", "/jobs/99", f"/jobs/{unknown}/events", f"/jobs/{unknown}/logs"):
        assert (await scheduler.get(path, 404))["status"] == 404
    await scheduler.cancel(unknown, 404)


async def test_rapid_submit_and_cancel(scheduler: Scheduler) -> None:
    async def story() -> str:
        job = await scheduler.submit(command="sleep 60", grace_period_s=0)
        return str((await scheduler.cancel(job["id"]))["state"])

    assert await asyncio.gather(*(story() for _ in range(30))) == ["Cancelled"] * 30
    await scheduler.quiet()
    gpus = (await scheduler.get("/gpus"))["gpus"]
    assert [gpu["state"] for gpu in gpus] == ["free"] * 8


async def test_five_users_with_fifty_jobs(scheduler: Scheduler) -> None:
    jobs = [await scheduler.submit(user_id=f"user-{n % 5}") for n in range(50)]
    for job in jobs:
        await scheduler.until(job["id"], "Completed")
    for n in range(5):
        assert (await scheduler.get(f"/jobs?user_id=user-{n}"))["total"] == 10


async def test_a_completion_is_recorded_in_fair_share(scheduler: Scheduler) -> None:
    job = await scheduler.submit(user_id="alice", account="research/nlp", command="sleep 0.5", gpu_count=4)
    await scheduler.until(job["id"], "Completed")
    await scheduler.quiet()
    shares = {share["path"]: share for share in (await scheduler.get("/shares"))["shares"]}
    used = shares["research/nlp/alice"]["usage_gpu_s"]
    assert 2.0 <= used <= 8.0
    assert shares["research/nlp"]["usage_gpu_s"] == shares["research"]["usage_gpu_s"] == used
    assert shares["research/nlp/alice"]["gpus_held"] == 0
    holder = await gate(scheduler)
    for user in ("alice", "bob"):
        await scheduler.submit(user_id=user, account="research/nlp", gpu_count=8)
    order = [job["user_id"] for job in (await scheduler.get("/queue/order"))["jobs"]]
    assert order == ["bob", "alice"]
    await scheduler.cancel(holder["id"])
    await scheduler.eventually(lambda: len(scheduler.engine.state.queue) == 0, "an empty queue")


async def test_a_gang_starts_on_all_its_nodes_or_on_none(database: str, tmp_path: Path) -> None:
    scheduler = await start_scheduler(database, tmp_path, "3*2xH100")
    holder = await scheduler.submit(gpu_count=2, command="sleep 60", grace_period_s=0)
    await scheduler.until(holder["id"], "Running")
    gang = await scheduler.submit(
        gpu_count=6, nodes=3, command=f"echo $HORIZON_NODE_RANK $HORIZON_NODE >> {tmp_path}/ran"
    )
    await asyncio.sleep(0.2)
    assert (await scheduler.get(f"/jobs/{gang['id']}"))["state"] == "Queued"
    await scheduler.cancel(holder["id"])
    done = await scheduler.until(gang["id"], "Completed")
    ran = sorted(line.split() for line in (tmp_path / "ran").read_text().splitlines())
    assert ran == [[str(rank), node] for rank, node in enumerate(done["node_ids"])]
    await scheduler.stop_checked()
