"""Folding the log for a question about the past, beside a scheduler that leads."""

from __future__ import annotations

import asyncio

from horizon.core.state import digest
from horizon.service.recovery import SLICE_EVENTS, fold_until
from horizon.store.memory import Log, MemoryStore
from tests.core.spec import given


async def test_a_long_fold_leaves_their_turn_to_others() -> None:
    """The store of this test never waits for anything, so nobody else has a turn unless the fold gives it."""
    world = given()
    while len(world.log) < 10 * SLICE_EVENTS:
        world.submit(hold=True)
    log = Log()
    log.events, log.head = world.log, world.head
    fold = asyncio.create_task(fold_until(MemoryStore(log), len(world.log), len(world.log)))
    turns = 0
    while not fold.done():
        await asyncio.sleep(0)
        turns += 1
    assert digest(await fold) == digest(world.state)
    assert turns >= 10
