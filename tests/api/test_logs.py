"""What a job wrote, over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.api.client import API, Client


async def done(client: Client, command: str, state: str = "Completed") -> str:
    job = await client.submit(command=command)
    await client.scheduler.until(job["id"], state)
    await client.scheduler.quiet()
    return f"/jobs/{job['id']}/logs"


async def text(client: Client, path: str) -> bytes:
    return (await client.ask("GET", path, status=200)).body


async def test_both_outputs_are_kept_apart_and_byte_for_byte(client: Client) -> None:
    logs = await done(client, "printf 'out\\377\\n'; printf err >&2")
    assert await text(client, logs) == b"out\xff\n"
    assert await text(client, f"{logs}?stream=stdout") == b"out\xff\n"
    assert await text(client, f"{logs}?stream=stderr") == b"err"
    answer = await client.ask("GET", logs)
    assert answer.headers["Content-Type"] == "text/plain"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert (await client.ask("HEAD", logs, status=200)).body == b""


async def test_output_is_read_from_an_offset(client: Client) -> None:
    logs = await done(client, "printf 0123456789")
    assert await text(client, f"{logs}?offset=4") == b"456789"
    assert await text(client, f"{logs}?offset=10") == b""
    assert await text(client, f"{logs}?offset=9223372036854775807&follow=1") == b""


@pytest.mark.parametrize("end", ["", "\n"])
async def test_the_tail_is_the_last_lines(client: Client, end: str) -> None:
    logs = await done(client, f"printf 'one\\ntwo\\n\\nfour{end and chr(92) + 'n'}'")
    lines = [b"one\n", b"two\n", b"\n", b"four" + end.encode()]
    for count in (0, 1, 2, 3, 4, 5, 100):
        assert await text(client, f"{logs}?tail={count}") == b"".join(lines[max(0, 4 - count) :]), count
    assert await text(client, f"{logs}?tail=2&follow=1") == b"".join(lines[2:])


async def test_the_tail_of_a_long_output_is_found(client: Client) -> None:
    logs = await done(client, "seq 1 300000")
    whole = b"".join(b"%d\n" % number for number in range(1, 300_001))
    assert await text(client, logs) == whole
    for count in (1, 1_000, 99_999):
        assert await text(client, f"{logs}?tail={count}") == b"".join(whole.splitlines(True)[-count:])


async def test_following_gives_the_output_as_it_comes(client: Client, tmp_path: Path) -> None:
    job = await client.submit(
        command=f"echo one; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; echo two"
    )
    url = f"{API}/jobs/{job['id']}/logs?follow=1"
    async with client.scheduler.http.get(url) as response:  # it may not have been started yet
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert await response.content.readline() == b"one\n"
        (tmp_path / "go").touch()
        assert await response.content.read() == b"two\n"
    assert (await client.scheduler.until(job["id"], "Completed"))["exit_code"] == 0


async def test_a_job_without_an_attempt_has_no_output_yet(client: Client) -> None:
    job = await client.submit(hold=True)
    problem = await client.get(f"/jobs/{job['id']}/logs", 404)
    assert "never started" in problem["detail"]
    assert "follow=1" in problem["detail"]
    await client.scheduler.cancel(job["id"])
    for query in ("", "?follow=1"):
        assert "has ended" in (await client.get(f"/jobs/{job['id']}/logs{query}", 404))["detail"]


async def test_following_a_job_that_is_cancelled_before_its_start_ends(client: Client) -> None:
    job = await client.submit(hold=True)
    async with client.scheduler.http.get(f"{API}/jobs/1/logs?follow=1") as response:
        await client.scheduler.cancel(job["id"])
        assert await asyncio.wait_for(response.read(), 5) == b""


async def test_a_follower_that_leaves_is_noticed(client: Client) -> None:
    job = await client.submit(command="sleep 60", grace_period_s=0)
    await client.scheduler.until(job["id"], "Running")
    before = asyncio.all_tasks()
    response = await client.scheduler.http.get(f"{API}/jobs/1/logs?follow=1")
    response.close()
    await client.scheduler.eventually(lambda: len(asyncio.all_tasks()) <= len(before), "the follower gone")


async def test_a_stopping_server_breaks_a_follower_off(client: Client) -> None:
    """A clean end would say that the job is over; a broken one lets the client take it up again."""
    job = await client.submit(command="sleep 60", grace_period_s=0)
    await client.scheduler.until(job["id"], "Running")
    response = await client.scheduler.http.get(f"{API}/jobs/1/logs?follow=1")
    await client.scheduler.runner.app.shutdown()
    with pytest.raises(aiohttp.ClientError):
        await asyncio.wait_for(response.read(), 5)


async def test_every_attempt_has_its_own_output(client: Client) -> None:
    job = await client.submit(command="echo $HORIZON_ATTEMPT; exit 1", max_retries=1)
    await client.scheduler.until(job["id"], "Failed")
    await client.scheduler.quiet()
    logs = f"/jobs/{job['id']}/logs"
    assert await text(client, f"{logs}?attempt=1") != b""
    assert await text(client, f"{logs}?attempt=2") == await text(client, logs) != b""
    assert "had 2 attempts" in (await client.get(f"{logs}?attempt=3", 404))["detail"]
    assert "no rank 1" in (await client.get(f"{logs}?rank=1", 404))["detail"]


NO_PARTS = (
    "stream=both", "tail=-1", "tail=1&offset=1", "offset=-1", "offset=9223372036854775808", "attempt=0",
    "rank=-1", "follow=maybe", "lines=5",
)  # fmt: skip


async def test_a_part_of_the_output_that_cannot_be_is_refused(client: Client) -> None:
    await client.submit()
    for query in NO_PARTS:
        await client.ask("GET", f"/jobs/1/logs?{query}", status=422)
