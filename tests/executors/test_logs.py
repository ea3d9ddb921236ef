"""Reading what a job writes, while it writes and afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from horizon.executors.port import AttemptKey, LogChunk
from tests.executors.box import Box, a_launch, held, new_key


async def followed(box: Box, key: AttemptKey, stream: str = "stdout", offset: int = 0) -> bytes:
    parts = []
    async for chunk in box.executor.follow_log(key, 0, stream, offset):
        assert chunk.data
        parts.append(chunk.data)
        offset += len(chunk.data)
        assert chunk.next_offset == offset
    return b"".join(parts)


async def test_output_is_read_from_any_offset(box: Box) -> None:
    launch = a_launch("printf 0123456789; printf error >&2")
    await box.run(launch)
    read = box.executor.read_log
    assert await read(launch.key, 0, "stdout", 0, 100) == LogChunk(b"0123456789", 10)
    assert await read(launch.key, 0, "stdout", 4, 3) == LogChunk(b"456", 7)
    assert await read(launch.key, 0, "stdout", 10, 3) == LogChunk(b"", 10)
    assert await read(launch.key, 0, "stdout", 99, 3) == LogChunk(b"", 99)
    assert await read(launch.key, 0, "stderr", 0, 100) == LogChunk(b"error", 5)


async def test_what_never_ran_has_no_output(box: Box) -> None:
    key = new_key()
    assert await box.executor.read_log(key, 0, "stdout", 0, 100) == LogChunk(b"", 0)
    assert await followed(box, key) == b""


async def test_there_are_two_streams(box: Box) -> None:
    with pytest.raises(ValueError, match="there are stdout and stderr"):
        await box.executor.read_log(new_key(), 0, "../../secret", 0, 100)


async def test_a_follower_from_the_launch_on_gets_every_byte_and_then_the_end(box: Box) -> None:
    launch = a_launch("for n in 1 2 3; do head -c 300000 /dev/zero; sleep 0.1; done; echo end")
    key = box.launch(launch)
    first, second = await asyncio.gather(followed(box, key), followed(box, key, offset=0))
    assert len(first) == 900_004
    assert first.endswith(b"end\n")
    assert first == second


async def test_following_goes_on_until_the_last_descendant_has_written(box: Box) -> None:
    key = box.launch(
        a_launch(
            "trap '' TERM; (trap 'sleep 0.3; echo late; exit' TERM; echo up; while :; do sleep 0.01; done) &"
            " exec sleep 1000"
        )
    )
    await box.printed(key, b"up")
    follower = asyncio.create_task(followed(box, key))
    await asyncio.sleep(0.1)
    box.executor.stop(key, 1)
    assert await follower == b"up\nlate\n"


async def test_what_ended_long_ago_is_followed_to_its_end(box: Box, tmp_path: Path) -> None:
    launch = a_launch("echo hello")
    await box.run(launch)
    await box.executor.close()
    await box.open(2)
    assert await followed(box, launch.key) == b"hello\n"


async def test_an_adopted_job_is_followed(box: Box) -> None:
    launch = a_launch("echo one; sleep 0.5; echo two")
    key = box.launch(launch)
    await box.printed(key, b"one")
    await box.executor.close()
    await box.open(2, held(launch))
    assert await followed(box, key, offset=4) == b"two\n"
