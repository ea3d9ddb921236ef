"""The log, read aloud: every type of event has its sentence."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.evolve import evolve
from horizon.core.model import Array, Exit, IndexRange, Inventory, Placement, Priority
from horizon.core.policy import Policy
from horizon.core.refused import OF_CONSEQUENCE
from horizon.core.sentences import sentence
from horizon.core.snapshot import dump, load
from horizon.core.state import State
from tests.core.spec import SECOND, T0, World, given, job_id, node, spec
from tests.core.worlds import live

HOUR = 3_600 * SECOND
AT = T0 + 25 * HOUR


def world() -> World:
    """Jobs 1 of alice and 2 of bob, and array 3 of carol with tasks 4 (3_0) and 5 (3_7)."""
    made = given().submit(gpu_count=2, job_name="train").submit("bob", priority=Priority.URGENT)
    return made.submit("carol", job_name="sweep", array=Array((IndexRange(0, 0), IndexRange(7, 7))))


J1, J2, J3, TASK = job_id(1), job_id(2), job_id(3), job_id(5)
SENTENCES: list[tuple[ev.Event, str]] = [
    (
        ev.JobSubmitted(job_id="x", number=6, spec=spec(gpu_count=2, gpu_type="H100", job_name="eval")),
        "alice of default submitted job 6 (eval): 2 H100 GPUs, Normal",
    ),
    (
        ev.JobSubmitted(job_id="x", number=6, spec=spec(gpu_count=0, cpu_cores=1, account="r/nlp")),
        "alice of r/nlp submitted job 6: 1 core, Normal",
    ),
    (
        ev.JobSubmitted(job_id="x", number=6, spec=spec(array=Array((IndexRange(0, 3),)))),
        "alice of default submitted array 6 of 4 tasks: 1 GPU, Normal",
    ),
    (ev.JobHeld(job_id=J1), "alice's job 1 (train) was held by ann"),
    (ev.JobHeld(job_id=TASK, reason="bad data"), "carol's task 3_7 (sweep) was held by ann: bad data"),
    (ev.JobReleased(job_id=J3), "carol's array 3 (sweep) was released by ann"),
    (
        ev.JobReleased(job_id=J2, begin_reached=True),
        "bob's job 2 may start from now on: what it waited for has come",
    ),
    (
        ev.JobUpdated(job_id=J2, priority=Priority.LOW, time_limit_s=7_200, reason="a demo"),
        "bob's job 2 was given priority Low and a time limit of 2h00m by ann: a demo",
    ),
    (ev.JobUpdated(job_id=J2, time_limit_s=0), "bob's job 2 was given no time limit by ann"),
    (
        ev.JobReserved(job_id=J2, start_us=AT, nodes=("node-1", "node-2")),
        "bob's job 2 was planned for node-1, node-2 from 2023-11-15T23:13:20+00:00",
    ),
    (
        ev.JobScheduled(
            job_id=J1, attempt=1, allocation=(Placement("node-1", ("a", "b")),), cycle=1, now_us=1, rank=1,
            score=0.0, cause=ev.Cause.BACKFILL,
        ),
        "alice's job 1 (train) was given 2 GPUs on node-1: it filled a gap",
    ),
    (ev.JobStarted(job_id=J1, attempt=2), "alice's job 1 (train) started, attempt 2"),
    (ev.CheckpointRecorded(job_id=J1, attempt=1), "alice's job 1 (train) saved its work"),
    (
        ev.TimeLimitReached(job_id=J1, attempt=1, time_limit_s=60),
        "alice's job 1 (train) reached its time limit of 1m00s and is being stopped",
    ),
    (
        ev.PreemptionRequested(job_id=J1, attempt=1, by=J2, reason="it has priority Urgent"),
        "alice's job 1 (train) was asked to make way for job 2 of bob: it has priority Urgent",
    ),
    (
        ev.AllocationOverdue(job_id=J1, attempt=1, until_us=AT),
        "what alice's job 1 (train) holds should have been free by now, and is planned with by "
        "2023-11-15T23:13:20+00:00",
    ),
    (
        ev.RequeueRequested(job_id=J1, attempt=1, by="ann", reason="new driver"),
        "alice's job 1 (train) is being stopped to go back to the queue, as ann asked: new driver",
    ),
    (
        ev.JobPreempted(job_id=J1, attempt=1, by=J2, lost_gpu_us=2 * HOUR),
        "alice's job 1 (train) was preempted by job 2 of bob; 2.0 GPU-hours lost",
    ),
    (
        ev.JobPreempted(job_id=J1, attempt=1, by=TASK, lost_gpu_us=90 * SECOND),
        "alice's job 1 (train) was preempted by task 3_7 of carol; 1m30s of GPU time lost",
    ),
    (
        ev.JobRequeued(job_id=J1, cause=ev.RequeueCause.RETRY, reason="exit code 3", not_before_us=AT),
        "alice's job 1 (train) went back to the queue: exit code 3; it waits until 2023-11-15T23:13:20+00:00",
    ),
    (ev.JobCompleted(job_id=J1, attempt=1, exit=Exit(exit_code=0)), "alice's job 1 (train) completed"),
    (ev.JobFailed(job_id=J1, reason="exit code 3"), "alice's job 1 (train) failed: exit code 3"),
    (
        ev.JobCancelled(job_id=J1, by="ann", reason="wrong data"),
        "alice's job 1 (train) was cancelled by ann: wrong data",
    ),
    (ev.AllocationReleased(job_id=J1, attempt=1), "what alice's job 1 (train) held is free again"),
    (
        ev.BlobsErased(job_id=J1, digests=("ab",), by="ann", kept=("cd",), reason="a slip"),
        "ann erased the environment and script of alice's job 1 (train) but for what others need: a slip",
    ),
    (
        ev.NodeRegistered(node="n", inventory=node("n", 8)),
        "node n joined with 8 H100, 128 cores",
    ),
    (ev.NodeChanged(node="n", inventory=Inventory("n", 1, 1)), "node n came back changed, with 1 core"),
    (ev.NodeLost(node="n", reason="no heartbeat"), "node n was lost: no heartbeat"),
    (ev.NodeCordoned(node="n", by="ann", reason="fan"), "node n takes no new work, as ann asked: fan"),
    (
        ev.NodeCordoned(node="n", by="ann", drain=True, deadline_us=AT),
        "node n is to be emptied by 2023-11-15T23:13:20+00:00, as ann asked",
    ),
    (ev.NodeResumed(node="n", by="ann", reason="new fan"), "node n takes work again, as ann asked: new fan"),
    (
        ev.DeviceFailed(node="n", device="GPU-1", by="executor", reason="XID 79"),
        "GPU GPU-1 of n is not to be used any more, says executor: XID 79",
    ),
    (ev.DeviceRecovered(node="n", device="GPU-1", by="ann"), "GPU GPU-1 of n may be used again, says ann"),
    (
        ev.BookingMade(booking="b", nodes=("n", "m"), start_us=T0, end_us=AT, by="ann", reason="fans"),
        "ann booked n, m from 2023-11-14T22:13:20+00:00 to 2023-11-15T23:13:20+00:00: fans",
    ),
    (ev.BookingEnded(booking="b", by="ann", reason="done"), "booking b was ended by ann: done"),
    (ev.BookingEnded(booking="b", by="its end", cycle=7), "the time of booking b is over"),
    (ev.ShareSet(path="r/nlp", weight=3), "account r/nlp was given weight 3 by ann"),
    (ev.ShareSet(path="r/bob", weight=3, user=True), "user r/bob was given weight 3 by ann"),
    (
        ev.QuotaSet(path="r", max_gpus=8, guaranteed_gpus=4, reason="budget"),
        "account r may hold 8 GPUs at most and is guaranteed 4, as ann set: budget",
    ),
    (ev.QuotaSet(path="r"), "account r may hold any number of GPUs, as ann set"),
    (ev.PolicySet(version=2, policy=Policy(), by="ann"), "the policy became version 2, set by ann"),
    (
        ev.LeaderElected(epoch=3, host="h", pid=7, version="0.1.0", config_digest="", decisions=1),
        "Horizon 0.1.0 on h (process 7) leads in epoch 3",
    ),
    (
        ev.SigningKeySet(key="horizon/00+0a+AQ==", by="scheduler"),
        "checkpoints of the log are signed with horizon/00+0a+AQ== from here on",
    ),
    (
        ev.PartitionArchived(
            first=1, last=9, previous="00", tip="ab", frontier="cd", keys=(), file="log.jsonl", sha256="ef",
            by="ann", reason="full disk",
        ),
        "ann archived events 1 to 9 in log.jsonl: full disk",
    ),
    (
        ev.CommandRefused(
            command="Cancel", target=f"job/{J1}", kind="conflict", detail="job 1 has ended", by="bob",
            reason="mine",
        ),
        "bob asked to cancel alice's job 1 (train): mine; that was refused: job 1 has ended",
    ),
    (
        ev.CommandRefused(
            command="SetPolicy", target="policy", kind="stale", detail="read again", by="bob",
            asked={"strict": True, "min_runtime_s": 7},
        ),
        "bob asked to change the policy (strict yes, min_runtime_s 7); that was refused: read again",
    ),
    *(
        (
            ev.CommandRefused(
                command="Update", target=f"job/{J2}", kind="conflict", detail="no", by="ann", asked=asked
            ),
            f"ann asked {words}; that was refused: no",
        )
        for asked, words in (
            ({}, "to change bob's job 2"),
            ({"hold": True}, "to hold bob's job 2"),
            ({"hold": False}, "to release bob's job 2"),
            ({"priority": "High"}, "to give bob's job 2 priority High"),
            ({"time_limit_s": 60, "hold": True}, "to give bob's job 2 a time limit of 1m00s and to hold it"),
            ({"priority": "Low", "time_limit_s": 0}, "to give bob's job 2 priority Low and no time limit"),
        )
    ),
]  # fmt: skip


def said(event: ev.Event, made: World) -> str:
    return sentence(made.state, replace(made.log[0], event=event, actor="ann"))


@pytest.mark.parametrize(("event", "words"), SENTENCES, ids=lambda value: type(value).__name__)
def test_an_event_is_told_in_a_sentence(event: ev.Event, words: str) -> None:
    assert said(event, world()) == words


def test_every_type_of_event_has_its_sentence() -> None:
    assert {type(event) for event, _ in SENTENCES} == set(ev.EVENT_TYPES)


@pytest.mark.parametrize("command", sorted(OF_CONSEQUENCE, key=lambda one: one.__name__))
def test_every_command_that_may_be_refused_can_be_told_of(command: type[Any]) -> None:
    refused = ev.CommandRefused(
        command=command.__name__, target="node/n", kind="conflict", detail="", by="bob"
    )
    assert said(refused, world()).startswith("bob asked to ")


@pytest.mark.parametrize("seed", range(3))
def test_whole_lives_are_told_with_what_is_known_at_their_end(seed: int) -> None:
    made = live(seed).world
    told = [sentence(made.state, one) for one in made.log]
    assert all(one and not one.endswith(".") and "\n" not in one for one in told)


@pytest.mark.parametrize("seed", range(3))
def test_what_was_told_of_an_event_is_told_of_it_for_ever(seed: int) -> None:
    made = live(seed).world
    state, then = State(), []
    for one in made.log:
        evolve(state, one)
        then.append(sentence(state, one))
    assert then == [sentence(made.state, one) for one in made.log]


def test_a_priority_that_is_changed_later_changes_no_sentence_about_the_past() -> None:
    made = world()
    asked = ev.PreemptionRequested(job_id=J1, attempt=1, by=J2, reason="job 2 of bob has priority Urgent")
    gone = ev.JobPreempted(job_id=J1, attempt=1, by=J2, lost_gpu_us=HOUR)
    before = [said(asked, made), said(gone, made)]
    made.when(cmd.Update(J2, priority=Priority.LOW))
    assert [said(asked, made), said(gone, made)] == before


def told(made: World) -> list[str]:
    return [sentence(made.state, one) for one in made.log[-len(made.happened) :]]


def test_a_policy_is_told_by_what_it_changed() -> None:
    made = given().when(cmd.SetPolicy(Policy()))
    assert told(made) == ["the policy became version 1, with what holds by default, set by owner"]
    made.policy(min_runtime_s=0, strict=True, gpu_cost={"H100": 2_000})
    assert told(made) == [
        "the policy became version 2 with strict yes instead of no, gpu_cost H100 2000 instead of none, "
        "min_runtime_s 0 instead of 60, set by owner"
    ]
    first, _ = made.log[-2:]
    made.policy(min_runtime_s=5)
    assert told(made) == ["the policy became version 3 with min_runtime_s 5 instead of 0, set by owner"]
    assert sentence(made.state, first).startswith("the policy became version 1, with what")


def test_a_weight_and_a_quota_are_told_by_what_they_changed() -> None:
    made = given().when(cmd.SetShare("r/nlp", weight=3, max_gpus=8, guaranteed_gpus=4))
    assert told(made) == [
        "account r/nlp was given weight 3 instead of 1 by test",
        "account r/nlp may hold 8 GPUs at most instead of any number of GPUs and is guaranteed 4 instead of "
        "0, as test set",
    ]
    made.when(cmd.SetShare("r/nlp", weight=3, guaranteed_gpus=0, reason="budget"))
    assert told(made) == [
        "account r/nlp was given weight 3 by test: budget",
        "account r/nlp may hold 8 GPUs at most and is guaranteed 0 instead of 4, as test set: budget",
    ]


def test_a_snapshot_keeps_what_settings_took_the_place_of() -> None:
    made = given().policy(min_runtime_s=0).when(cmd.SetShare("r/nlp", weight=3, max_gpus=8))
    parts = dump(made.state)
    loaded = load(parts.contents, parts.columns, memoryview(b"".join(parts.records)))
    assert loaded.replaced == made.state.replaced
    assert [sentence(loaded, one) for one in made.log] == [sentence(made.state, one) for one in made.log]


def test_no_cause_of_a_start_is_left_out() -> None:
    for cause in ev.Cause:
        scheduled = next(one for one, _ in SENTENCES if isinstance(one, ev.JobScheduled))
        assert said(replace(scheduled, cause=cause), world())
