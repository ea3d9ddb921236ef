"""Jobs over HTTP: submit, look, list, change, cancel."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from horizon.api.answers import job_answer
from tests.api.client import API, UNKNOWN, Client
from tests.api.conftest import Bare

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


# --- submit -------------------------------------------------------------------------------------------


async def test_a_submitted_job_is_answered_with_its_id_and_where_it_is(client: Client) -> None:
    answer = await client.ask("POST", "/jobs", {"user_id": "alice", "command": "true"}, status=201)
    job = answer.json
    assert UUID7.fullmatch(job["id"])
    assert (job["number"], job["state"], job["version"], job["attempt"]) == (1, "Queued", 1, 0)
    assert (job["priority"], job["account"], job["gpu_count"]) == ("Normal", "default", 1)
    assert answer.headers["Location"] == f"{API}/jobs/{job['id']}"
    assert answer.headers["ETag"] == '"1"'
    assert datetime.fromisoformat(job["created_at"]).tzinfo == UTC
    assert (job["scheduled_at"], job["started_at"], job["completed_at"]) == (None, None, None)


async def test_a_job_with_all_fields_keeps_them_all(client: Client, tmp_path: Path) -> None:
    given = {
        "user_id": "alice", "account": "research/nlp", "job_name": "train", "command": ["sh", "-c", "exit 3"],
        "working_dir": str(tmp_path), "environment": {"SEED": "42"}, "gpu_count": 2, "gpu_type": "H100",
        "gpu_memory_gb": 40.5, "cpu_cores": 4, "memory_gb": 1.5, "nodes": 1, "constraints": {},
        "exclusive": True, "priority": "High", "time_limit_s": 60, "grace_period_s": 5, "max_retries": 0,
        "preemptible": True, "hold": False, "labels": {"team": "nlp", "a/b": ""}, "comment": "first try",
        "stop_signal": "SIGUSR1", "begin_at": "2020-01-01T01:00:00+01:00",
    }  # fmt: skip
    job = await client.submit(**given)
    given["begin_at"] = "2020-01-01T00:00:00.000000Z"
    assert {name: job[name] for name in given} == given
    assert job["resources"] == {"gpu_count": 2, "gpu_type": "H100", "cpu_cores": 4, "memory_gb": 1.5}
    failed = await client.scheduler.until(job["id"], "Failed")
    assert {name: failed[name] for name in given} == given
    assert (failed["exit_code"], failed["node_ids"], len(failed["gpu_ids"])) == (3, ["node-1"], 2)
    (listed,) = (await client.get("/jobs"))["jobs"]
    assert {name: listed[name] for name in given} == given


async def test_null_means_not_given(client: Client) -> None:
    optional = ["script", "working_dir", "environment", "account", "job_name", "gpu_count", "gpu_type",
                "gpu_memory_gb", "cpu_cores", "memory_gb", "nodes", "constraints", "exclusive", "priority",
                "time_limit_s", "grace_period_s", "max_retries", "preemptible", "begin_at", "hold", "labels",
                "comment", "stop_signal", "depends_on", "array"]  # fmt: skip
    plain = await client.submit()
    nulls = await client.submit(**dict.fromkeys(optional))
    for name in ("id", "number", "created_at"):
        del plain[name], nulls[name]
    assert nulls == plain


async def test_a_script_is_run_and_answered_back(client: Client) -> None:
    script = "#!/bin/sh\necho from a script: $0\nexit 5\n"
    body = {"user_id": "alice", "script": script}
    job = (await client.ask("POST", "/jobs", body, status=201)).json
    assert (job["script"], job["command"]) == (script, None)
    failed = await client.scheduler.until(job["id"], "Failed")
    assert (failed["script"], failed["exit_code"]) == (script, 5)


async def test_what_was_erased_is_null(client: Client) -> None:
    job = await client.submit(environment={"SECRET": "x"}, hold=True)
    state = client.scheduler.engine.state
    known = state.jobs[job["id"]]
    assert known.spec.environment_names == ("SECRET",)
    from horizon.api.answers import hidden_in

    hidden = hidden_in(known, state, {})
    assert hidden.environment is None
    assert b'"environment":null' in job_answer(known, state, hidden)


async def test_secrets_are_not_in_the_log(client: Client) -> None:
    await client.submit(environment={"TOKEN": "hunter2-hunter2"}, hold=True)
    await client.ask(
        "POST", "/jobs", {"user_id": "a", "script": "#!/bin/sh\n: hunter3", "hold": True}, status=201
    )
    log = (await client.ask("GET", "/events?limit=10000")).body
    assert b"hunter" not in log
    assert b'"TOKEN"' in log


async def test_memory_is_rounded_up_to_whole_mebibytes(client: Client) -> None:
    job = await client.submit(memory_gb=0.0001, cpu_cores=1, hold=True)
    assert job["memory_gb"] == 1 / 1024


async def test_a_priority_is_read_in_any_case(client: Client) -> None:
    for spelling in ("urgent", "URGENT", "Urgent", "uRgEnT"):
        assert (await client.submit(priority=spelling, hold=True))["priority"] == "Urgent"


async def test_a_request_larger_than_the_cluster_waits_and_says_why(client: Client) -> None:
    job = await client.submit(gpu_count=1_000)
    job = await client.get(f"/jobs/{job['id']}")
    assert job["state"] == "Queued"
    assert "1000 GPUs, more than this cluster has" in job["reason"]


async def test_a_job_without_gpus_needs_cores(client: Client) -> None:
    answer = await client.ask(
        "POST", "/jobs", {"user_id": "a", "command": "true", "gpu_count": 0}, status=422
    )
    assert answer.pointers == ["/gpu_count"]
    assert "asks for nothing" in answer.json["detail"]
    job = await client.submit(gpu_count=0, cpu_cores=1)
    assert (await client.scheduler.until(job["id"], "Completed"))["gpu_ids"] == []


# --- batches ------------------------------------------------------------------------------------------


async def test_a_batch_is_taken_whole(client: Client) -> None:
    jobs = [{"user_id": f"user-{n}", "command": "true", "environment": {"A": "1"}} for n in range(50)]
    answer = (await client.ask("POST", "/jobs/batch", {"jobs": jobs}, status=201)).json
    assert answer["total"] == 50
    assert [job["number"] for job in answer["jobs"]] == list(range(1, 51))
    state = client.scheduler.engine.state
    assert len({state.jobs[job["id"]].spec.environment_digest for job in answer["jobs"]}) == 1
    assert (await client.get("/jobs/50"))["environment"] == {"A": "1"}


async def test_a_batch_with_one_bad_job_is_refused_whole(client: Client) -> None:
    jobs: list[dict[str, Any]] = [{"user_id": "alice", "command": "true"} for _ in range(5)]
    jobs[3]["gpu_count"] = -1
    jobs[4] = {"command": "true", "gpus": 1}
    answer = await client.ask("POST", "/jobs/batch", {"jobs": jobs}, status=422)
    assert answer.pointers == ["/jobs/3/gpu_count", "/jobs/4/gpus", "/jobs/4/user_id"]
    jobs = [{"user_id": "alice", "command": "true"}, {"user_id": "alice", "command": "true", "gpu_count": 0}]
    assert (await client.ask("POST", "/jobs/batch", {"jobs": jobs}, status=422)).pointers == [
        "/jobs/1/gpu_count"
    ]
    assert (await client.get("/jobs"))["total"] == 0


async def test_a_batch_has_1_to_10_000_jobs(client: Client) -> None:
    for count in (0, 10_001):
        body = {"jobs": [{"user_id": "alice", "command": "true"}] * count}
        assert (await client.ask("POST", "/jobs/batch", body, status=422)).pointers == ["/jobs"]


async def test_a_batch_of_10_000_jobs_is_taken(bare: Bare) -> None:
    engine, http = bare
    await engine.start()
    body = {"jobs": [{"user_id": "alice", "command": "true"}] * 10_000}
    async with http.post("/api/v1/jobs/batch", json=body) as response:
        assert response.status == 201
        assert (await response.json())["jobs"][-1]["number"] == 10_000
    assert len(engine.state.queue) == 10_000
    await engine.stop()


# --- get ----------------------------------------------------------------------------------------------


async def test_a_job_is_found_by_id_in_any_case_and_by_number(client: Client) -> None:
    job = await client.submit(hold=True)
    for name in (job["id"], job["id"].upper(), "1"):
        assert (await client.get(f"/jobs/{name}"))["id"] == job["id"]


async def test_an_unknown_job_is_not_found(client: Client) -> None:
    for name in (UNKNOWN, "0", "1", "999999999999999999"):
        problem = await client.get(f"/jobs/{name}", 404)
        assert problem["detail"] == f"there is no job {name}"


NO_IDS = ("nope", "-1", "1.5", "%00", "%ff", "%D9%A1", "1" * 40, "x" * 5_000)


async def test_what_is_no_id_is_refused(client: Client) -> None:
    for name in (*NO_IDS, UNKNOWN[:-1], UNKNOWN + "0", "{" + UNKNOWN + "}"):
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/logs")):
            answer = await client.ask(method, f"/jobs/{name}{path}")
            assert answer.status == 400, answer.body
            assert len(answer.body) < 500


async def test_an_unchanged_job_is_not_sent_again(client: Client) -> None:
    job = await client.submit(hold=True)
    path = f"/jobs/{job['id']}"
    etag = (await client.ask("GET", path)).headers["ETag"]
    for header in (etag, "*", f'"99", {etag}', f"W/{etag}"):
        answer = await client.ask("GET", path, headers={"If-None-Match": header}, status=304)
        assert answer.headers["ETag"] == etag
    await client.ask("PATCH", path, {"priority": "High"}, status=200)
    answer = await client.ask("GET", path, headers={"If-None-Match": etag}, status=200)
    assert answer.headers["ETag"] == '"2"'
    await client.ask("GET", path, headers={"If-None-Match": "nonsense"}, status=400)


async def test_the_history_of_a_job_is_told(client: Client) -> None:
    job = await client.submit()
    await client.scheduler.until(job["id"], "Completed")
    await client.scheduler.quiet()
    events = (await client.get(f"/jobs/{job['id']}/events"))["events"]
    assert [event["type"] for event in events] == [
        "JobSubmitted", "JobScheduled", "JobStarted", "JobCompleted", "AllocationReleased"
    ]  # fmt: skip
    assert [event["stream_version"] for event in events] == [1, 2, 3, 4, 5]
    assert [event["actor"] for event in events][:2] == ["owner", "scheduler"]
    assert events[0]["payload"]["spec"]["user_id"] == "alice"
    assert len({event["correlation_id"] for event in events}) == 1
    assert all(re.fullmatch("[0-9a-f]{64}", event["hash"]) for event in events)


# --- list ---------------------------------------------------------------------------------------------


async def test_jobs_are_listed_newest_first(client: Client) -> None:
    for _ in range(3):
        await client.submit(hold=True)
    page = await client.get("/jobs")
    assert [job["number"] for job in page["jobs"]] == [3, 2, 1]
    assert (page["total"], page["next_cursor"]) == (3, None)


async def test_jobs_are_listed_by_state(client: Client) -> None:
    done = await client.submit()
    await client.scheduler.until(done["id"], "Completed")
    holder = await client.gate()
    queued = await client.submit()
    cases = {
        "Completed": [done], "completed": [done], "RUNNING": [holder], "Queued": [queued], "Failed": [],
        "Running,Queued": [queued, holder], "running&state=queued": [queued, holder],
        "Scheduled,Running": [holder],
    }  # fmt: skip
    for text, jobs in cases.items():
        page = await client.get(f"/jobs?state={text}")
        assert [job["id"] for job in page["jobs"]] == [job["id"] for job in jobs], text
        assert page["total"] == len(jobs)


async def test_jobs_are_listed_by_priority(client: Client) -> None:
    for priority in ("Low", "High", "High", "Urgent"):
        await client.submit(priority=priority, hold=True)
    assert (await client.get("/jobs?priority=high"))["total"] == 2
    assert (await client.get("/jobs?priority=high,URGENT"))["total"] == 3
    assert (await client.get("/jobs?priority=Normal"))["jobs"] == []


async def test_several_filters_combine(client: Client) -> None:
    for user, account, labels, name, priority in (
        ("alice", "research/nlp", {"team": "nlp"}, "train", "High"),
        ("alice", "research/vision", {"team": "vision", "x": ""}, "train", "Low"),
        ("bob", "research", {"team": "nlp"}, "eval", "High"),
        ("bob", "researchers", {}, "", "Normal"),
    ):
        whose = {"user_id": user, "account": account, "labels": labels, "job_name": name}
        await client.submit(**whose, priority=priority, hold=True)
    cases = {
        "user_id=alice": [2, 1],
        "account=research": [3, 2, 1],
        "account=research/nlp": [1],
        "label=team": [3, 2, 1],
        "label=team=nlp": [3, 1],
        "label=team&label=x": [2],
        "label=x=": [2],
        "name=train": [2, 1],
        "user_id=alice&priority=high&state=queued&account=research&label=team=nlp&name=train": [1],
        "user_id=alice&name=eval": [],
        "user_id=carol": [],
    }
    for query, numbers in cases.items():
        page = await client.get(f"/jobs?{query}")
        assert [job["number"] for job in page["jobs"]] == numbers, query
        assert page["total"] == len(numbers)


async def test_a_long_list_is_read_page_by_page(client: Client) -> None:
    jobs = [{"user_id": ("alice", "bob")[n % 2], "command": "true", "hold": True} for n in range(25)]
    await client.ask("POST", "/jobs/batch", {"jobs": jobs}, status=201)
    every, bobs = range(25, 0, -1), range(24, 0, -2)
    for filters, numbers in (("", every), ("user_id=bob&", bobs), ("state=Queued&", every)):
        seen, cursor = [], ""
        while cursor is not None:
            page = await client.get(f"/jobs?{filters}limit=7{cursor and '&cursor=' + cursor}")
            seen += [job["number"] for job in page["jobs"]]
            assert page["total"] == len(numbers)
            cursor = page["next_cursor"]
        assert seen == list(numbers)


async def test_a_cursor_that_is_not_ours_is_refused(client: Client) -> None:
    for _ in range(3):
        await client.submit(hold=True)
    cursor = (await client.get("/jobs?limit=1"))["next_cursor"]
    flipped = ("A" if cursor[0] != "A" else "B") + cursor[1:]
    for given in ("x", "", "%ff", flipped, cursor[:-4], f"{cursor}&user_id=alice"):
        answer = await client.ask("GET", f"/jobs?cursor={given}", status=422)
        assert answer.json["errors"][0]["parameter"] == "cursor"


NO_FILTERS = [
    ("color=red", "there are: account, array, cursor, label, limit"),
    ("state=Sleeping", "there are Queued, Scheduled"),
    ("state=", "there is no state ''"),
    ("priority=highest", "there are Low, Normal, High, Urgent"),
    ("limit=0", ">= 1"),
    ("limit=1001", "<= 1000"),
    ("limit=99999999999999999999999", "<= 1000"),
    ("limit=ten", "Expected `int`"),
    ("limit=1&limit=2", "once"),
    ("user_id=", "length >= 1"),
    ("user_id=%00", "not text"),
    ("array=1", "there is no job 1"),
    ("array=x", "is no job"),
    ("tasks=perhaps", "Expected `bool"),
]


async def test_an_unknown_filter_or_value_is_refused(client: Client) -> None:
    for query, words in NO_FILTERS:
        fault = (await client.ask("GET", f"/jobs?{query}", status=422)).json["errors"][0]
        assert words in fault["detail"]
        assert fault["parameter"] == query.partition("=")[0]


async def test_routes_without_parameters_refuse_them(client: Client) -> None:
    job = await client.submit(hold=True)
    for path in ("/queue", f"/jobs/{job['id']}", "/nodes", "/shares"):
        await client.ask("GET", f"{path}?x=1", status=422)
    await client.ask("DELETE", f"/jobs/{job['id']}?raeson=typo", status=422)
    assert (await client.get("/jobs/1"))["state"] == "Queued"


# --- change and cancel --------------------------------------------------------------------------------


async def test_a_waiting_job_is_changed(client: Client) -> None:
    await client.gate()
    job = await client.submit(hold=True)
    path = f"/jobs/{job['id']}"
    assert "held" in (await client.get(path))["reason"]
    changed = (await client.ask("PATCH", path, {"priority": "low", "time_limit_s": 60, "hold": False})).json
    assert (changed["priority"], changed["time_limit_s"], changed["hold"], changed["version"]) == (
        "Low",
        60,
        False,
        3,
    )
    assert (await client.get(path))["priority"] == "Low"
    free = await client.ask("PATCH", path, {"time_limit_s": None})
    assert free.json["time_limit_s"] is None
    same = await client.ask("PATCH", path, {"priority": "Low"}, status=200)
    assert same.json["version"] == free.json["version"]


async def test_a_change_that_cannot_be_is_refused(client: Client) -> None:
    job = await client.submit(hold=True)
    cases: list[tuple[Any, list[str]]] = [
        ({}, [""]),
        ({"priority": None}, ["/priority"]),
        ({"priority": "top"}, ["/priority"]),
        ({"time_limit_s": 0}, ["/time_limit_s"]),
        ({"hold": "yes"}, ["/hold"]),
        ({"gpu_count": 2, "state": "Completed"}, ["/gpu_count", "/state"]),
    ]
    for body, pointers in cases:
        answer = await client.ask("PATCH", f"/jobs/{job['id']}", body, status=422)
        assert answer.pointers == pointers
    assert (await client.get("/jobs/1"))["version"] == 1


async def test_a_change_may_depend_on_the_version(client: Client) -> None:
    job = await client.submit(hold=True)
    path = f"/jobs/{job['id']}"
    stale = await client.ask("PATCH", path, {"priority": "High"}, headers={"If-Match": '"7"'}, status=412)
    assert "version 1, not 7" in stale.json["detail"]
    for header in ('W/"1"', '""', '"x"'):
        await client.ask("PATCH", path, {"priority": "High"}, headers={"If-Match": header}, status=412)
    await client.ask("PATCH", path, {"priority": "High"}, headers={"If-Match": "1"}, status=400)
    await client.ask("PATCH", path, {"priority": "High"}, headers={"If-Match": '"9", "1"'}, status=200)
    await client.ask("DELETE", path, headers={"If-Match": '"1"'}, status=412)
    await client.ask("DELETE", path, headers={"If-Match": "*"}, status=200)


async def test_a_job_is_cancelled_with_a_reason(client: Client) -> None:
    job = await client.submit(command="sleep 60", grace_period_s=0, environment={"A": "1"})
    await client.scheduler.until(job["id"], "Running")
    answer = await client.ask("DELETE", f"/jobs/{job['id']}?reason=wrong%20data", status=200)
    cancelled = answer.json
    assert (cancelled["state"], cancelled["reason"]) == ("Cancelled", "cancelled by owner: wrong data")
    assert cancelled["environment"] == {"A": "1"}
    assert cancelled["allocation_state"] == "releasing"
    assert cancelled["completed_at"] is not None
    assert answer.headers["ETag"] == f'"{cancelled["version"]}"'
    await client.scheduler.quiet()
    assert (await client.get("/jobs/1"))["allocation_state"] is None


async def test_cancelling_an_unknown_job_is_refused(client: Client) -> None:
    await client.ask("DELETE", f"/jobs/{UNKNOWN}", status=404)
    await client.ask("PATCH", f"/jobs/{UNKNOWN}", {"hold": True}, status=404)


async def test_a_job_that_has_ended_cannot_be_cancelled_or_changed(client: Client) -> None:
    job = await client.submit(hold=True)
    await client.ask("DELETE", f"/jobs/{job['id']}", status=200)
    answer = await client.ask("DELETE", f"/jobs/{job['id']}", status=409)
    assert answer.json["detail"] == "job 1 has already ended: Cancelled"
    await client.ask("PATCH", f"/jobs/{job['id']}", {"priority": "High"}, status=409)


# --- all at once --------------------------------------------------------------------------------------


async def test_ten_parallel_submissions_are_ten_jobs(client: Client) -> None:
    jobs = await asyncio.gather(*(client.submit(user_id=f"user-{n}") for n in range(10)))
    assert sorted(job["number"] for job in jobs) == list(range(1, 11))
    assert len({job["id"] for job in jobs}) == 10
    for job in jobs:
        await client.scheduler.until(job["id"], "Completed")


async def test_reads_and_writes_mix(client: Client) -> None:
    async def write() -> None:
        job = await client.submit(hold=True)
        assert (await client.get(f"/jobs/{job['id']}"))["id"] == job["id"]

    async def read() -> None:
        page = await client.get("/jobs")
        assert page["total"] >= len(page["jobs"])
        await client.get("/queue")
        await client.get("/shares")

    await asyncio.gather(*(story() for _ in range(15) for story in (write, read)))
    assert (await client.get("/jobs"))["total"] == 15


async def test_of_five_parallel_cancels_one_succeeds(client: Client) -> None:
    job = await client.submit(hold=True)
    answers = await asyncio.gather(*(client.ask("DELETE", f"/jobs/{job['id']}") for _ in range(5)))
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409, 409]


async def test_five_jobs_are_cancelled_in_parallel(client: Client) -> None:
    jobs = [await client.submit(hold=True) for _ in range(5)]
    await asyncio.gather(*(client.ask("DELETE", f"/jobs/{job['id']}", status=200) for job in jobs))
    assert (await client.get("/jobs?state=Cancelled"))["total"] == 5
