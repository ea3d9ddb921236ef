"""Jobs that wait for what becomes of others, requeues and checkpoints, over HTTP."""

from __future__ import annotations

from tests.api.client import UNKNOWN, Client

# --- dependencies -------------------------------------------------------------------------------------


async def test_a_job_starts_once_what_it_depends_on_holds(client: Client) -> None:
    first = await client.submit(hold=True)
    second = await client.submit(depends_on=[{"job": first["id"]}])
    assert second["depends_on"] == [{"job": first["id"], "number": 1, "kind": "after_ok"}]
    waiting = await client.get("/jobs/2")
    assert (waiting["state"], waiting["depends_on"]) == ("Queued", second["depends_on"])
    assert "depends on" in waiting["reason"]
    await client.ask("PATCH", "/jobs/1", {"hold": False}, status=200)
    await client.scheduler.until("2", "Completed")


async def test_a_dependency_may_be_written_in_several_ways(client: Client) -> None:
    first = await client.submit(hold=True)
    await client.submit(array="5-6", hold=True)
    task = await client.get("/jobs/2_6")
    job = await client.submit(
        depends_on=[
            {"job": 1, "kind": "after_start"}, {"job": "1"}, f"after_any:{first['id'].upper()}",
            "after_not_ok:2_6", {"job": "2_6", "kind": None}, "after_ok:2", "after_any:1",
        ]
    )  # fmt: skip
    assert [(one["job"], one["number"], one["kind"]) for one in job["depends_on"]] == [
        (first["id"], 1, "after_start"),
        (first["id"], 1, "after_ok"),
        (first["id"], 1, "after_any"),
        (task["id"], 4, "after_not_ok"),
        (task["id"], 4, "after_ok"),
        ((await client.get("/jobs/2"))["id"], 2, "after_ok"),
    ]
    await client.ask("DELETE", "/jobs/1", status=200)
    await client.scheduler.until(job["id"], "Failed")


async def test_every_job_that_is_not_there_is_named(client: Client) -> None:
    await client.submit(hold=True)
    body = {
        "user_id": "a",
        "command": "true",
        "depends_on": [f"after_ok:{UNKNOWN}", "after_ok:1", {"job": 7}],
    }
    answer = await client.ask("POST", "/jobs", body, status=422)
    assert answer.pointers == ["/depends_on/0", "/depends_on/2"]
    answer = await client.ask("POST", "/jobs/batch", {"jobs": [body]}, status=422)
    assert answer.pointers == ["/jobs/0/depends_on/0", "/jobs/0/depends_on/2"]
    assert answer.json["errors"][1]["detail"] == "there is no job 7"


async def test_what_can_never_hold_is_refused(client: Client) -> None:
    done = await client.submit()
    await client.scheduler.until(done["id"], "Completed")
    body = {"user_id": "a", "command": "true", "depends_on": ["after_ok:1", "after_not_ok:1"]}
    answer = await client.ask("POST", "/jobs", body, status=422)
    assert answer.pointers == ["/depends_on/1"]


# --- requeue ------------------------------------------------------------------------------------------


async def test_a_running_job_goes_back_to_the_queue_when_asked(client: Client) -> None:
    job = await client.submit(command="sleep 60", grace_period_s=0, environment={"A": "1"})
    await client.scheduler.until(job["id"], "Running")
    answer = await client.ask("POST", "/jobs/1/requeue?reason=new%20driver", status=200)
    assert answer.json["environment"] == {"A": "1"}
    assert answer.headers["ETag"] == f'"{answer.json["version"]}"'
    await client.scheduler.eventually(
        lambda: client.scheduler.engine.state.jobs[job["id"]].attempt == 2, "another attempt"
    )
    events = (await client.get("/jobs/1/events"))["events"]
    (asked,) = [event for event in events if event["type"] == "RequeueRequested"]
    assert asked["actor"] == asked["payload"]["by"] == "owner"
    assert asked["payload"]["reason"] == "new driver"
    assert (await client.get("/jobs/1"))["retries_used"] == 0


async def test_a_requeue_takes_a_key_and_a_condition(client: Client) -> None:
    job = await client.submit(command="sleep 60", grace_period_s=0)
    job = await client.scheduler.until(job["id"], "Running")
    path = f"/jobs/{job['id']}/requeue"
    await client.ask("POST", path, headers={"If-Match": '"1"'}, status=412)
    headers = {"If-Match": f'"{job["version"]}"', "Idempotency-Key": "k"}
    first = await client.ask("POST", path, headers=headers, status=200)
    again = await client.ask("POST", path, headers=headers, status=200)
    assert again.body == first.body
    assert again.headers["Idempotency-Replayed"] == "true"
    answer = await client.ask("POST", path, {"reason": "lost"}, status=422)
    assert "?reason=" in answer.json["detail"]


async def test_only_a_job_that_runs_can_be_requeued(client: Client) -> None:
    await client.submit(hold=True)
    assert "only a running job" in (await client.ask("POST", "/jobs/1/requeue", status=409)).json["detail"]
    await client.ask("POST", "/jobs/7/requeue", status=404)
    await client.ask("POST", "/jobs/nope/requeue", status=400)


# --- checkpoints --------------------------------------------------------------------------------------


async def test_a_running_job_says_that_it_has_saved_its_work(client: Client) -> None:
    job = await client.submit(command="sleep 60", grace_period_s=0)
    await client.scheduler.until(job["id"], "Running")
    for query in ("", "?attempt=1"):
        await client.ask("POST", f"/jobs/1/checkpoint{query}", status=200)
    events = (await client.get("/jobs/1/events"))["events"]
    assert [event["type"] for event in events].count("CheckpointRecorded") == 2
    assert (
        "attempt 1 runs now"
        in (await client.ask("POST", "/jobs/1/checkpoint?attempt=2", status=409)).json["detail"]
    )
    await client.ask("POST", "/jobs/1/checkpoint?attempt=0", status=422)
    await client.ask("POST", "/jobs/1/checkpoint", {"attempt": 1}, status=422)


async def test_a_job_that_makes_way_says_how_often_and_what_it_lost(client: Client) -> None:
    await client.ask("PUT", "/policy", {"min_runtime_s": 0}, status=200)
    job = await client.submit(
        command="sleep 60", gpu_count=8, grace_period_s=0, preemptible=True, priority="Low"
    )
    assert (job["preempted"], job["lost_gpu_s"], job["predicted_start"]) == (0, 0, None)
    await client.scheduler.until(job["id"], "Running")
    urgent = await client.submit(command="sleep 60", gpu_count=8, grace_period_s=0, priority="Urgent")
    await client.scheduler.until(urgent["id"], "Running")
    job = await client.scheduler.until(job["id"], "Queued")
    assert job["preempted"] == 1
    assert job["lost_gpu_s"] > 0
    await client.scheduler.eventually(
        lambda: client.scheduler.engine.state.jobs[job["id"]].predicted_us > 0, "a planned start"
    )
    assert (await client.get(f"/jobs/{job['id']}"))["predicted_start"] is not None
