"""Every lawful history passes the audit, and what breaks a rule is named."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from horizon.core import events as ev
from horizon.core.audit import fault
from horizon.core.evolve import evolve
from horizon.core.model import Array, Dependency, DependencyKind, IndexRange, Inventory, JobSpec, Placement
from horizon.core.policy import Policy
from horizon.core.state import State
from tests.core.spec import OK, World, given, job_id
from tests.core.worlds import live


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_every_lawful_history_passes(first: int) -> None:
    for seed in range(first, first + 10):
        state = State(epoch=1)  # these worlds have no leader
        for recorded in live(seed).world.log:
            assert fault(state, recorded) is None
            evolve(state, recorded)


def world() -> World:
    """Job 1 runs on two GPUs, job 2 waits, job 3 is done, 4 is an array of two."""
    made = given().submit(gpu_count=2).cycle().started()
    made.submit(gpu_count=8).submit(gpu_count=1).cycle().started(3).ended(3)
    made.submit(array=Array((IndexRange(0, 1),)), hold=True)
    return made


def judged(made: World, event: ev.Event, **fields: Any) -> str | None:
    """What the audit says of this as the next event."""
    state = made.state
    version = state.stream_version(event.stream) + 1
    last = made.log[-1]
    recorded = replace(
        last, position=state.position + 1, stream=event.stream, stream_version=version, event=event
    )
    return fault(state, replace(recorded, **fields))


def scheduled(number: int, *placements: Placement, attempt: int = 1) -> ev.JobScheduled:
    return ev.JobScheduled(
        job_id=job_id(number), attempt=attempt, allocation=placements, cycle=9, now_us=0, rank=1, score=0.0
    )


def gpus(*indices: int, node: str = "node-1", **fields: Any) -> Placement:
    return Placement(node, tuple(f"GPU-{node}-{index}" for index in indices), **fields)


def test_what_may_come_next_is_no_fault() -> None:
    made = world()
    for event in (
        scheduled(2, gpus(*range(8))),
        ev.JobCompleted(job_id=job_id(1), attempt=1, exit=OK),
        ev.JobCancelled(job_id=job_id(4), by="owner"),
        ev.LeaderElected(epoch=2, host="h", pid=1, version="", config_digest="", decisions=1),
    ):
        epoch = 2 if isinstance(event, ev.LeaderElected) else 1
        words = judged(made, event, epoch=epoch)
        assert words is None or (isinstance(event, ev.JobScheduled) and "holds" in words)


def submitted(number: int, id: int, **fields: Any) -> ev.JobSubmitted:
    return ev.JobSubmitted(job_id=job_id(id), number=number, spec=JobSpec("eve", "true", **fields))


@pytest.mark.parametrize(
    ("event", "fields", "words"),
    [
        (ev.JobHeld(job_id=job_id(2)), {"recorded_at_us": 0}, "time goes back"),
        (ev.JobHeld(job_id=job_id(2)), {"causation": 999}, "its cause, 999, comes after it"),
        (ev.JobHeld(job_id=job_id(2)), {"stream": "job/x"}, "is filed under job/x"),
        (ev.JobHeld(job_id=job_id(2)), {"stream_version": 9}, "goes from version"),
        (ev.JobHeld(job_id=job_id(2)), {"epoch": 2}, "without the election of its leader"),
        (ev.JobHeld(job_id=job_id(2)), {"epoch": 0}, "epoch 0 comes after epoch 1"),
        (
            ev.JobHeld(job_id=job_id(2)),
            {"correlation_id": b"x" * 16},
            "does not belong to the story of job 2",
        ),
        (
            ev.LeaderElected(epoch=1, host="", pid=1, version="", config_digest="", decisions=1),
            {},
            "is elected in epoch 1",
        ),
        (submitted(9, 9), {}, "job 9 comes where job 7 is due"),
        (submitted(7, 1), {"stream_version": 1}, "the id of job 7 is taken"),
        (submitted(7, 3, array=Array((IndexRange(0, 0),))), {"stream_version": 1}, "is taken"),
        (submitted(7, 9, depends_on=(Dependency("x", DependencyKind.AFTER_OK),)), {}, "never submitted"),
        (ev.JobHeld(job_id="x"), {}, "job x was never submitted"),
        (
            ev.JobStarted(job_id=job_id(2), attempt=1),
            {},
            "JobStarted cannot happen to job 2, which is Queued",
        ),
        (ev.JobHeld(job_id=job_id(1)), {}, "JobHeld cannot happen to job 1, which is Running"),
        (ev.JobStarted(job_id=job_id(4), attempt=1), {}, "cannot happen to job 4, an array"),
        (ev.JobCompleted(job_id=job_id(1), attempt=2, exit=OK), {}, "attempt 2 of job 1, where 1 is due"),
        (scheduled(2, gpus(*range(8)), attempt=2), {}, "attempt 2 of job 2, where 1 is due"),
        (scheduled(2, gpus(0)), {}, "asks for 8 GPUs and is given 1"),
        (scheduled(2, gpus(*[0] * 8)), {}, "asks for 8 GPUs and is given 1"),
        (scheduled(2, gpus(*range(8))), {}, "which job 1 holds"),
        (scheduled(2, gpus(*range(8), node="node-9")), {}, "placed on node-9, which is not there"),
        (scheduled(2, Placement("node-1", tuple("abcdefgh"))), {}, "given a, which is not on node-1"),
        (scheduled(2, gpus(*range(8), cpu_cores=999)), {}, "more cores or memory"),
        (scheduled(5, gpus(7)), {"stream_version": 2}, "while something keeps it from starting"),
        (ev.AllocationReleased(job_id=job_id(3), attempt=1), {}, "holds nothing"),
        (ev.PreemptionRequested(job_id=job_id(1), attempt=1, by="x", reason=""), {}, "makes way for a job"),
        (ev.NodeLost(node="node-9", reason=""), {}, "node node-9 was never registered"),
        (ev.NodeChanged(node="a", inventory=Inventory("b", 1, 1)), {}, "has the inventory of b"),
        (ev.BookingEnded(booking="b", by="owner"), {}, "booking b ends, and is not there"),
        (ev.BookingMade(booking="b", nodes=("x",), start_us=1, end_us=2, by=""), {}, "never registered"),
        (
            ev.CommandRefused(command="Cancel", target="job/x", kind="conflict", detail="", by="owner"),
            {},
            "a change of job/x, of which nothing is known",
        ),
        (ev.PolicySet(version=7, policy=Policy(), by=""), {}, "the policy goes from version 0 to 7"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ev.Event) else None,
)
def test_a_broken_rule_is_named(event: ev.Event, fields: dict[str, Any], words: str) -> None:
    said = judged(world(), event, **fields)
    assert said is not None
    assert words in said, said
