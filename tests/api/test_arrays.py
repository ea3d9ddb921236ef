"""Arrays: how they are written, and what they are over HTTP."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horizon.api import arrays
from horizon.core import limits
from horizon.core.model import Array, IndexRange
from tests.api.client import Client
from tests.api.conftest import Bare

# --- how they are written -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "indices", "limit"),
    [
        ("7", [7], 0),
        ("0-3", [0, 1, 2, 3], 0),
        ("0-9:4", [0, 4, 8], 0),
        ("0-9:4,9", [0, 4, 8, 9], 0),
        ("1,3,5-7%2", [1, 3, 5, 6, 7], 2),
        ("5-5", [5], 0),
        ("0-1%100000", [0, 1], 100_000),
        ("1000000000", [1_000_000_000], 0),
    ],
)
def test_what_is_an_array(text: str, indices: list[int], limit: int) -> None:
    array = arrays.parse(text)
    assert [index for one in array.ranges for index in one.indices] == indices
    assert array.limit == limit


NO_ARRAYS = [
    ("", "at character 1"),
    ("a", "at character 1: 'a'"),
    ("1,", "at character 3"),
    ("1,,2", "at character 3"),
    ("1-", "at character 1"),
    ("-1", "at character 1"),
    ("1 ,2", "at character 1"),
    ("1,2:3", "at character 3"),
    ("0,9-5", "at character 3: '9-5' ends before it begins"),
    ("0-9:0", "a step must be 1 or more"),
    ("0-9,9", "at character 5: 9 comes after 9"),
    ("5,3", "at character 3: 3 comes after 5"),
    ("0-9:4,8", "at character 7: 8 comes after 8"),
    ("1000000001", "1,000,000,000 at most"),
    ("99999999999", "at character 1"),
    ("9" * 5_000, "at character 1"),
    ("٣", "at character 1"),
    ("0-100000", "100,001 tasks"),
    ("1%", "at character 3"),
    ("1%0", "at character 3"),
    ("1%100001", "at character 3"),
    ("1%2%3", "at character 3"),
    ("1%٣", "at character 3"),
    (",".join(map(str, range(1_001))), "1,001 ranges"),
]


@pytest.mark.parametrize(("text", "words"), NO_ARRAYS)
def test_what_is_no_array_says_where(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as refusal:
        arrays.parse(text)
    assert len(str(refusal.value)) < 300


@st.composite
def some_arrays(draw: st.DrawFn) -> Array:
    ranges, least = [], 0
    for _ in range(draw(st.integers(1, 5))):
        first = draw(st.integers(least, least + 100))
        count, step = draw(st.integers(1, 20)), draw(st.integers(1, 5))
        one = IndexRange(first, first + (count - 1) * step, step if count > 1 else 1)
        ranges.append(one)
        least = one.last + 1
    return Array(tuple(ranges), draw(st.integers(0, 1_000)))


@given(some_arrays())
def test_an_array_is_read_as_it_is_written(array: Array) -> None:
    assert arrays.parse(str(array)) == array


def test_the_longest_text_there_can_be_is_taken() -> None:
    step, last = 1_000_000, limits.ARRAY_INDEX_MAX
    widest = [f"{last - step * n - 1}-{last - step * n}:1000000000" for n in range(limits.ARRAY_RANGES_MAX)]
    text = ",".join(reversed(widest)) + "%100000"
    arrays.parse(text)
    assert len(text) <= arrays.TEXT_LENGTH_MAX


# --- over HTTP ----------------------------------------------------------------------------------------


def counts(job: dict[str, Any]) -> dict[str, int]:
    return {state: count for state, count in job["tasks"].items() if count}


async def test_an_array_is_answered_with_its_tasks(client: Client) -> None:
    job = await client.submit(array="0-9:2,20%3", hold=True)
    assert (job["number"], job["array"], job["array_number"], job["array_index"]) == (
        1,
        "0-9:2,20%3",
        None,
        None,
    )
    assert counts(job) == {"total": 6, "queued": 6}
    assert {**await client.get("/jobs/1"), "reason": None} == job
    task = await client.get("/jobs/1_20")
    assert (task["number"], task["array"], task["array_number"], task["array_index"], task["tasks"]) == (
        7,
        None,
        1,
        20,
        None,
    )
    assert await client.get(f"/jobs/{task['id']}") == await client.get("/jobs/7") == task
    after = await client.submit(hold=True)
    assert after["number"] == 8


async def test_a_task_that_is_not_there_is_not_found(client: Client) -> None:
    await client.submit(array="0-9:2", hold=True)
    await client.submit(hold=True)
    for name in ("1_1", "1_10", "7_0", "2_0", "99_0"):
        problem = await client.get(f"/jobs/{name}", 404)
        assert problem["detail"] == f"there is no job {name}"
    for name in ("1_", "_1", "1_-1", "1_2_3", "1-2"):
        await client.get(f"/jobs/{name}", 400)


async def test_every_task_is_run_with_its_index(client: Client) -> None:
    job = await client.submit(
        command="echo $HORIZON_ARRAY_INDEX; exit $HORIZON_ARRAY_INDEX", array="0,7-8", gpu_count=2
    )
    array = await client.scheduler.until(job["id"], "Failed")
    assert counts(array) == {"total": 3, "completed": 1, "failed": 2}
    for index in (0, 7, 8):
        task = await client.get(f"/jobs/1_{index}")
        assert task["exit_code"] == index
        logs = await client.ask("GET", f"/jobs/1_{index}/logs", status=200)
        assert logs.body == f"{index}\n".encode()
        events = (await client.get(f"/jobs/1_{index}/events"))["events"]
        assert [event["type"] for event in events][:2] == ["JobSubmitted", "JobScheduled"]


async def test_an_array_writes_nothing_itself(client: Client) -> None:
    await client.submit(array="5-9", hold=True)
    for query in ("", "?follow=1"):
        problem = await client.get(f"/jobs/1/logs{query}", 404)
        assert problem["detail"] == "job 1 is an array and writes nothing itself: name a task, such as 1_5"


async def test_an_array_is_changed_and_cancelled_as_a_whole(client: Client) -> None:
    await client.submit(command="sleep 60", array="0-3%2", gpu_count=1, grace_period_s=0)
    for index in (0, 1):
        await client.scheduler.until(f"1_{index}", "Running")
    changed = (await client.ask("PATCH", "/jobs/1", {"priority": "High", "hold": True}, status=200)).json
    assert (changed["priority"], changed["hold"]) == ("High", True)
    assert [(await client.get(f"/jobs/1_{index}"))["priority"] for index in range(4)] == ["High"] * 4
    holds = [(await client.get(f"/jobs/1_{index}"))["hold"] for index in range(4)]
    assert holds == [False, False, True, True]
    one = (await client.ask("DELETE", "/jobs/1_3", status=200)).json
    assert (one["state"], one["array_index"]) == ("Cancelled", 3)
    whole = (await client.ask("DELETE", "/jobs/1?reason=enough", status=200)).json
    assert (whole["state"], whole["reason"]) == ("Cancelled", "cancelled by owner: enough")
    assert counts(whole) == {"total": 4, "cancelled": 4}
    assert {**await client.get("/jobs/1"), "completed_at": None} == {**whole, "completed_at": None}
    await client.ask("DELETE", "/jobs/1", status=409)
    await client.scheduler.quiet()


async def test_tasks_that_ended_stay_as_they_are_when_their_array_is_cancelled(client: Client) -> None:
    await client.submit(command="test $HORIZON_ARRAY_INDEX = 0 || sleep 60", array="0-1", grace_period_s=0)
    await client.scheduler.until("1_0", "Completed")
    await client.scheduler.until("1_1", "Running")
    whole = (await client.ask("DELETE", "/jobs/1", status=200)).json
    assert counts(whole) == {"total": 2, "completed": 1, "cancelled": 1}
    assert counts(await client.get("/jobs/1")) == counts(whole)


async def test_what_only_a_task_can_do_is_refused_to_an_array(client: Client) -> None:
    await client.submit(array="0-1", hold=True)
    for verb in ("requeue", "checkpoint"):
        problem = (await client.ask("POST", f"/jobs/1/{verb}", status=409)).json
        assert "name one of its tasks" in problem["detail"]


async def test_a_batch_may_make_100_000_tasks(client: Client) -> None:
    job = {"user_id": "alice", "command": "true"}
    halves = [{**job, "array": "1-50000"}, {**job, "array": "1-50001"}]
    answer = await client.ask("POST", "/jobs/batch", {"jobs": halves}, status=422)
    assert answer.pointers == ["/jobs"]
    assert (await client.get("/jobs"))["total"] == 0
    few = [{**job, "hold": True, "array": "1-3"} for _ in range(2)]
    answer = await client.ask("POST", "/jobs/batch", {"jobs": few}, status=201)
    assert [job["number"] for job in answer.json["jobs"]] == [1, 5]


# --- in lists -----------------------------------------------------------------------------------------


async def names(client: Client, query: str) -> list[str]:
    """What is listed, page by page, with tasks as people call them; the total must agree."""
    found: list[str] = []
    cursor = ""
    while cursor is not None:
        page = await client.get(f"/jobs?{query}&limit=3{cursor and '&cursor=' + cursor}")
        for job in page["jobs"]:
            task = job["array_number"] is not None
            found.append(f"{job['array_number']}_{job['array_index']}" if task else str(job["number"]))
        cursor = page["next_cursor"]
    assert page["total"] == len(found), query
    return found


async def test_an_array_stands_for_its_tasks_that_wait_or_have_ended(client: Client) -> None:
    await client.submit(command="test $HORIZON_ARRAY_INDEX = 0 || sleep 60", array="0-5%2", grace_period_s=0)
    await client.scheduler.until("1_0", "Completed")
    for index in (1, 2):
        await client.scheduler.until(f"1_{index}", "Running")
    await client.submit(hold=True)
    tasks = [f"1_{index}" for index in (5, 4, 3, 2, 1, 0)]
    cases = {
        "": ["8", "1_2", "1_1", "1"],
        "user_id=alice": ["8", "1_2", "1_1", "1"],
        "state=Queued": ["8", "1"],
        "state=Running": ["1_2", "1_1"],
        "state=Running&user_id=alice": ["1_2", "1_1"],
        "state=Completed": ["1"],
        "state=Failed": [],
        "state=Queued,Running": ["8", "1_2", "1_1", "1"],
        "state=Completed,Running&user_id=alice": ["1_2", "1_1", "1"],
        "tasks=1": ["8", *tasks],
        "tasks=true&state=Queued": ["8", *tasks[:3]],
        "tasks=1&user_id=alice": ["8", *tasks],
        "array=1": tasks,
        "array=1&state=Queued": tasks[:3],
        "array=1&state=Running": tasks[3:5],
        "array=1&user_id=alice": tasks,
        "array=1&tasks=0": tasks[3:5],
        "array=1&tasks=0&state=Completed": [],
        "array=1&user_id=bob": [],
    }  # fmt: skip
    for query, expected in cases.items():
        assert await names(client, query) == expected, query


async def test_a_list_of_tasks_is_of_an_array(client: Client) -> None:
    await client.submit(hold=True)
    await client.submit(array="0-1", hold=True)
    for name, words in (
        ("1", "job 1 is no array"),
        ("2_0", "job 2_0 is no array"),
        ("9", "there is no job 9"),
    ):
        fault = (await client.ask("GET", f"/jobs?array={name}", status=422)).json["errors"][0]
        assert (fault["parameter"], fault["detail"]) == ("array", words)


async def test_tasks_are_named_in_the_order_and_by_what_they_hold(client: Client) -> None:
    await client.submit(command="sleep 60", array="4-5", gpu_count=8, grace_period_s=0)
    await client.scheduler.until("1_4", "Running")
    (waiting,) = (await client.get("/queue/order"))["jobs"]
    assert (waiting["array_number"], waiting["array_index"], waiting["number"]) == (1, 5, 3)
    holder = (await client.get("/gpus"))["gpus"][0]["job"]
    assert (holder["array_number"], holder["array_index"], holder["number"]) == (1, 4, 2)


async def test_an_array_of_100_000_tasks_is_one_entry(bare: Bare) -> None:
    engine, http = bare
    await engine.start()
    body = {"user_id": "alice", "command": "true", "array": "0-99999"}
    async with http.post("/api/v1/jobs", json=body) as response:
        assert response.status == 201
    page = await (await http.get("/api/v1/jobs")).json()
    assert (page["total"], [job["tasks"]["total"] for job in page["jobs"]]) == (1, [100_000])
    page = await (await http.get("/api/v1/jobs?array=1&limit=2")).json()
    assert (page["total"], [job["array_index"] for job in page["jobs"]]) == (100_000, [99_999, 99_998])
    async with http.delete("/api/v1/jobs/1") as response:
        assert (await response.json())["tasks"]["cancelled"] == 100_000
    await engine.stop()
