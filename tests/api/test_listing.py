"""What is listed is the same whether jobs at rest are in memory or in a snapshot; few are decoded for it."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest

from horizon.api.listing import AT_REST_SLICE, Filters, find
from horizon.core import at_rest
from horizon.core.at_rest import Numbered
from horizon.core.model import JobState, Priority
from horizon.core.snapshot import dump
from horizon.core.state import ArrayState, Job, State
from tests.core.snapshots import loaded
from tests.core.spec import given, node
from tests.core.worlds import ACCOUNTS, USERS, live

SEEDS = (3, 7, 11)


@cache
def states(seed: int) -> tuple[State, State]:
    state = live(seed).world.state
    return state, loaded(dump(state))


def some_filters(rng: random.Random, state: State) -> Filters:
    def one_of(choices: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(rng.sample(choices, rng.choice((0, 0, 1, 2))))

    return Filters(
        one_of(tuple(JobState)),  # type: ignore[arg-type]
        one_of(tuple(Priority)),  # type: ignore[arg-type]
        rng.choice((None, None, *USERS, "nobody")),
        rng.choice((None, None, *ACCOUNTS, "a/y", "")),
        rng.choice(((), (), ("team",), ("team=x",))),
        rng.choice((None, None, "train", "")),
        rng.choice((0, 0, *state.arrays)),
        rng.random() < 0.5,
    )


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_filter_finds_the_same(seed: int) -> None:
    plain, snapshot = states(seed)
    assert isinstance(snapshot.numbered, Numbered)
    rng = random.Random(seed)
    for _ in range(300):
        filters, limit = some_filters(rng, plain), rng.choice((1, 3, 200))
        below, total = rng.choice((None, rng.randint(1, len(plain.numbered)))), rng.choice((None, 9))
        wanted = await find(plain, filters, limit, below, total)
        assert await find(snapshot, filters, limit, below, total) == wanted, (seed, filters, limit, below)


@cache
def many_at_rest() -> State:
    world = given(node(gpus=8))
    for number in range(AT_REST_SLICE // 2):
        world.submit("ann" if number % 50 else "bob", account="lab", gpu_count=1)
    while len(world.state.queue):
        for job in world.cycle().starts():
            world.started(job).ended(job)
    return world.submit("bob", account="lab", gpu_count=8).state


@pytest.mark.parametrize(
    ("states", "user_id", "found", "decoded"),
    [
        ((JobState.QUEUED, JobState.RUNNING), None, 1, 0),
        ((JobState.FAILED,), None, 0, 0),
        ((JobState.COMPLETED,), "bob", 10, 10),
        ((), "bob", 11, 10),
        ((), "nobody", 0, 0),
    ],
)
async def test_a_list_decodes_what_is_on_it_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
    states: tuple[JobState, ...],
    user_id: str | None,
    found: int,
    decoded: int,
) -> None:
    state = loaded(dump(many_at_rest()))
    seen: list[bytes] = []

    def looked_at(record: bytes, arrays: dict[int, ArrayState], job_of: Any = at_rest.job_of) -> Job:
        seen.append(record)
        job: Job = job_of(record, arrays)
        return job

    monkeypatch.setattr(at_rest, "job_of", looked_at)
    filters = Filters(states, (), user_id, None, (), None, 0, False)
    assert (await find(state, filters, 1, None, None)).total == found
    assert len(seen) <= 1
    assert len((await find(state, filters, 100, None, None)).jobs) == found
    assert len(seen) == decoded
