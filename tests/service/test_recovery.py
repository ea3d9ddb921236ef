"""Folding the log for a question about the past, beside a scheduler that leads."""

from __future__ import annotations

import asyncio

import pytest

from horizon.core.state import digest
from horizon.service.recovery import SLICE_EVENTS, SLICE_JOBS, GivenUp, fold_until, jobs_in, let_go
from horizon.store.memory import Log, MemoryStore
from tests.core.spec import given


def a_log(events: int) -> MemoryStore:
    """Of jobs that wait."""
    world = given()
    while len(world.log) < events:
        world.submit(hold=True)
    log = Log()
    log.events, log.head = world.log, world.head
    return MemoryStore(log)


async def test_a_fold_ends_soon_after_nobody_wants_it_any_more() -> None:
    asked = 0

    def wanted() -> bool:
        nonlocal asked
        asked += 1
        return asked < 3

    events = 10 * SLICE_EVENTS
    with pytest.raises(GivenUp):
        await fold_until(a_log(events), events, events, wanted=wanted)
    assert asked == 3


async def test_a_state_is_let_go_of_in_pieces() -> None:
    events = 10 * SLICE_JOBS
    state = await fold_until(a_log(events), events, events)
    jobs = jobs_in(state)
    assert jobs == list(state.numbered)
    del state
    letting_go = asyncio.create_task(let_go(jobs))
    turns = 0
    while not letting_go.done():
        await asyncio.sleep(0)
        turns += 1
    assert (jobs, turns > 9) == ([], True)


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
