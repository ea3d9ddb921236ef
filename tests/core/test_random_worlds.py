"""Seeded random lives of a small cluster, with the rules that must hold after every step."""

from __future__ import annotations

import random

import pytest

from horizon.core import commands as cmd
from horizon.core.model import AllocationState, Exit, JobState, Priority
from horizon.core.schedule import schedule
from tests.core.spec import World, given, job_id, node

SEEDS = range(60)
STEPS = 120
Q, S, R = JobState.QUEUED, JobState.SCHEDULED, JobState.RUNNING


def step(world: World, rng: random.Random) -> None:
    world.later(rng.choice([0, 0, 1, 30]))
    number = rng.randint(1, max(1, len(world.state.numbered)))
    job = world.state.job_numbered(number)
    match rng.randrange(10):
        case 0 | 1 | 2:
            world.submit(
                rng.choice("abc"),
                account=rng.choice(["x", "x/y", "z"]),
                gpu_count=rng.choice([1, 1, 2, 3, 6]),
                priority=rng.choice(list(Priority)),
                time_limit_s=rng.choice([0, 20]),
                max_retries=rng.choice([0, 1]),
                hold=rng.random() < 0.1,
                exclusive=rng.random() < 0.1,
                begin_at_us=world.now_us + rng.choice([0, 0, 40_000_000]),
            )
        case 3:
            world.when(cmd.Cancel(job_id(number)))
        case 4:
            changes = {"hold": rng.random() < 0.4, "priority": rng.choice(list(Priority))}
            world.when(cmd.Update(job_id(number), **changes))
        case 5 | 6 if job:
            world.started(number)
        case 7 | 8 if job:
            exit = rng.choice([Exit(exit_code=0), Exit(exit_code=1), Exit(signal=9)])
            kind = rng.choice([{}, {}, {"released": False}, {"lost": True}, {"started": False}])
            if kind.get("started") is not False or job.state is S:
                world.ended(number, exit, **kind)
        case 9 if job:
            if rng.random() < 0.5:
                world.when(cmd.Preempt(job_id(number), "someone", "because"))
            elif job.allocation_state is AllocationState.RELEASING:
                world.when(cmd.ReportReleased(job_id(number), job.attempt))
    world.cycle()


def check_nothing_idle_that_fits(world: World) -> None:
    """Work conserving: after a cycle, another one at the same moment finds nothing to start."""
    assert schedule(world.state, world.now_us).events == ()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_rules_hold_through_a_random_life(seed: int) -> None:
    rng = random.Random(seed)
    world = given(node("a", 4), node("b", 2), node("c", 4, "A100"))
    for number in range(STEPS):
        step(world, rng)
        if number % 10 == 0:
            world.cycle()
            check_nothing_idle_that_fits(world)
    world.check()
    waiting = {job.number for job in world.state.numbered if job.eligible}
    assert waiting == set(world.state.queue.order(1_000_000, world.now_us)), (
        f"seed {seed}: the queue lost a job"
    )


def test_random_lives_make_every_move_that_a_job_can_make() -> None:
    moves: set[tuple[JobState, JobState]] = set()
    for seed in SEEDS:
        rng = random.Random(seed)
        world = given(node("a", 4), node("b", 2), node("c", 4, "A100"))
        for _ in range(STEPS):
            step(world, rng)
        moves |= world.moves
    reachable = {
        (Q, S), (Q, JobState.CANCELLED),
        (S, R), (S, Q), (S, JobState.FAILED), (S, JobState.CANCELLED),
        (R, JobState.COMPLETED), (R, JobState.FAILED), (R, JobState.PREEMPTED), (R, Q),
        (R, JobState.CANCELLED),
        (JobState.PREEMPTED, Q),
    }  # fmt: skip
    assert moves == reachable
